"""Percentiles of many values, by sorting them."""

from collections.abc import Sequence

import numpy as np


def percentiles(values: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    """Returns what `np.percentile` returns of the values as float64, to the bit, several times faster.

    NumPy sorts float32 by vector instructions; `np.percentile` selects with none.

    Args:
      values: any shape and real type, without NaN, not empty.
      percents: 0 to 100.

    Returns:
      float64, shaped as the percents.
    """
    ordered = np.sort(values, axis=None)
    place = (ordered.size - 1) * np.true_divide(percents, 100)
    lower = np.floor(place).astype(int)
    low, high = (ordered[at].astype(np.float64) for at in (lower, np.minimum(lower + 1, ordered.size - 1)))
    share = place - lower
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def median(values: np.ndarray) -> float:
    """Returns the median of values as in `percentiles`."""
    return float(percentiles(values, (50,))[0])
