"""From restorations to detections: lambda by SSIM, anomaly maps, thresholds by false positive rate. Pure functions."""

import math
from collections.abc import Sequence

import numpy as np

from lgjax.methods.names import SCORES

LEAST = 1e-3  # standard deviations of the brain: the least median change that `relative` divides by


def anomaly(change: np.ndarray, score: str, brain: np.ndarray | None = None) -> np.ndarray:
    """Returns the anomaly map of the change Y - X of one scan, any shape, in standard deviations of the brain.

    A restoration that misses more in one scan than in another, by its scanner or contrast, misses more everywhere:
    `relative` is a multiple of what it misses at the scan's median voxel, of which lesions are seldom a part.

    Args:
      change: Y - X.
      score: `absolute`, |Y - X| (the paper's); `positive`, max(Y - X, 0); `relative`, that over the median |Y - X| of
        the scan's brain, without unit; `signed`, Y - X as it is.
      brain: bool, shaped as the change; None: all of it is brain.
    """
    if score == "relative":
        middle = np.median(np.abs(change if brain is None else change[brain]))
        return np.maximum(change, 0) / np.maximum(middle, np.float32(LEAST))
    if score == "absolute":
        return np.abs(change)
    if score == "positive":
        return np.maximum(change, 0)
    if score == "signed":
        return change
    raise ValueError(f"expected a score among {', '.join(SCORES)}, got {score!r}")


def thresholds(scores: np.ndarray, rates: Sequence[str]) -> dict[str, float]:
    """Finds the smallest thresholds whose false positive rate on healthy voxels is at most each rate, ties included.

    Detection is score > threshold, so the threshold at rate x over n voxels is the (floor(x n) + 1)-th largest score:
    at most floor(x n) voxels lie above it.

    Args:
      scores: of healthy voxels, [n].
      rates: false positive rates in (0, 1), each as a string ("0.001").

    Returns:
      Thresholds by rate.
    """
    ranks = [len(scores) - 1 - math.floor(float(rate) * len(scores)) for rate in rates]
    ordered = np.partition(scores, ranks)
    return {rate: float(ordered[rank]) for rate, rank in zip(rates, ranks, strict=True)}
