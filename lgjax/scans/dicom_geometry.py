"""Where the slices of a DICOM series lie: their order in space, and the affine of the volume that they make."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError
from lgjax.scans.dicom_header import Frame

SAME_PLACE = 0.01  # mm between slices
SAME_DIRECTION = 1e-3  # difference of direction cosines; exports round to 4 digits at worst
UNEVEN = 0.1  # of the distance between slices: how far one may lie from where even spacing puts it
SHIFTED = 0.5  # pixels: how far the last slice may be shifted sideways against the first
_APART = "Move the files of the one to restore into a folder of their own; dcm2niix tells them apart"
_EXPORT_AGAIN = "Export the whole series again"
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Stack(NamedTuple):
    """A series in space."""

    order: tuple[int, ...]  # the frames, by place along the normal of a slice
    shape: tuple[int, int, int]  # columns, rows, slices
    affine: np.ndarray  # [4, 4], voxel indices (column, row counted from the last, slice) -> mm (RAS+)


def stack(frames: Sequence[Frame], said: str) -> Stack:
    """Orders slices by where they lie, and never by a number or a name.

    The grid is the one that dcm2niix gives the series: rows are counted from the last one, slices along the normal
    (row direction x column direction).

    Args:
      frames: of one series, in any order.
      said: what a message calls the series.

    Raises:
      InputError: the slices differ in shape, pixel size or direction, are missing, twice there, unevenly spaced or
        shifted sideways.
    """
    row, column = _directions(frames, said)
    positions = np.array([frame.position for frame in frames])
    order = np.argsort(positions @ np.cross(row, column), kind="stable")
    step = _step(positions[order], np.cross(row, column), [frames[k] for k in order], said)
    (rows, columns), (between_rows, between_columns) = frames[0].shape, frames[0].spacing
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * between_columns, -column * between_rows, step])
    affine[:3, 3] = positions[order[0]] + column * between_rows * (rows - 1)
    affine = (_TO_RAS @ affine).astype(np.float32).astype(np.float64)  # as the outputs will state the affine
    return Stack(tuple(order.tolist()), (columns, rows, len(frames)), affine)


def _directions(frames: Sequence[Frame], said: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the unit vectors of a row and of a column, LPS+, [3] each, which all slices share."""
    along = np.array([frame.along for frame in frames])
    turned = np.abs(along - along[0]).max(axis=1) > SAME_DIRECTION
    if turned.any():
        count = len(np.unique(along.round(2), axis=0))
        raise InputError(said, f"holds slices in {count} directions, as a localizer does", "Give a series of one stack")
    for what in ("shape", "spacing"):
        found = {tuple(np.round(getattr(frame, what), 3).tolist()) for frame in frames}
        if len(found) > 1:
            told = ", ".join(" x ".join(f"{value:g}" for value in each) for each in sorted(found)[:3])
            problem = f"holds slices of more than one {'size' if what == 'shape' else 'pixel size'}: {told}"
            raise InputError(said, problem, _APART)
    row, column = along[0, :3], along[0, 3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise InputError(said, "states directions of rows and columns that are not at right angles", _EXPORT_AGAIN)
    return row / lengths[0], column / lengths[1]


def _step(positions: np.ndarray, normal: np.ndarray, frames: Sequence[Frame], said: str) -> np.ndarray:
    """Returns the way from one slice to the next, mm (LPS+), [3].

    Args:
      positions: in order, [N, 3] mm.
      normal: unit vector, [3].
      frames: in order.
      said: what a message calls the series.
    """
    if len(positions) < 2:
        raise InputError(
            said, "holds one slice, and a scan is a stack of slices", "Give the folder of the whole series"
        )
    gaps = np.diff(positions @ normal)
    if (gaps < SAME_PLACE).any():
        raise InputError(said, *_twice(frames, int((gaps >= SAME_PLACE).sum()) + 1))
    distance, widest = np.median(gaps), gaps.max()
    if widest > 1.5 * distance:
        problem = f"misses slices: {counted(int((gaps > 1.5 * distance).sum()), 'gap')} of up to {widest:.3g} mm"
        raise InputError(said, f"{problem} between slices {distance:.3g} mm apart", _EXPORT_AGAIN)
    whole = positions[-1] - positions[0]
    step = whole / (len(positions) - 1)
    expected = positions[0] + step * np.arange(len(positions))[:, None]
    away = np.linalg.norm(positions - expected, axis=1).max()
    if away > UNEVEN * distance:
        problem = f"has slices at uneven distances: one lies {away:.3g} mm from where even steps put it"
        raise InputError(said, problem, "Resample the scan to even steps, for example with 3D Slicer")
    sideways = np.linalg.norm(whole - (whole @ normal) * normal)
    if sideways > SHIFTED * min(frames[0].spacing):
        problem = f"has slices that are shifted against each other by {sideways:.3g} mm in all, as by a tilted gantry"
        raise InputError(said, problem, "Resample the scan to upright slices, for example with 3D Slicer")
    return step


def _twice(frames: Sequence[Frame], places: int) -> tuple[str, str]:
    """Says what lies at one place more than once, and what to do."""
    most = max(Counter((frame.instance, frame.number) for frame in frames).values())
    if most > 1:
        return f"holds {counted(len(frames), 'image')} of which some are copies of others", "Remove the copies"
    echoes = sorted({frame.echo for frame in frames if frame.echo is not None})
    if len(echoes) > 1:
        return f"holds echoes of {', '.join(f'{echo:g}' for echo in echoes)} ms", _APART
    problem = f"holds {counted(len(frames), 'image')} at {counted(places, 'place')}, as of repetitions or phases"
    return problem, _APART
