"""The lesions of one detection: connected components of its mask, where they lie and how far they stand out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours: voxels that share a corner are one lesion


class Lesion(NamedTuple):
    """One connected component of a detection mask."""

    label: int  # from 1, the largest first
    volume_ml: float
    centroid_mm: tuple[float, float, float]  # of its voxels, world millimetres (RAS+)
    side: str  # of the centroid against the middle of the brain: left or right, the patient's own
    peak: float  # highest |score|, in the unit of the anomaly map
    mean: float  # |score|, likewise


def find(mask: np.ndarray, anomaly: np.ndarray, brain: np.ndarray, affine: np.ndarray) -> list[Lesion]:
    """Lists the lesions of a mask, the largest first.

    Args:
      mask, brain: [X, Y, Z] bool.
      anomaly: [X, Y, Z], the score that was cut at a threshold.
      affine: [4, 4], voxel indices -> mm (RAS+).
    """
    labels, count = ndimage.label(mask, CONNECTIVITY)
    places = range(1, count + 1)
    if not count:
        return []
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    centres = np.array(ndimage.center_of_mass(mask, labels, places)) @ affine[:3, :3].T + affine[:3, 3]
    middle = (np.array(ndimage.center_of_mass(brain)) @ affine[:3, :3].T + affine[:3, 3])[0]
    height = np.abs(anomaly)
    peaks, means = ndimage.maximum(height, labels, places), ndimage.mean(height, labels, places)
    millilitres = voxels * abs(np.linalg.det(affine[:3, :3])) / 1000
    order: Sequence[int] = np.argsort(-voxels, kind="stable").tolist()
    return [
        Lesion(
            number,
            float(millilitres[k]),
            (float(centres[k, 0]), float(centres[k, 1]), float(centres[k, 2])),
            "left" if centres[k, 0] < middle else "right",
            float(peaks[k]),
            float(means[k]),
        )
        for number, k in enumerate(order, 1)
    ]
