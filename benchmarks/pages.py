"""Pages of docs/ whose tables a script writes."""

from collections.abc import Mapping


def written(page: str, writer: str, found: Mapping[str, str]) -> str:
    """Returns a page with its tables replaced: each stands behind its mark, between empty lines.

    Args:
      page: in Markdown, with a mark `<!-- WRITER: NAME -->` for each table.
      writer: the name of the script.
      found: tables by name.

    Raises:
      ValueError: a mark is not there, or there twice.
    """
    for name, table in found.items():
        mark = f"<!-- {writer}: {name} -->\n\n"
        before, after = page.split(mark)
        _, after = after.split("\n\n", 1)
        page = f"{before}{mark}{table.rstrip()}\n\n{after}"
    return page
