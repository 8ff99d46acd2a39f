"""A table that says which file is what: a line a scan, with its mask, its reference and who was scanned."""

import csv
import io
import os
import pathlib
from typing import NamedTuple

from lgjax.runtime import files
from lgjax.runtime.errors import UsageError

ENDINGS = (".tsv", ".csv", ".txt")
SPREADSHEETS = (".xlsx", ".xls", ".ods")
NEEDED = ("participant_id", "image")
COLUMNS = (*NEEDED, "mask", "reference", "lesion_kind", "person")
_ABSENT = ("", "n/a")


class Row(NamedTuple):
    """One line of the table; paths are absolute or from the working directory."""

    name: str  # the participant_id
    image: pathlib.Path | None
    mask: pathlib.Path | None
    reference: pathlib.Path | None
    kind: str
    person: str
    refused: str  # what is wrong with the line, and what to do; "": nothing


class SubjectTable(NamedTuple):
    """The lines of a table, and which columns it has."""

    rows: list[Row]
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def is_table(spec: str) -> bool:
    """Returns whether what a user gives is a table, by its name."""
    return spec.lower().endswith((*ENDINGS, *SPREADSHEETS)) and not pathlib.Path(spec).is_dir()


def read(path: pathlib.Path) -> SubjectTable:
    """Reads a table of scans, separated by tabs, commas or semicolons; its paths are relative to its own folder.

    A line that is wrong is refused alone. A column that is there decides, an empty cell included; what has no column
    is left to the names of files.

    Raises:
      UsageError: a needed column is missing, a column is there twice, or the table lists nothing or is no text.
      InputError: the file cannot be read.
    """
    if path.name.lower().endswith(SPREADSHEETS):
        raise UsageError(f"{path} is a spreadsheet. Save it as text with tabs, in UTF-8: table.tsv.")
    with files.faults(path):
        content = path.read_bytes()
    if b"\0" in content:
        raise UsageError(f"{path} is no table in UTF-8, for it holds zero bytes. Save it as UTF-8 text with tabs.")
    try:
        text = content.decode("utf-8-sig").lstrip()
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max("\t,;", key=text.partition("\n")[0].count))
        cells = [(lines.line_num, row) for row in lines if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a table: {error}. Save it as UTF-8 text with tabs.") from error
    columns = [cell.strip().lower() for cell in cells[0][1]] if cells else []
    _check_columns(path, columns)
    if len(cells) < 2:
        raise UsageError(f"{path} lists no scan: it has a line of column names alone. Add a line for each scan.")
    unknown = [column for column in columns if column not in COLUMNS]
    notes = (f"{path.name}: columns not used: {', '.join(unknown)}",) if unknown else ()
    return SubjectTable([_row(path, columns, *line) for line in cells[1:]], tuple(columns), notes)


def _check_columns(path: pathlib.Path, columns: list[str]) -> None:
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        held = f"It has {', '.join(columns)}" if any(columns) else "It is empty"
        told = f"{path} has no column {' and no column '.join(missing)}. {held}; known are {', '.join(COLUMNS)}"
        raise UsageError(f"{told}. Name the columns in the first line.")
    if twice := [column for column in COLUMNS if columns.count(column) > 1]:
        raise UsageError(f"{path} has the column {twice[0]} twice. Remove one of the two.")


def _row(path: pathlib.Path, columns: list[str], number: int, cells: list[str]) -> Row:
    """Makes a row of one line, paths from the working directory."""
    values = {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}
    values = {column: "" if value.lower() in _ABSENT else value for column, value in values.items()}
    where = {column: _place(path, values.get(column, "")) for column in ("image", "mask", "reference")}
    problem = ""
    if missing := [column for column in NEEDED if not values.get(column)]:
        problem = f"has no {' and no '.join(missing)}"
    elif len(cells) > len(columns) and any(cells[len(columns) :]):
        problem = f"has {len(cells)} cells for {len(columns)} columns"
    name = values.get("participant_id") or f"line{number}"
    refused = f"line {number} of {path.name} {problem}" if problem else ""
    return Row(name, **where, kind=values.get("lesion_kind", ""), person=values.get("person", ""), refused=refused)


def _place(path: pathlib.Path, cell: str) -> pathlib.Path | None:
    """Returns the path that a cell names."""
    return path.parent / os.path.expanduser(cell) if cell else None
