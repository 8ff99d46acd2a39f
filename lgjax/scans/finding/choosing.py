"""Which scans of a BIDS data set are wanted: by labels, and by the entities that PyBIDS knows them by."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans.finding.listing import Listing, shown
from lgjax.scans.subject import Subject

QUERY = "t2w"  # of a filter file: the only one whose scans are used
ENTITIES = {  # of a T2w scan: PyBIDS' names, and what stands in names of files
    "subject": "sub",
    "session": "ses",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "run": "run",
    "echo": "echo",
    "part": "part",
    "chunk": "chunk",
}
SAME = {"datatype": "anat", "suffix": "T2w"}  # of all scans that are used
ANY = "*"  # in a filter: the entity is there, whatever its value


class Wanted(NamedTuple):
    """What a user asks for; () and {} for all."""

    participants: Sequence[str] = ()  # labels without sub-
    sessions: Sequence[str] = ()  # labels without ses-
    entities: Mapping[str, Sequence[Any]] = {}  # from `read_filter`


def read_filter(path: pathlib.Path) -> dict[str, list[Any]]:
    """Reads the filter of T2w scans in a file as BIDS-Apps take it: of each entity the values that will do.

    Raises:
      InputError: the file cannot be read.
      UsageError: it names a query or an entity that is unknown here, or a value that is none.
    """
    with files.faults(path):
        content = path.read_bytes()
    try:
        queries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is no JSON: {error}", 'Write such as {"t2w": {"session": "01"}}') from error
    if not isinstance(queries, dict) or not all(isinstance(query, dict) for query in queries.values()):
        raise UsageError(f'{path}: expected {{"{QUERY}": {{ENTITY: VALUE, ...}}}}.')
    if others := [name for name in queries if name != QUERY]:
        raise UsageError(f"{path}: there is no query {others[0]!r}; scans are T2w, and their query is {QUERY!r}.")
    wanted = {}
    for name, value in queries.get(QUERY, {}).items():
        if name not in ENTITIES | SAME:
            raise UsageError(f"{path}: there is no entity {name!r}. Choose among {', '.join(ENTITIES | SAME)}.")
        wanted[name] = value if isinstance(value, list) else [value]
        if not all(value is None or (isinstance(value, str | int) and value is not True) for value in wanted[name]):
            raise UsageError(f"{path}: {name} is {json.dumps(value)}; expected labels, numbers or null.")
    return wanted


def choose(root: pathlib.Path, listing: Listing[Subject], wanted: Wanted) -> Listing[Subject]:
    """Keeps the scans that are wanted.

    Args:
      root: the data set.
      listing: its scans.
      wanted: what is asked for.

    Raises:
      UsageError: a participant or a session does not exist, or no scan is left.
    """
    known = [path.name.removeprefix("sub-") for path in sorted(root.glob("sub-*")) if path.is_dir()]
    _check_labels("participant", wanted.participants, known)
    found = [one for one in listing.found if _is_one_of(one, "subject", wanted.participants)]
    _check_labels("session", wanted.sessions, _values(found, "session"))
    found = [one for one in found if _is_one_of(one, "session", wanted.sessions)]
    if not found:
        raise UsageError(f"{root} holds no T2w scan of {_told(wanted.participants, 'sub')}.")
    chosen = [one for one in found if _fits(entities(one), wanted.entities)]
    if not chosen:
        have = [f"{name} {shown(_values(found, name)) or 'nowhere'}" for name in wanted.entities]
        raise UsageError(f"the filter leaves none of {len(found)} scans in {root}. They have {'; '.join(have)}.")
    return listing._replace(found=chosen)


def entities(subject: Subject) -> dict[str, str]:
    """Returns the entities in the name of a scan, by PyBIDS' names."""
    pairs = (pair.partition("-") for pair in subject.original.split("_"))
    values = {key: value for key, mark, value in pairs if mark}
    return {name: values[key] for name, key in ENTITIES.items() if key in values} | SAME


def _is_one_of(subject: Subject, entity: str, labels: Sequence[str]) -> bool:
    return not labels or entities(subject).get(entity) in labels


def _fits(found: Mapping[str, str], wanted: Mapping[str, Sequence[Any]]) -> bool:
    """Returns whether a scan has one of the wanted values of every entity."""
    return all(any(_is(found.get(name), value, name) for value in values) for name, values in wanted.items())


def _is(found: str | None, wanted: Any, entity: str) -> bool:
    """Returns whether a value is the wanted one; numbers are compared as such: run 1 is run-01."""
    if wanted is None or found is None:
        return found is wanted
    label = str(wanted).removeprefix(f"{ENTITIES.get(entity)}-")
    same_number = found.isdecimal() and label.isdecimal() and int(found) == int(label)
    return label in (ANY, found) or (entity in ("run", "echo", "chunk") and same_number)


def _values(subjects: Sequence[Subject], entity: str) -> list[str]:
    """Lists the values of an entity among scans."""
    return sorted({values[entity] for values in map(entities, subjects) if entity in values})


def _check_labels(kind: str, asked: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for the first label that does not exist."""
    for label in asked:
        if label not in known:
            there = f"There are {', '.join(known)}" if known else "There are none"
            raise UsageError(f"--{kind}-label {label}: there is no such {kind}. {there}.")


def _told(labels: Sequence[str], entity: str) -> str:
    return ", ".join(f"{entity}-{label}" for label in labels) or "anybody"
