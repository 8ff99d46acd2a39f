"""Bias field correction: N4ITK (Tustison et al. 2010) by SimpleITK, which is given arrays and never files."""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_MAX_NEGATIVE = 0.01  # of the brain: more means that zero is no absence of signal, as after a z-score
_MIN_EXTENT = 4  # voxels along an axis that a spline can be fitted to
THREADS = 1  # results differ by 1e-3 between thread counts; subjects are what runs in parallel
_LOCK = threading.Lock()
_at_work: list[int] = []  # for every N4 that runs, the threads that any filter of ITK took before the first of them


class BiasField(NamedTuple):
    """Settings of N4."""

    spacing: float  # mm; the field is estimated on voxels of about this size
    levels: int  # resolutions of the spline mesh: 1 element a scan, 2, 4, ...
    iterations: int  # at most, at each level
    threshold: float  # of convergence


def estimate(
    values: np.ndarray, inside: np.ndarray, zooms: tuple[float, ...], settings: BiasField
) -> tuple[np.ndarray | None, str]:
    """Estimates the bias field: the smooth factor by which a scan's intensities are too bright.

    Args:
      values: [S, H, W] float32, finite.
      inside: [S, H, W] bool, the brain.
      zooms: mm, of the three axes.
      settings: of N4.

    Returns:
      The field, [S, H, W] float32, of mean 1 inside the brain and within its range there outside, and ""; or None and
      why there is none.
    """
    brain = values[inside]
    if min(values.shape) < _MIN_EXTENT:
        return None, f"fewer than {_MIN_EXTENT} voxels along an axis, so no bias field was estimated"
    if (brain < 0).mean() > _MAX_NEGATIVE:
        return None, "intensities are negative, so no bias field was estimated (N4 needs zero to mean no signal)"
    usable = inside & (values > 0)
    if usable.sum() < 0.5 * inside.sum():
        return None, "most intensities are zero, so no bias field was estimated"
    factors = [max(1, round(settings.spacing / zoom)) for zoom in zooms]
    shrink = [f if math.ceil(n / f) >= _MIN_EXTENT else 1 for f, n in zip(factors, values.shape, strict=True)]
    field = _n4(values / np.median(brain[brain > 0]), usable, zooms, shrink, settings)
    known = field[inside]
    mean = known.mean(dtype=np.float64)
    # Where there was nothing to fit, a spline can say anything.
    return np.clip(field, known.min(), known.max()) / np.float32(mean), ""


def _n4(values, usable, zooms, shrink, settings: BiasField) -> np.ndarray:
    """Runs N4 on a subsampled scan; the field is evaluated at full resolution."""
    import SimpleITK as sitk  # here, since it is not needed where nothing is corrected

    def image(array: np.ndarray):
        result = sitk.GetImageFromArray(array)
        result.SetSpacing([float(zoom) for zoom in reversed(zooms)])
        return result

    whole = image(np.ascontiguousarray(values, np.float32))
    factors = [int(factor) for factor in reversed(shrink)]
    small = sitk.Shrink(whole, factors)
    mask = sitk.Shrink(image(usable.astype(np.uint8)), factors)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(THREADS)
    n4.SetMaximumNumberOfIterations([settings.iterations] * settings.levels)
    n4.SetConvergenceThreshold(settings.threshold)
    with _pinned(sitk.ProcessObject):
        n4.Execute(small, mask)
        return np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)))


@contextlib.contextmanager
def _pinned(filters) -> Iterator[None]:
    """Has every filter take THREADS while any N4 runs: those inside N4 ask ITK, which counts the process's cores."""
    with _LOCK:
        _at_work.append(_at_work[0] if _at_work else filters.GetGlobalDefaultNumberOfThreads())
        filters.SetGlobalDefaultNumberOfThreads(THREADS)
    try:
        yield
    finally:
        with _LOCK:
            before = _at_work.pop()
            if not _at_work:
                filters.SetGlobalDefaultNumberOfThreads(before)
