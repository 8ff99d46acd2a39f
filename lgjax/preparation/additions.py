"""What a folder of prepared scans holds already: it stays, or the command is refused; nothing is dropped in silence."""

import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from lgjax.preparation import dataset
from lgjax.preparation import recipe as recipes
from lgjax.preparation.audit import listed
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import names, sources
from lgjax.scans.sources import Subject

SETTINGS = "settings.json"
FREE = (
    "person",
    "calibration",
)  # settings that may change: they say who is in which split, not how a scan is corrected


class Kept(NamedTuple):
    """A finished subject of an earlier command."""

    subject: Subject  # as it was prepared
    scan: dict[str, Any]  # the record of the first pass
    slices: dict[str, Any]  # the record of the second


def held(folder: pathlib.Path, given: Collection[str]) -> list[str]:
    """Lists the subjects, by identifier, whose corrected scan is in a folder and who are not among those `given`."""
    end = f"_{dataset.SCAN}.json"
    found = (path.name.removesuffix(end) for place in names.places(folder) for path in place.glob(f"*{end}"))
    return [name for name in found if name not in given]


def refuse(folder: pathlib.Path, others: Sequence[str]) -> None:
    """Raises UsageError where a folder holds subjects that would be dropped."""
    if others:
        raise UsageError(
            f"{folder} holds {len(others)} subjects that --input does not have: {listed(others)}. Give a folder with "
            "both; or --add to keep them; or remove their folders, or name another --output."
        )


def keep(folder: pathlib.Path, others: Sequence[str]) -> list[Kept]:
    """Reads the finished subjects that stay in a folder.

    Raises:
      UsageError: one of them is unfinished, or was cut into slices in another way.
    """
    if not others:
        return []
    digest = recipe(folder).digest
    subjects = {subject.identifier: subject for subject in sources.prepared(str(folder))}
    kept, unfinished = [], []
    for name in others:
        scan, slices = (dataset.record(folder, name, part) for part in (dataset.SCAN, dataset.SLICES))
        if name in subjects and scan and slices and slices.get("RecipeSHA256") == digest:
            kept.append(Kept(subjects[name], scan, slices))
        else:
            unfinished.append(name)
    if unfinished:
        problem = (
            f"{len(unfinished)} subjects of {folder} that --input does not have are unfinished: {listed(unfinished)}"
        )
        raise UsageError(f"{problem}. Finish them first, with the --input that has them.")
    return kept


def recipe(folder: pathlib.Path) -> Recipe:
    """Reads how the subjects that stay were prepared; raises UsageError where none is finished."""
    path = folder / dataset.RECIPE
    if not path.exists():
        raise UsageError(f"{folder} holds nothing that is finished, to --add to. Run its first command to the end.")
    return recipes.read(path)


def settings(folder: pathlib.Path) -> dict[str, Any]:
    """Reads what was asked for when the folder was begun; {} where nothing is there yet."""
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", "Use another --output") from error


def check_settings(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Raises UsageError where the folder holds scans that were prepared otherwise."""
    before = settings(folder)
    differing = [name for name in {**before, **wanted} if before.get(name) != wanted.get(name) and name not in FREE]
    if before and differing:
        raise UsageError(f"{folder} was prepared otherwise ({', '.join(differing)}). Use another --output.")


def write_settings(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Notes how the folder is prepared, before anything else is written."""
    files.atomic_write(folder / SETTINGS, json.dumps(wanted, indent=2) + "\n")
