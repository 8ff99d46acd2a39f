"""The lesions of one detection: connected components of its mask, where they lie and how far they stand out.

Everything is computed in the axial view, so that equal scans have equal lesions, whatever their order of axes on disk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lgjax.derivatives.sidecar import Midplane
from lgjax.preparation import midplane
from lgjax.scans import connected, orientation

ONE_SIDE = 0.75  # of a lesion's voxels: a lesion with fewer of them on each side lies on the midline
_SAME = 1e-9  # share by which equal volumes may differ by rounding
_ROUNDING = 1e-3  # mm: a voxel this close to the plane lies on neither side


class Lesion(NamedTuple):
    """One connected component of a detection mask."""

    label: int  # from 1, the largest first; its voxels' value in the image of `label`
    volume_ml: float
    centroid_mm: tuple[float, float, float]  # of its voxels, world millimetres (RAS+)
    centroid_percent: tuple[float, float, float]  # of the brain's box: left to right, back to front, bottom to top
    side: str  # of the head, the patient's own: left, right or midline
    peak: float  # highest |score|, in the unit of the anomaly map
    mean: float  # |score|, likewise
    p: float | None = None  # see `pvalue`; None: calibration knows no healthy scan's largest false positive


def label(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Numbers the connected components of a mask, from 1, the largest first; 0 is outside.

    Components of equal size are numbered from the bottom up.

    Args:
      mask: [X, Y, Z] bool.
      affine: [4, 4], voxel indices -> mm (RAS+).

    Returns:
      [X, Y, Z] int32.
    """
    numbered = orientation.zeros(mask, np.int32)
    if mask.any():
        order = orientation.to_lps(affine)
        seen = orientation.axial(mask, order)
        box = orientation.box(seen)
        labels, count = connected.label(seen[box])
        voxels = np.flatnonzero(labels > 0)  # few: counting and renaming all takes longer
        found = labels.ravel()[voxels]
        largest = 1 + np.argsort(-np.bincount(found, minlength=count + 1)[1:], kind="stable")
        numbers = np.zeros(count + 1, np.int32)
        numbers[largest] = np.arange(1, count + 1)
        orientation.axial(numbered, order)[box][np.unravel_index(voxels, labels.shape)] = numbers[found]
    return numbered


def measure(
    labels: np.ndarray, anomaly: np.ndarray, brain: np.ndarray, affine: np.ndarray, plane: Midplane | None = None
) -> list[Lesion]:
    """Measures the lesions of an image of labels, in their order.

    A lesion is left or right where three quarters of its voxels lie on that side of the mid-sagittal plane, further
    away than one standard deviation of the plane's place. Otherwise the lesion lies on the midline. Without a plane
    that fits, the sagittal plane through the centroid of the brain takes its place.

    Args:
      labels: [X, Y, Z], from `label`.
      anomaly: [X, Y, Z], the score that was cut at a threshold.
      brain: [X, Y, Z] bool.
      affine: [4, 4], voxel indices -> mm (RAS+).
      plane: mid-sagittal, in the scanner's mm (RAS+); None: none was looked for.
    """
    order, to_mm = orientation.to_lps(affine), orientation.slice_affine(affine, labels.shape)
    seen, head = orientation.axial(labels, order), orientation.axial(brain, order)
    indices = np.flatnonzero(seen > 0)  # far faster than `nonzero`
    if not indices.size:
        return []
    found = np.unravel_index(indices, seen.shape)
    numbers = seen[found]
    voxels = np.bincount(numbers)[1:]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(numbers, values)[1:] / voxels

    places = _millimetres(found, to_mm)
    centres = np.stack([mean(axis) for axis in places], axis=1)
    low, high = _box(head, to_mm)
    left, right = (mean(beyond) for beyond in _beyond(places, plane, _middle(head, to_mm)))
    height = np.abs(orientation.axial(anomaly, order)[found])
    columns = {
        "volume_ml": (voxels * abs(np.linalg.det(to_mm[:3, :3])) / 1000).tolist(),
        "centroid_mm": map(tuple, centres.tolist()),
        "centroid_percent": map(tuple, (100 * (centres - low) / (high - low)).tolist()),
        "side": np.where(left >= ONE_SIDE, "left", np.where(right >= ONE_SIDE, "right", "midline")).tolist(),
        "peak": ndimage.maximum(height, numbers, range(1, len(voxels) + 1)).tolist(),
        "mean": mean(height).tolist(),
    }
    rows = zip(*columns.values(), strict=True)
    return [Lesion(number, *row) for number, row in enumerate(rows, 1)]


def pvalue(volume_ml: float, healthy: Sequence[float]) -> float:
    """Returns (1 + #{healthy scans whose largest false positive has at least this volume}) / (n + 1).

    A healthy scan that is exchangeable with the n scans has a lesion of p <= a with probability a at most, however many
    false positives the scan has.

    Args:
      volume_ml: of a lesion.
      healthy: volumes of the largest false positives of n healthy scans, mL.
    """
    least = volume_ml * (1 - _SAME)
    return (1 + sum(other >= least for other in healthy)) / (len(healthy) + 1)


def _millimetres(voxels: tuple[np.ndarray, ...], to_mm: np.ndarray) -> np.ndarray:
    """Returns the places, [3, K] mm, of voxels of the axial view: their slices, rows and columns, [K] each."""
    return to_mm[:3, :3] @ np.stack(voxels[::-1]) + to_mm[:3, 3:]


def _middle(head: np.ndarray, to_mm: np.ndarray) -> float:
    """Returns where the sagittal plane through a brain's centroid lies, mm from the left to the right."""
    above, beside = (head.sum(axis=axis, dtype=np.int32) for axis in (0, 2))  # several times faster than int64
    counts = (beside.sum(axis=1), above.sum(axis=1), above.sum(axis=0))  # of voxels, along every axis
    centre = [np.array([count @ np.arange(len(count)) / count.sum()]) for count in counts]
    return float(_millimetres(tuple(centre), to_mm)[0, 0])


def _box(head: np.ndarray, to_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest corner of a brain's box in the scanner's axes, [3] mm; voxels are whole."""
    slices, rows = np.nonzero(head.any(axis=2))  # of a line of voxels, the first and the last are enough
    lines = head[slices, rows]
    ends = (lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1))
    points = np.concatenate([_millimetres((slices, rows, end), to_mm) for end in ends], axis=1)
    half = np.abs(to_mm[:3, :3]).sum(axis=1) / 2
    return points.min(axis=1) - half, points.max(axis=1) + half


def _beyond(places: np.ndarray, plane: Midplane | None, middle: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns which places, [3, K] mm, lie to the left of the mid-sagittal plane, and which to the right, [K] bool."""
    if plane is not None and midplane.fits(plane.score):
        distance = np.array(plane.normal) @ places - plane.offset_mm
        width = max(plane.uncertainty_mm, _ROUNDING)
    else:
        distance, width = middle - places[0], _ROUNDING
    return distance > width, distance < -width
