"""A prepared data set on disk: corrected scans as a BIDS derivative, their slices as memory-mapped arrays, an index.

    P/settings.json                                 what was asked for, noted before anything else
    P/preprocessing.json                            how the scans were prepared (`recipe`), with the learnt histogram
    P/sub-X/anat/sub-X_desc-preproc_T2w.nii.gz      the scan on its own grid without its bias field, float32
    P/sub-X/anat/sub-X_desc-brain_mask.nii.gz
    P/sub-X/anat/sub-X_desc-slices_T2w.npy          [N, H, W] float32: axial slices as the model sees them
    P/sub-X/anat/sub-X_desc-slices_mask.npy         [N, H, W] bool: the brain in them
    P/sub-X/figures/sub-X_desc-qc_T2w.png           what a person looks at
    P/index.json                                    subjects, splits, slices and hashes; written last

Of a scan with a session, anat/ lies in sub-X/ses-Y/. A JSON beside each image and array is written after it and marks
it as done.
"""

import io
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from lgjax.preparation import recipe as recipes
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Slices
from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans import nifti
from lgjax.scans.names import figure, file
from lgjax.scans.volume import Volume

SCAN, SLICES = "desc-preproc_T2w", "desc-slices_T2w"
BRAIN, SLICES_MASK, PICTURE = "desc-brain_mask", "desc-slices_mask", "desc-qc_T2w"
RECIPE = "preprocessing.json"
FORMAT = 2  # of what is written beside a scan: 1 named places of the machine


class Entry(NamedTuple):
    """One subject of a prepared data set and its N slices."""

    identifier: str
    split: str  # train, calibration or test
    input_sha256: str  # of the raw scan
    slices_sha256: str  # of the file with the slices
    mask_sha256: str  # of the file with their brain masks
    index: tuple[int, ...]  # type: ignore[assignment]  # number of each slice in its scan, from inferior to superior
    mask_fraction: tuple[float, ...]  # of each slice's pixels
    affine: list[list[float]]  # [4, 4], (column, row, slice number) -> mm (RAS+)


class Index(NamedTuple):
    """What a prepared data set holds."""

    recipe: Recipe
    subjects: tuple[Entry, ...]


def is_prepared(folder: str | os.PathLike) -> bool:
    """Returns whether a folder is a complete prepared data set; an index.json of another program makes none."""
    path = pathlib.Path(folder, "index.json")
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError):  # said when it is read
        return True
    return isinstance(content, dict) and bool(content.keys() & {"recipe", "subjects"})


def write_index(folder: str | os.PathLike, index: Index) -> None:
    """Writes index.json, which marks the data set as complete."""
    content = {"recipe": recipes.as_json(index.recipe), "subjects": [entry._asdict() for entry in index.subjects]}
    files.atomic_write(pathlib.Path(folder, "index.json"), json.dumps(content) + "\n")


def read_index(folder: str | os.PathLike) -> Index:
    """Reads index.json.

    Raises:
      InputError: it is not there or damaged.
    """
    path = pathlib.Path(folder, "index.json")
    try:
        content = json.loads(path.read_text())
        entries = [Entry(**entry) for entry in content["subjects"]]
        subjects = [e._replace(index=tuple(e.index), mask_fraction=tuple(e.mask_fraction)) for e in entries]
        return Index(recipes.from_json(content["recipe"]), tuple(subjects))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read as the index of a prepared data set ({error!r})"
        raise InputError(path, problem, "Run lgjax.preprocess again, it goes on where it stopped") from error


def record(folder: str | os.PathLike, identifier: str, part: str) -> dict[str, Any] | None:
    """Reads the JSON beside a finished scan (`SCAN`) or its slices (`SLICES`); None where missing or damaged."""
    try:
        found = json.loads(file(folder, identifier, f"{part}.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_scan(
    folder: str | os.PathLike, identifier: str, like: Volume, data: np.ndarray, brain: np.ndarray, about: dict[str, Any]
) -> dict[str, Any]:
    """Writes a corrected scan and its brain mask; returns the record that is written last.

    Args:
      like: the raw scan, for its grid.
      data: [X, Y, Z] float32, without the bias field.
      brain: [X, Y, Z] bool.
      about: what the record says besides hashes.
    """
    _begin(folder, identifier, SCAN)
    scan, mask = (file(folder, identifier, f"{part}.nii.gz") for part in (SCAN, BRAIN))
    nifti.write(scan, data, like, np.float32)
    nifti.write(mask, brain, like, np.uint8)
    return note(folder, identifier, SCAN, {**about, "SHA256": files.sha256(scan), "BrainSHA256": files.sha256(mask)})


def write_slices(
    folder: str | os.PathLike, identifier: str, slices: Slices, picture: bytes, about: dict[str, Any]
) -> dict[str, Any]:
    """Writes a subject's slices and the picture of them; returns the record that is written last.

    Args:
      picture: PNG.
      about: what the record says besides hashes and slice numbers.
    """
    _begin(folder, identifier, SLICES)
    y, mask = (file(folder, identifier, f"{part}.npy") for part in (SLICES, SLICES_MASK))
    inside = slices.mask[..., 0] > 0
    files.atomic_write(y, _npy(slices.y[..., 0]))
    files.atomic_write(mask, _npy(inside))
    files.atomic_write(figure(folder, identifier, f"{PICTURE}.png"), picture)
    found = {
        "SHA256": files.sha256(y),
        "MaskSHA256": files.sha256(mask),
        "Slices": slices.number.tolist(),
        "MaskFraction": [round(float(fraction), 6) for fraction in inside.mean(axis=(1, 2))],
    }
    return note(folder, identifier, SLICES, {**about, **found})


def retract(folder: str | os.PathLike, identifier: str) -> None:
    """Makes a subject count as unfinished."""
    for part in (SCAN, SLICES):
        _begin(folder, identifier, part)


def _begin(folder, identifier: str, part: str) -> None:
    """Makes a part count as unfinished while anything of the part is replaced."""
    file(folder, identifier, f"{part}.json").unlink(missing_ok=True)


def note(folder: str | os.PathLike, identifier: str, part: str, content: dict[str, Any]) -> dict[str, Any]:
    """Writes the JSON beside a finished scan or its slices, and returns it."""
    files.atomic_write(file(folder, identifier, f"{part}.json"), json.dumps(content, indent=2) + "\n")
    return content


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
