"""The tags of a page."""

import html.parser


class Tags(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that they close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.seen if name == tag]
