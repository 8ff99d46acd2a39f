"""What a reference segmentation holds: which values are lesion, and which image is one where no name says so."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lgjax.runtime.errors import InputError
from lgjax.scans import nifti
from lgjax.scans.finding.labels import Found
from lgjax.scans.volume import Volume

_LABELS = (0, 1, 2, 3, 4)  # BraTS 2018 uses 0, 1, 2 and 4, from 2023 on 0 to 3; others 0 and 1
_FEW = 8  # more values than that are an image
_TABLE = "list it in a table (--labels=table.tsv, column reference)"
_WHICH = "Say which values are lesion with --lesion_labels=1,2; resample labels with nearest neighbours"


def lesion_of(label: Volume, values: Sequence[float] = ()) -> np.ndarray:
    """Returns where a segmentation says lesion, [X, Y, Z] bool.

    Args:
      label: the segmentation.
      values: that are lesion; (): of two values, one of them 0, the other; otherwise 1 to 4.

    Raises:
      InputError: the segmentation holds other values.
    """
    found = values_of(label.data)
    if values:
        asked = np.array(values, np.float32)
        broken = found[(found != np.round(found)) & ~np.isin(found, asked)]
        if broken.size:
            problem = f"has the label values {listed(broken)}; labels are whole numbers"
            raise InputError(label.source, problem, "Resample labels with nearest neighbours")
        return np.isin(label.data, asked)
    if found.size == 2 and 0 in found and np.isfinite(found).all():
        return label.data != 0
    strange = found[~np.isin(found, _LABELS)]
    if strange.size:
        problem = f"has the label values {listed(strange)}; a reference holds 0 (healthy) and 1 to 4 (lesion)"
        raise InputError(label.source, f"{problem}, or 0 and one other value. It holds {listed(found)}", _WHICH)
    if found.size > 1 and 0 not in found:
        problem = f"has the label values {listed(found)} and no 0 (healthy): all of it would be lesion"
        raise InputError(label.source, problem, _WHICH)
    return label.data > 0


def read_one(paths: Sequence[Path], read: Callable[[Path], Volume]) -> Volume:
    """Reads the reference of a scan; several that are equal are one.

    Raises:
      InputError: there are several, and nothing tells which of them; or the file cannot be read.
    """
    if len(paths) > 1 and not _are_equal([read(path) for path in paths]):
        folder = os.path.commonpath([path.parent for path in paths])
        names = ", ".join(path.relative_to(folder).as_posix() for path in paths)
        problem = f"is one of {len(paths)} that may be the reference of the scan: {names}"
        raise InputError(paths[0], problem, f"Keep one of them, or {_TABLE}")
    return read(paths[0])


def _are_equal(volumes: Sequence[Volume]) -> bool:
    first = volumes[0]
    pairs = [((each.data, first.data), (each.affine, first.affine)) for each in volumes[1:]]
    return all(np.array_equal(*data) and np.array_equal(*affine) for data, affine in pairs)


def guess(name: str, found: Found, read: Callable[[Path], Volume], image: Volume) -> Volume:
    """Returns the one image in a patient's own folder that looks like a segmentation, where no name says so.

    Args:
      name: of the scan.
      found: what the names told.
      read: reads a file.
      image: the scan.

    Raises:
      InputError: there is none, or more than one; the message lists the names looked for and the files found.
    """
    likely = [volume for path in found.candidates if (volume := _like_labels(path, image, read))]
    if len(likely) == 1:
        return likely[0]
    beside = ", ".join(path.name for path in found.beside[:12]) or "no other image"
    more = f" and {len(found.beside) - 12} more" if len(found.beside) > 12 else ""
    looked_for = f"Looked for {', '.join(found.looked_for)}; beside the scan: {beside}{more}"
    problem = f"has no reference segmentation. {looked_for if found.looked_for else 'The table names none'}"
    how = f"Name it so, or {_TABLE}" if found.looked_for else "Name it in the column reference"
    raise InputError(name, problem, f"{how}; of a scan without a lesion, say that its lesion_kind is healthy")


def _like_labels(path: Path, image: Volume, read: Callable[[Path], Volume]) -> Volume | None:
    """Returns a file that may be a segmentation of the image: few whole numbers, 0 for most of it; else None."""
    try:
        volume = read(path)
        nifti.check_same_grid(image, volume)
    except InputError:  # one more file that is no segmentation of this scan
        return None
    lesion = np.count_nonzero(volume.data)
    return volume if holds_labels(volume) and 0 < lesion < 0.5 * np.count_nonzero(image.data) else None


def holds_labels(volume: Volume) -> bool:
    """Returns whether an image holds a few whole numbers, 0 among them, as segmentations do."""
    values = values_of(volume.data)
    return values.size <= _FEW and 0 in values and bool((values == np.round(values)).all())


def values_of(data: np.ndarray) -> np.ndarray:
    """Returns the distinct values, ascending; of small whole numbers without sorting them."""
    with np.errstate(invalid="ignore"):
        small = data.astype(np.uint8)
    if (small == data).all():
        return np.flatnonzero(np.bincount(small.ravel())).astype(np.float32)
    return np.unique(data)


def listed(values: Sequence[float] | np.ndarray) -> str:
    """Writes the first few values, separated by commas."""
    more = ", ..." if len(values) > 8 else ""
    return ", ".join(f"{value:g}" for value in values[:8]) + more
