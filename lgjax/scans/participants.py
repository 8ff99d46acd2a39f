"""What a cohort's table or the user says of its people: who was scanned twice, and who is not healthy."""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Sequence

from lgjax.runtime import files
from lgjax.runtime.errors import UsageError
from lgjax.scans import tables
from lgjax.scans.finding.listing import shown
from lgjax.scans.finding.subject_table import is_table
from lgjax.scans.names import identifier, subject
from lgjax.scans.sources import Subject

LOG = logging.getLogger(__name__)
_UNKNOWN = ("", "n/a", "na", "nan", "none", "unknown")
_HEALTHY = {"healthy", "control", "normal", "hc", "cn", "nc", "hv", "ctl", "ctrl", "no", "0"}
_PEOPLE = {"volunteer", "subject", "participant", "person", "people", "adult", "individual"}
_WITHOUT = {"lesion", "lesions", "finding", "findings", "pathology", "abnormality"}  # after "no"
_GROUPS = (  # columns that may tell who is ill
    *("lesion_kind", "diagnosis", "dx", "group", "participant_group", "pathology", "disease", "condition", "status"),
)
_ILL = re.compile(
    r"patient|case|glioma|gbm|tumou?r|lesion|stroke|ms$|sclerosis|disease|dementia|alzheimer|^ad$|mci|epilep|"
    r"schizo|depress|autis|park|injur|^tbi$",
    re.IGNORECASE,
)


def is_healthy(kind: str) -> bool:
    """Returns whether a subject's kind, as a table or a data set says, is none or a healthy one."""
    return kind.strip().lower() in _UNKNOWN or is_called_healthy(kind)


def is_called_healthy(kind: str) -> bool:
    """Returns whether a subject's kind is a healthy one, and not just unknown."""
    words = [word.removesuffix("s") for word in re.split(r"[\s_-]+", kind.strip().lower())]
    if words[0] == "no" and len(words) == 2:
        return words[1] in _WITHOUT
    return bool(_HEALTHY.intersection(words)) and _HEALTHY.union(_PEOPLE).issuperset(words)


def annotate(subjects: Sequence[Subject], specs: Sequence[str], person: str = "") -> list[Subject]:
    """Adds what participants.tsv in folders says of people, and whom `person` names.

    Args:
      subjects: found in `specs`.
      specs: files, folders or tables, see `sources.find`.
      person: a column of the table; or a regular expression, whose group is searched for in the name of each scan.
        "": the column `person`, if there is one.

    Raises:
      UsageError: there is no such column, a name that the expression does not fit, or two tables say different
        things of one participant.
    """
    rows = _merged(specs)
    pattern, column = (person, "") if "(" in person else ("", person.lower())
    columns = {name: None for row in rows.values() for name in row}
    if column and column not in columns:
        held = f"the table holds {', '.join(columns)}" if columns else f"{', '.join(specs)} holds no participants.tsv"
        raise UsageError(f"--person={person} is no column, for {held}; nor a regular expression with a (group).")
    for line in _doubts(subjects, rows):
        LOG.warning("%s", line)
    groups = _telling(rows)
    found = [_annotated(one, _row(one, rows), column, groups) for one in subjects]
    if pattern:
        found = [dataclasses.replace(one, person=_by_pattern(pattern, one.original)) for one in found]
    return found


def kinds(folder: str) -> dict[str, str]:
    """Returns the column lesion_kind of a folder's participants.tsv, by identifier; {} where there is no table."""
    return {name: row.get("lesion_kind", "") for name, row in _rows(_table(folder)).items()}


