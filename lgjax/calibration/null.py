"""Conformal p-values of voxels: the share of healthy voxels of the same stratum that score at least as high."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.calibration import strata
from lgjax.scans import orientation

RATIO = 1.1  # a p-value from the table is at most so many times the exact one, and never below


class Null(NamedTuple):
    """What healthy voxels score, as a record keeps it."""

    score: str
    ratio: float  # of a p-value from the table over the exact one, at most
    depths: list[float]  # mm, edges of cells, as in strata.cells
    heights: list[float]  # shares of the brain's box, likewise
    strata: list[list[int]]  # the stratum of every cell, [heights + 1, depths + 1]
    voxels: list[int]  # n, of each stratum
    scores: list[list[float]]  # of each stratum: the k-th largest score for every k of `ranks`, descending


def ranks(voxels: int, ratio: float) -> list[int]:
    """Lists the ranks k whose scores are kept: 1, and then floor(ratio (k + 1)), up to all `voxels`."""
    found = [1]
    while found[-1] < voxels:
        found.append(min(math.floor(ratio * (found[-1] + 1)), voxels))
    return found


def learn(score: str, scores: Sequence[np.ndarray], cells: Sequence[np.ndarray], ratio: float = RATIO) -> Null:
    """Tabulates the upper tail of healthy scores in every stratum.

    Args:
      score: by name.
      scores: of the brain voxels of each healthy scan, [n] float32.
      cells: of the same voxels, from `strata.cells`.
    """
    every, cell = np.concatenate(scores), np.concatenate(cells)
    shape = len(strata.HEIGHTS) + 1, len(strata.DEPTHS) + 1
    grid = strata.strata(np.bincount(cell, minlength=math.prod(shape)).reshape(shape))
    stratum = grid.ravel()[cell]
    inside = [every[stratum == number] for number in range(grid.max() + 1)]
    tables = [np.sort(values)[::-1][np.array(ranks(len(values), ratio)) - 1] for values in inside]
    return Null(
        score=score,
        ratio=ratio,
        depths=list(strata.DEPTHS),
        heights=list(strata.HEIGHTS),
        strata=grid.tolist(),
        voxels=[len(values) for values in inside],
        scores=[[float(str(value)) for value in table] for table in tables],  # few digits, the same float32
    )


def pvalues(null: Null, scores: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Looks up p = (1 + #{healthy scores >= s in the stratum}) / (n + 1), the conformal p-value (Vovk et al. 2005).

    A score above the k-th largest healthy one is reached by at most k - 1 healthy voxels, so p <= k / (n + 1). The
    smallest tabulated k of that kind gives a p that is never below the exact one, and at most `null.ratio` times it.

    Args:
      null: of the score.
      scores: [n] float32.
      cells: of the same voxels, from `strata.cells` with the edges of `null`.

    Returns:
      [n] float32, rounded up.
    """
    stratum = np.array(null.strata).ravel()[cells]
    found = np.ones(len(scores), np.float32)
    for number, (voxels, known) in enumerate(zip(null.voxels, null.scores, strict=True)):
        here = stratum == number
        table = np.array(known[::-1], np.float32)
        levels = rounded_up(np.array([*ranks(voxels, null.ratio), voxels + 1]) / (voxels + 1))
        found[here] = levels[len(table) - np.searchsorted(table, scores[here])]
    return found


def mapped(null: Null, anomaly: np.ndarray, looked_at: np.ndarray, brain: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Returns the p-value of every voxel that was looked at, 1 elsewhere, [X, Y, Z] float32.

    Args:
      null: of the score.
      anomaly: the score, [X, Y, Z].
      looked_at: bool, a part of the brain.
      brain: bool, from whose edge and box strata are measured.
      affine: [4, 4], voxel indices -> mm (RAS+).
    """
    cells = strata.cells(brain, affine, null.depths, null.heights)
    found = np.ones_like(anomaly, np.float32)
    inside = looked_at.T  # as files are in memory
    found.T[inside] = pvalues(null, orientation.picked(anomaly.T, inside), orientation.picked(cells.T, inside))
    return found


def rounded_up(values: np.ndarray) -> np.ndarray:
    """Rounds float64 to the next float32 that is not below, any shape."""
    nearest = values.astype(np.float32)
    return np.where(nearest < values, np.nextafter(nearest, np.float32(np.inf)), nearest)
