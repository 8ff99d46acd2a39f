"""The record of a folder of outputs, run.json: of which inputs they were, for `eval` and to resolve BIDS URIs."""

import json
import pathlib
from collections.abc import Sequence

from lgjax.runtime import files, places
from lgjax.runtime.errors import InputError
from lgjax.scans import sources

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