def _merged(specs: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the rows of all tables by identifier."""
    found: dict[str, dict[str, str]] = {}
    for path in dict.fromkeys(map(_table, specs)):
        for name, row in _rows(path).items():
            if found.setdefault(name, row) != row:
                raise UsageError(
                    f"the tables of {', '.join(specs)} differ about {name}. Prepare one folder after another."
                )
    return found


def _table(spec: str) -> pathlib.Path:
    """Returns where a table lies: the input itself; else participants.tsv in the folder, or beside the scan."""
    path = pathlib.Path(spec)
    if path.is_dir():
        return path / "participants.tsv"
    return path if is_table(path.name) else path.with_name("participants.tsv")


def _row(one: Subject, rows: dict[str, dict[str, str]]) -> dict[str, str]:
    """Returns what the table says of a subject: of the scan, of the person, of the name without its T2."""
    plain = identifier(re.sub(r"[_ -]t2w?$", "", one.original, flags=re.IGNORECASE))
    names = (one.identifier, subject(one.identifier), one.participant, plain)
    return next((rows[name] for name in names if name in rows), {})


def _doubts(subjects: Sequence[Subject], rows: dict[str, dict[str, str]]) -> list[str]:
    """Says which ill people of a table are none of the scans, where the table does not tell of some scans."""
    told = [_row(one, rows) for one in subjects]
    missing = [one.identifier for one, row in zip(subjects, told, strict=True) if not row]
    if not rows or not missing:
        return []
    if len(missing) == len(subjects):
        return ["participants.tsv tells of none of these scans: its participant_id is none of their names"]
    used, groups = set(map(id, told)), _telling(rows)
    ill = {
        row["participant_id"]: None
        for row in rows.values()
        if id(row) not in used and not is_healthy(_kind(row, groups))
    }
    if not ill:
        return []
    return [
        f"participants.tsv tells of ill people who are none of these scans ({shown(ill)}), and does not tell of "
        f"{shown(missing)}. Check its participant_id."
    ]


def _annotated(one: Subject, row: dict[str, str], column: str, groups: Sequence[str]) -> Subject:
    who, kind = row.get(column or "person", ""), _kind(row, groups)
    if who.lower() not in _UNKNOWN and (column or not one.person):
        one = dataclasses.replace(one, person=identifier(who))
    if kind.lower() in _UNKNOWN or (one.kind and (is_healthy(kind) or not is_healthy(one.kind))):
        return one
    return dataclasses.replace(one, kind="healthy" if is_healthy(kind) else kind)


def _kind(row: dict[str, str], groups: Sequence[str]) -> str:
    """Returns what a row says of health: an illness, if any of the columns says one."""
    said = [row[column] for column in groups if row.get(column, "").lower() not in _UNKNOWN]
    return next((value for value in said if not is_healthy(value)), said[0] if said else "")


def _telling(rows: dict[str, dict[str, str]]) -> list[str]:
    """Lists the columns that tell the healthy from the ill: one that says `young` and `old` does not."""
    found = []
    for column in _GROUPS:
        told = {row.get(column, "") for row in rows.values()}
        told = {value for value in told if value.lower() not in _UNKNOWN}
        if told and (column == _GROUPS[0] or any(is_healthy(value) or _ILL.search(value) for value in told)):
            found.append(column)
    return found


def _by_pattern(pattern: str, name: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise UsageError(f"--person={pattern}: {error}. Give a regular expression, such as (HC[0-9]+).") from error
    if match is None or not any(match.groups()):
        raise UsageError(f"--person={pattern} does not fit the name {name}. It must tell the person of every scan.")
    return identifier(next(filter(None, match.groups())))


def _rows(path: pathlib.Path) -> dict[str, dict[str, str]]:
    """Returns the rows of a table by identifier; none where there is no such file."""
    if not path.is_file():
        return {}
    with files.faults(path):
        content = path.read_bytes()
    found: dict[str, dict[str, str]] = {}
    for row in tables.parse(path.name, content).rows:  # what is doubtful in it is told by `sources.survey`
        name = row["participant_id"]
        keys = dict.fromkeys([identifier(name if name.startswith("sub-") else f"sub-{name}"), identifier(name)])
        row = _joined(next((found[key] for key in keys if key in found), {}), row)
        found |= dict.fromkeys(keys, row)
    return found


def _joined(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    """Joins two rows of one participant, as of two sessions: who is ill in one of them is ill."""
    ill = {column: first[column] for column in _GROUPS if not is_healthy(first.get(column, ""))}
    return {**first, **second, **ill}
