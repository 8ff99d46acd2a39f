"""Whose maps lie in an output folder: those of another method are never replaced."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from lgjax.derivatives.sidecar import ANOMALY, DONE, file
from lgjax.runtime.errors import UsageError
from lgjax.scans import names


def check_folder(folder: pathlib.Path, method: str) -> None:
    """Raises UsageError where a folder holds maps of another method than the one that is about to write there."""
    for place in names.places(folder):
        for path in sorted(place.glob(f"*_{ANOMALY}.json")):
            _check(folder, path, method)


def check_scan(folder: pathlib.Path, identifier: str, method: str) -> None:
    """Raises UsageError where a folder holds one scan's map of another method."""
    _check(folder, file(folder, identifier, ANOMALY, "json"), method)


def scans(folder: pathlib.Path, identifiers: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of the scans whose maps lie in a folder, by identifier."""
    found = _sidecars(folder, identifiers)
    return {name: str(seen.get("InputSHA256", "")) for name, seen in found.items()}


def brains(folder: pathlib.Path, identifiers: Iterable[str]) -> frozenset[str]:
    """Returns where the brain masks of the scans came from whose maps lie in a folder."""
    found = _sidecars(folder, identifiers).values()
    return frozenset(seen["BrainFrom"] for seen in found if isinstance(seen.get("BrainFrom"), str))


def outdated(folder: pathlib.Path, identifiers: Iterable[str], about: Mapping[str, Any]) -> list[str]:
    """Lists the scans whose maps, of the same method, other weights or settings gave: they are about to be replaced."""
    found = _sidecars(folder, identifiers)
    settings = [name for name in DONE if name in about]
    return [name for name, seen in found.items() if seen and any(seen.get(key) != about[key] for key in settings)]


def _sidecars(folder: pathlib.Path, identifiers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Reads the sidecars of the maps in a folder, by identifier."""
    return {name: _read(file(folder, name, ANOMALY, "json")) for name in identifiers}


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a sidecar; {} for that of an unfinished scan: it is nobody's."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("Method"), str) else {}


def _check(folder: pathlib.Path, path: pathlib.Path, method: str) -> None:
    other = _read(path).get("Method", method)
    if other != method:
        raise UsageError(
            f"{folder} holds maps of {other} ({path.name}), and {method} would replace them. Use another output "
            f"folder, such as {folder / method}, or remove the maps of {other}."
        )
