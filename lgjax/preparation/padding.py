"""What resamplers fill in beyond the field of view: blocks of one constant value at the border of a volume."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

_LEAST = 0.001  # of the volume: a smaller block is no matter
_ALIKE = 1e-5  # of the value: what a second resampling rounds away from it
_SOLID = 1.75  # neighbouring pairs a voxel: 3 in a cube, 2 in one plane, about 1.2 in noise of a few grey levels
_MUCH = 0.2  # of a side of the volume
_ENCLOSED = 0.15  # of what lies inside the padding: less may be tissue, as a slab cropped to the brain shows
_SHARP = 0.05  # of a block's neighbours are background where nothing was interpolated between the two


class Padding(NamedTuple):
    """A volume with padding, taken apart: [X, Y, Z] bool each."""

    background: float  # the value around the brain
    flat: np.ndarray  # voxels of that value
    padded: np.ndarray  # blocks of other values, and the voxels that interpolation mixed at their edges
    values: tuple[float, ...]  # of the blocks


def find(data: np.ndarray, axial: int, background: float) -> Padding | None:
    """Finds blocks of constant values, other than the background's, at the border of a volume.

    What lies outside a box that was turned or moved contains a corner of the new box, so corners are looked at; and
    each in-plane side, for a block along most of it. Tissue at the border is never so flat.

    Args:
      data: [X, Y, Z].
      axial: the axis from slice to slice.
      background: the value of most of the in-plane border, NaN included.

    Returns:
      None where there is no such block: nothing but the background is flat.
    """
    regions = {}
    for value in _candidates(data, axial, background):
        block = _block(data, value)
        if block is not None:
            regions[value] = block
    inner = _enclosed(data, background, list(regions.values()))
    if inner is not None:
        regions[inner] = _same(data, inner)
    if not regions:
        return None
    block = _block(data, background)
    regions[background] = _same(data, background) if block is None else block
    return _apart(data, regions)


def _candidates(data: np.ndarray, axial: int, background: float) -> list[float]:
    """Lists the values of the corners and those that fill much of an in-plane side, without the background."""
    found = data[np.ix_((0, -1), (0, -1), (0, -1))].ravel().tolist()
    planes = np.moveaxis(data, axial, 2)
    for side in (planes[0], planes[-1], planes[:, 0], planes[:, -1]):
        marks = [side.size * k // 4 for k in (1, 2, 3)]
        values = np.partition(side.ravel(), marks)[marks].tolist()
        found += [value for value in values if np.count_nonzero(_same(side, value)) >= _MUCH * side.size]
    return [value for value in np.unique(found).tolist() if not _equal(value, background)]


def _equal(one: float, other: float) -> bool:
    return bool(one == other or (np.isnan(one) and np.isnan(other)))


def _same(data: np.ndarray, value: float) -> np.ndarray:
    """Returns the voxels of a value, but for rounding."""
    if np.isnan(value):
        return np.isnan(data)
    if not np.isfinite(value):
        return data == value
    margin = abs(value) * _ALIKE
    return (data >= value - margin) & (data <= value + margin)


def _block(data: np.ndarray, value: float) -> np.ndarray | None:
    """Returns the solid pieces of a value at the border; None where there is none."""
    same, least = _same(data, value), max(1.0, _LEAST * data.size)
    if np.count_nonzero(same) < least:
        return None
    labels, _ = ndimage.label(same)
    sizes = np.bincount(labels.ravel())
    kept = np.zeros(len(sizes), bool)
    for axis in range(3):
        for end in (0, -1):
            kept[np.unique(labels.take(end, axis))] = True
    kept &= sizes >= least
    kept[0] = False
    block = kept[labels]
    return block if _is_solid(block) else None


def _is_solid(block: np.ndarray) -> bool:
    pairs = sum(np.count_nonzero(a & b) for a, b in (_shifted(block, axis) for axis in range(3)))
    return bool(pairs > 0 and pairs >= _SOLID * np.count_nonzero(block))


def _shifted(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two views of an array, of each voxel and of its next neighbour along an axis."""
    moved = np.moveaxis(array, axis, 0)
    return moved[1:], moved[:-1]


def _enclosed(data: np.ndarray, background: float, blocks: list[np.ndarray]) -> float | None:
    """Returns the value of the background where padding surrounds it and is most of the border; None elsewhere.

    That value is 0 or the lowest: tissue may be as flat where a scan was clipped, but no darker than the background.
    """
    rest = ~_same(data, background)
    for block in blocks:
        rest &= ~block
    lower = rest & ~(data >= background) & np.isfinite(data)  # all that is finite, where NaN surrounds it
    candidates = [float(data[lower].min())] if lower.any() else []
    if background != 0:
        candidates.append(0.0)
    least = _ENCLOSED * np.count_nonzero(rest)
    return next((value for value in candidates if np.count_nonzero(_same(data, value) & rest) > least), None)


def _apart(data: np.ndarray, regions: dict[float, np.ndarray]) -> Padding:
    """Tells the background, which the brain touches most, from padding, and takes the voxels mixed of the two out."""
    rest = ~np.logical_or.reduce(list(regions.values()))
    touching = {value: np.count_nonzero(_neighbours(region) & rest) for value, region in regions.items()}
    background = max(touching, key=lambda value: touching[value])
    del regions[background]
    padded = np.logical_or.reduce(list(regions.values()))
    flat = _same(data, background) & ~padded  # wherever it is, as in a scan without padding
    edge = _neighbours(padded) & ~padded
    if np.count_nonzero(edge & flat) < _SHARP * np.count_nonzero(edge):
        padded |= edge & rest
        padded |= _sheets(rest & ~padded)
    return Padding(background, flat, padded, tuple(regions))


def _sheets(rest: np.ndarray) -> np.ndarray:
    """Returns the pieces that are nowhere deeper than the outermost voxels: mixtures with padding beyond the volume."""
    labels, count = ndimage.label(rest)
    deep = np.zeros(count + 1, bool)
    deep[np.unique(labels[1:-1, 1:-1, 1:-1])] = True
    deep[0] = True
    return ~deep[labels]


def _neighbours(region: np.ndarray) -> np.ndarray:
    """Returns the voxels that share a face with a region's, those of the region among them."""
    found = region.copy()
    for axis in range(3):
        (after, before), (into_after, into_before) = _shifted(region, axis), _shifted(found, axis)
        into_after |= before
        into_before |= after
    return found
