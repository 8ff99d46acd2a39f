"""Histogram matching by landmarks (Nyúl and Udupa 1999): percentiles of the brain are brought to those of a cohort."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.preparation import quantiles

SCALE = 100.0  # the first landmark of the standard scale is 0, the last one this
_MARGIN = 0.5  # of the landmarks' range: how far beyond them intensities are told apart


class Histogram(NamedTuple):
    """The reference that scans are matched to."""

    percentiles: tuple[float, ...]  # of the brain voxels, ascending
    values: tuple[float, ...]  # at these percentiles, on the standard scale


class Transfer(NamedTuple):
    """A monotone, piecewise linear map of intensities, constant beyond its knots."""

    source: np.ndarray  # [K] float64, strictly ascending
    target: np.ndarray  # [K] float64, strictly ascending


def landmarks(values: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    """Returns percentiles of the brain voxels' intensities, [K] float64.

    Args:
      values: [N], of the brain voxels in any order.
      percentiles: [K], ascending, 0 to 100.
    """
    return quantiles.percentiles(values, percentiles)


def learn(cohort: Sequence[Sequence[float]], percentiles: Sequence[float]) -> Histogram:
    """Averages the landmarks of a cohort after each subject's first and last were brought to 0 and `SCALE`.

    Args:
      cohort: the landmarks of every subject, [N, K]; none of them all equal.
      percentiles: [K].
    """
    marks = np.asarray(cohort, np.float64)
    first, last = marks[:, :1], marks[:, -1:]
    standard = ((marks - first) / (last - first) * SCALE).mean(axis=0)
    return Histogram(tuple(map(float, percentiles)), tuple(map(float, standard)))


def transfer(marks: Sequence[float] | np.ndarray, reference: Histogram) -> Transfer:
    """Returns the map that brings a scan's landmarks to those of the reference.

    Beyond the first and the last landmark the map goes on with its mean slope, so that a lesion brighter than all
    healthy tissue stays brighter, and is constant from half of the landmarks' range further on, so that no spike of
    noise decides the scale.

    Args:
      marks: the scan's landmarks, [K], not all equal.
      reference: what they are brought to.
    """
    source, target = np.asarray(marks, np.float64), np.asarray(reference.values, np.float64)
    kept = [0]
    for k in range(1, len(source)):  # of equal landmarks, the first
        if source[k] > source[kept[-1]] and target[k] > target[kept[-1]]:
            kept.append(k)
    source, target = source[kept], target[kept]
    margin = _MARGIN * np.array([-1.0, 1.0])
    low, high = source[[0, -1]] + margin * (source[-1] - source[0])
    floor, top = target[[0, -1]] + margin * (target[-1] - target[0])
    return Transfer(np.concatenate([[low], source, [high]]), np.concatenate([[floor], target, [top]]))


def apply(change: Transfer, values: np.ndarray) -> np.ndarray:
    """Returns matched intensities, of the shape of `values`, float32."""
    return _interpolate(values, change.source, change.target)


def invert(change: Transfer, values: np.ndarray) -> np.ndarray:
    """Returns the scan's intensities for matched ones, of the shape of `values`, float32."""
    return _interpolate(values, change.target, change.source)


def _interpolate(values: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    if np.ndim(values) < 3:
        return np.interp(values, source, target).astype(np.float32)
    result = np.empty_like(values, np.float32)
    for k in range(values.shape[2]):  # a plane at a time: big volumes are not held in float64
        result[..., k] = np.interp(values[..., k], source, target)
    return result
