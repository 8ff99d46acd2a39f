"""Tables that people keep beside scans, as spreadsheets save them: read where that is possible, doubts told."""

import csv
import pathlib
import re
from typing import NamedTuple

_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


class Table(NamedTuple):
    """The rows of a table by column, in lower case, and what is doubtful about them."""

    rows: list[dict[str, str]]
    notes: tuple[str, ...] = ()


def read(path: pathlib.Path, key: str = "participant_id") -> Table:
    """Reads a tab-separated table; one that cannot be read has no rows and a note, since scans need no table.

    Args:
      path: the table.
      key: the column without which no row can be used.
    """
    try:
        return parse(path.name, path.read_bytes(), key)
    except OSError as error:
        return Table([], (f"{path.name} is not used, since it cannot be read: {error.strerror or error}",))


def parse(name: str, content: bytes, key: str = "participant_id") -> Table:
    """Reads the content of a table, as `read` does."""
    try:
        text, notes = _decoded(content)
        lines = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
        separator = _separator(lines[0]) if lines else "\t"
        cells = list(csv.reader(lines, delimiter=separator))
    except (ValueError, csv.Error) as error:
        return Table([], (f"{name} is not used, since it cannot be read: {error}",))
    if separator != "\t":
        notes.append(f"is separated by {separator!r} rather than by tabs")
    columns = [cell.strip().lower() for cell in cells[0]] if cells else []
    if key not in columns:
        return Table([], (f"{name} is not used, since it has no column {key}",))
    rows = [dict(zip(columns, (cell.strip() for cell in row), strict=False)) for row in cells[1:]]
    if odd := [str(number) for number, row in enumerate(cells[1:], 2) if len(row) != len(columns)]:
        notes.append(f"has rows of another length than its first ({', '.join(odd[:5])}{', ...' if odd[5:] else ''})")
    return Table([row for row in rows if row.get(key)], tuple(f"{name} {note}" for note in notes))


def _decoded(content: bytes) -> tuple[str, list[str]]:
    """Returns the text, and a note where it is not UTF-8; raises UnicodeDecodeError for what is no text."""
    marked = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "")
    if not marked and b"\0" in content[:200]:
        marked = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    if marked:
        text = content.decode(marked)
        return text, [] if marked == "utf-8-sig" else ["is read as UTF-16; UTF-8 is usual"]
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError:
        return content.decode("latin-1"), ["is no UTF-8, and is read as Latin-1"]


def _separator(first: str) -> str:
    return next((mark for mark in "\t;," if mark in first), "\t")
