"""Strata of the brain: cells of equal depth and height, joined until each holds enough voxels."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lgjax.scans import orientation

DEPTHS = (4.0, 10.0, 20.0)  # mm from the brain's edge: where one cell ends and the next begins
HEIGHTS = (0.25, 0.5, 0.75)  # of the brain's box, from the patient's bottom to the top
LEAST = 20_000  # voxels of a stratum, so that at least twenty lie above a p-value of .001
_APART = 2.0  # mm: depth is measured on voxels that are at least so far apart, which saves time and memory


def cells(
    brain: np.ndarray, affine: np.ndarray, depths: Sequence[float] = DEPTHS, heights: Sequence[float] = HEIGHTS
) -> np.ndarray:
    """Numbers the cells of a brain: the height's place among `heights` times (D + 1), plus the depth's among `depths`.

    Equal scans have equal cells, whatever the order of their axes on disk. The brain ends where the image ends.

    Args:
      brain: [X, Y, Z] bool, not empty.
      affine: [4, 4], voxel indices -> mm (RAS+).
      depths: D edges in mm, ascending.
      heights: edges in shares of the brain's box, ascending.

    Returns:
      [X, Y, Z] uint8; 0 outside the brain's box.
    """
    order = orientation.to_lps(affine)
    inside = orientation.axial(brain, order)
    box = orientation.box(inside)
    depth = np.digitize(_depth(inside[box], orientation.zooms(affine)), depths)
    count = len(depth)
    height = np.digitize((np.arange(count) + 0.5) / count, heights)
    found = np.zeros(inside.shape, np.uint8)
    found[box] = height[:, None, None] * (len(depths) + 1) + depth
    return orientation.native(found, order)


def _depth(inside: np.ndarray, zooms: Sequence[float]) -> np.ndarray:
    """Returns the distance to the brain's edge, mm, [S, H, W]; neighbours may share that of one voxel.

    A hole within the brain is no edge.
    """
    steps = [max(1, round(_APART / zoom)) for zoom in zooms]
    kept = ndimage.binary_fill_holes(inside[tuple(slice(None, None, step) for step in steps)])
    sampling = [step * zoom for step, zoom in zip(steps, zooms, strict=True)]
    found = ndimage.distance_transform_edt(np.pad(kept, 1), sampling=sampling)[1:-1, 1:-1, 1:-1].astype(np.float32)
    for axis, (step, size) in enumerate(zip(steps, inside.shape, strict=True)):
        found = np.take(found, np.arange(size) // step, axis=axis)
    return found


def strata(counts: np.ndarray, least: int = LEAST) -> np.ndarray:
    """Joins cells to strata of at least `least` voxels: first neighbouring heights, then neighbouring depths.

    Args:
      counts: voxels of every cell, [heights, depths].

    Returns:
      The stratum of every cell, from 0, [heights, depths]; one for all where there are fewer voxels than `least`.
    """
    bands = joined(counts.sum(axis=1), least)
    found, first = np.zeros(counts.shape, int), 0
    for band in range(bands[-1] + 1):
        rows = bands == band
        found[rows] = first + joined(counts[rows].sum(axis=0), least)
        first = found[rows].max() + 1
    return found


def joined(counts: np.ndarray, least: int) -> np.ndarray:
    """Joins neighbours until each group holds at least `least`; what is left joins the last group.

    Args:
      counts: [n].

    Returns:
      The group of each, ascending from 0, [n].
    """
    groups, group, total = [], 0, 0
    for count in counts:
        groups.append(group)
        total += count
        if total >= least:
            group, total = group + 1, 0
    return np.minimum(groups, max(group - 1, 0))
