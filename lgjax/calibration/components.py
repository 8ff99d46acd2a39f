"""The largest false positive of every healthy scan, which lesions are held against."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lgjax.scans import connected, orientation


class Largest(NamedTuple):
    """The largest false positive of every healthy scan, as a record keeps them."""

    score: str
    volumes: dict[str, list[float]]  # mL, by false positive rate ("0.01"); 0 for a scan without false positives


def learn(
    score: str,
    scores: Sequence[np.ndarray],
    brains: Sequence[np.ndarray],
    voxel_ml: Sequence[float],
    thresholds: Mapping[str, float],
) -> Largest:
    """Measures the largest connected component of healthy voxels above each threshold, scan by scan.

    Args:
      score: by name.
      scores: of the brain voxels of each healthy scan, [n] float32.
      brains: masks of the scans, each [X, Y, Z] bool.
      voxel_ml: volume of a voxel of each scan.
      thresholds: of the score, by false positive rate.
    """
    volumes = {
        rate: [
            largest(values, brain, threshold) * ml for values, brain, ml in zip(scores, brains, voxel_ml, strict=True)
        ]
        for rate, threshold in thresholds.items()
    }
    return Largest(score, volumes)


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
