"""Whose maps lie in an output folder: those of another method are never replaced."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lgjax.derivatives.sidecar import ANOMALY, DONE, SPACE, file, lesions
from lgjax.runtime.errors import UsageError
from lgjax.scans import names, sources
from lgjax.scans.subject import Subject

_ASKED = (*DONE, "InputSHA256", "BrainFrom", "Quality")  # of each of many sidecars that are kept in memory
SETTINGS, VERSION = "other weights or settings", "another version of lgjax"  # that maps can be of


def checked_folder(folder: pathlib.Path, method: str) -> dict[str, dict[str, Any]]:
    """Reads the sidecars of all maps in a folder, by identifier, as `sidecars` does.

    Raises:
      UsageError: the folder holds maps of another method than the one that is about to write there.
    """
    found = {}
    for place in names.places(folder):
        for path in sorted(place.glob(f"*_{ANOMALY}.json")):
            seen = _read(path)
            _check(folder, path, seen, method)
            name = path.name.partition(f"_{SPACE}_")[0]
            if names.place(folder, name) == place:
                found[name] = seen
    return found


def check_scan(folder: pathlib.Path, identifier: str, method: str) -> None:
    """Raises UsageError where a folder holds one scan's map of another method."""
    path = file(folder, identifier, ANOMALY, "json")
    _check(folder, path, _read(path), method)


def as_before(folders: Sequence[pathlib.Path], subjects: Sequence[Subject]) -> list[Subject]:
    """Returns subjects, under the names of earlier versions where one of the folders holds maps of their scans so."""
    return [dataclasses.replace(one, identifier=one.earlier) if _is_there(folders, one) else one for one in subjects]


def _is_there(folders: Sequence[pathlib.Path], subject: Subject) -> bool:
    """Returns whether a folder holds maps of a scan under the name that earlier versions gave the scan."""
    if not subject.earlier:
        return False
    known = [_read(file(folder, subject.earlier, ANOMALY, "json")).get("InputSHA256") for folder in folders]
    return any(known) and sources.content(subject) in known


def contents(known: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns the SHA-256 of the scans whose maps have these sidecars, by identifier; "" of an unfinished scan."""
    return {name: str(seen.get("InputSHA256", "")) for name, seen in known.items()}


def sidecars(folder: pathlib.Path, identifiers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Reads of the sidecars of scans' maps in a folder what is asked here, by identifier; {}: a scan is unfinished."""
    return {name: _read(file(folder, name, ANOMALY, "json")) for name in identifiers}


def brains(known: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Returns where the brain masks of scans came from, by the sidecars of their maps."""
    return frozenset(seen["BrainFrom"] for seen in known if isinstance(seen.get("BrainFrom"), str))


def outdated(
    folder: pathlib.Path, known: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Lists the scans whose maps are not those of one detector, by what the maps are of: `SETTINGS` or `VERSION`.

    Args:
      folder: of the outputs.
      known: sidecars of the maps, from `sidecars`.
      about: what the sidecars of the detector say.
    """
    found: dict[str, list[str]] = {}
    for name, seen in known.items():
        differing = [key for key in DONE if key in about and seen.get(key) != about[key]]
        if not seen or (not differing and is_whole(folder, name, seen)):
            continue
        stated = any(key in seen for key in differing if key != "Version")  # an earlier version leaves later keys out
        found.setdefault(SETTINGS if stated else VERSION, []).append(name)
    return found


def is_whole(folder: pathlib.Path, identifier: str, seen: Mapping[str, Any]) -> bool:
    """Returns whether a scan has what earlier versions did not write: the table of lesions, and a light in its sidecar.

    The keys of `DONE` tell of p-values and promised volumes, which hang on the calibration.
    """
    return "Quality" in seen and file(folder, identifier, lesions(seen["MaskRate"]), "tsv").exists()


def told(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns what a sidecar says; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Reads of a sidecar what is asked here; {} for that of an unfinished scan: it is nobody's."""
    found = told(path) or {}
    return {key: found[key] for key in _ASKED if key in found} if isinstance(found.get("Method"), str) else {}


def _check(folder: pathlib.Path, path: pathlib.Path, seen: Mapping[str, Any], method: str) -> None:
    other = seen.get("Method", method)
    if other != method:
        raise UsageError(
            f"{folder} holds maps of {other} ({path.name}), and {method} would replace them. Use another output "
            f"folder, such as {folder / method}, or remove the maps of {other}."
        )
