"""The one file that benchmarks/gpu.py writes: what was measured on, and every phase with its command and its record."""

import json
import pathlib
from typing import Any

from benchmarks.gpu_summary import INCOMPLETE
from lgjax.runtime import files, places
from lgjax.runtime.errors import UsageError

NAME = "all.json"
ON, PHASES = "measured_on", "phases"
LINES = 20  # of a log, at most


def read(folder: pathlib.Path, on: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Returns the phases that a folder holds, by name.

    Raises:
      UsageError: they were measured on something else than `on`, or the file is none of ours.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        whole = json.loads(path.read_text())
        before, phases = whole[ON], whole[PHASES]
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path} is no record of this program. Name another --output.") from error
    if differing := [
        f"{name} {before.get(name)!r}, here {value!r}" for name, value in on.items() if before.get(name) != value
    ]:
        raise UsageError(
            f"{path} was measured with {'; '.join(differing)}. Such are never mixed: name another --output."
        )
    return phases


def write(folder: pathlib.Path, on: dict[str, str], phases: dict[str, dict[str, Any]]) -> None:
    """Writes the phases that a folder holds."""
    what = "Asks a GPU all that is to be known of speed there: benchmarks/gpu.py."
    files.atomic_write(folder / NAME, json.dumps({"what": what, ON: on, PHASES: phases}, indent=1) + "\n")


def taken(output: pathlib.Path) -> dict[str, Any] | None:
    """Takes away what a phase wrote, and returns the record; None where there is none.

    Until all is measured, lgjax.bench writes beside its output.
    """
    paths = (output.with_suffix(".incomplete.json"), output)
    found = [record(path) for path in paths]
    for path in paths:
        path.unlink(missing_ok=True)
    return next((each for each in found if each is not None), None)


def record(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns what a file holds; None where that is no record."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def lacking(record: dict[str, Any]) -> tuple[int, int]:
    """Counts what a record has not measured as often as asked, and how often all of that is still to be measured."""
    return len(record.get(INCOMPLETE, ())), record.get("turns_left", 0)


def said(log: pathlib.Path, failed: bool) -> tuple[str, ...]:
    """Returns what a phase warned of, once each, or the last lines of one that failed; no places of this machine."""
    lines = places.told(log.read_text(errors="replace")).replace("\r", "\n").splitlines()
    if failed:
        return tuple(lines[-LINES:])
    return tuple(dict.fromkeys(line.strip() for line in lines if line.startswith("warning: ")))
