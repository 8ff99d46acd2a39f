"""The largest false positive of every healthy scan, which lesions are held against."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lgjax.scans import connected, orientation


class Largest(NamedTuple):
    """The largest false positive of every healthy scan, as a record keeps them."""

    score: str
    volumes: dict[str, list[float]]  # mL, by false positive rate ("0.01"); 0 for a scan without false positives


def volumes(
    scores: np.ndarray, brain: np.ndarray, voxel_ml: float, thresholds: Mapping[str, float]
) -> dict[str, float]:
    """Measures the largest connected component of a healthy scan's voxels above each threshold, mL.

    Args:
      scores: of the brain's voxels, [n] float32.
      brain: [X, Y, Z] bool.
      voxel_ml: volume of a voxel.
      thresholds: of the score, by false positive rate.
    """
    return {rate: largest(scores, brain, threshold) * voxel_ml for rate, threshold in thresholds.items()}


def pooled(score: str, found: Sequence[Mapping[str, float]]) -> Largest:
    """Puts together what `volumes` says of each healthy scan."""
    return Largest(score, {rate: [scan[rate] for scan in found] for rate in found[0]})


def largest(scores: np.ndarray, brain: np.ndarray, threshold: float) -> int:
    """Counts the voxels of the largest connected component of what scores above a threshold.

    Args:
      scores: of the brain's voxels, [n].
      brain: [X, Y, Z] bool, n of them True.
    """
    mask = np.zeros(brain.shape, bool)
    mask[brain] = scores > threshold
    if not mask.any():
        return 0
    labels, _ = connected.label(mask[orientation.box(mask)])
    return int(np.bincount(labels.ravel())[1:].max())
