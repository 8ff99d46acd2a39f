"""Numbers of things in words."""


def counted(count: int, noun: str) -> str:
    """Returns `1 scan` or `2 scans`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
