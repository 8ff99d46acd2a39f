"""Whose maps lie in an output folder: those of another method are never replaced."""

import json
import pathlib

from lgjax.derivatives.sidecar import ANOMALY, file
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


def _check(folder: pathlib.Path, path: pathlib.Path, method: str) -> None:
    try:
        found = json.loads(path.read_text())
        other = found["Method"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # an unfinished scan's: nobody's
    if other != method:
        raise UsageError(
            f"{folder} holds maps of {other} ({path.name}), and {method} would replace them. Use another --output, "
            f"such as {folder / method}, or remove the maps of {other}."
        )
