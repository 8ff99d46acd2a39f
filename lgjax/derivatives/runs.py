"""The record of a folder of outputs, run.json: of which inputs they were, for `eval` and to resolve BIDS URIs."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from lgjax.runtime import files, places
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.finding import listing
from lgjax.scans.sources import Subject

NAME = "run.json"


def write(folder: pathlib.Path, inputs: Sequence[str]) -> None:
    """Notes the inputs of a restoration, as seen from the folder, beside those of earlier ones into it."""
    noted = [name if sources.is_phantom(name) else places.portable(name, folder) for name in inputs]
    content = {"Inputs": list(dict.fromkeys([*_noted(folder), *noted]))}
    files.atomic_write(folder / NAME, json.dumps(content, indent=2) + "\n")


def read(folder: pathlib.Path) -> list[str]:
    """Reads the inputs of the restorations in a folder; [] where none is noted.

    Raises:
      InputError: the record is damaged.
    """
    return [name if sources.is_phantom(name) else places.resolved(name, folder) for name in _noted(folder)]


def changed(
    folder: pathlib.Path, inputs: Sequence[str], subjects: Sequence[Subject], recorded: Mapping[str, str]
) -> list[str]:
    """Lists the scans, by identifier, that are other files than those whose results a folder holds.

    Args:
      folder: of the results.
      inputs: files and folders that the scans come from.
      subjects: the scans.
      recorded: SHA-256 of the scan of each result, by identifier.

    Raises:
      UsageError: the folder knows nothing of the inputs, and no scan is the recorded one, as in a data set that was
        moved: the results are of other people with the same names.
    """
    given = {one.identifier: sources.content(one) for one in subjects if recorded.get(one.identifier)}
    found = [name for name, content in given.items() if content and content != recorded[name]]
    if len(found) < sum(map(bool, given.values())):
        return found
    known = {os.path.abspath(name) for name in read(folder) if not sources.is_phantom(name)}
    if found and not all(os.path.abspath(os.path.expanduser(name)) in known for name in inputs):
        raise UsageError(
            f"{folder} holds results of other scans with the same names: {listing.shown(found)}. Name another "
            "output folder; or rename the scans, if both belong into one folder."
        )
    return found


def _noted(folder: pathlib.Path) -> list[str]:
    path = folder / NAME
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["Inputs"]
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            raise ValueError("Inputs is no list of texts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"cannot be read ({error})", "Remove it; eval needs --labels then") from error
    return content
