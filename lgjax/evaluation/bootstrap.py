"""Bootstrap over subjects: how far a mean or a pooled metric would move with other subjects of the same kind.

A resample is a row of weights, how often each subject was drawn. Applying the same weights to two methods makes
the comparison paired.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
Interval = tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """One metric over subjects; subjects whose value is None are left out and not counted."""

    mean: float | None
    std: float | None  # sample standard deviation (n - 1)
    ci95: Interval
    n: int


def weights(subjects: int, n: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Returns how often each subject is drawn in each of n resamples, [n, S] float64; rows sum to S."""
    draws = np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=n)
    return draws.astype(np.float64)


def interval(samples: np.ndarray) -> Interval:
    """Returns the 2.5 and 97.5 percentiles of the samples that are defined (not NaN); None where none is."""
    known = samples[~np.isnan(samples)]
    if not known.size:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def means(values: Sequence[float | None], drawn: np.ndarray) -> np.ndarray:
    """Returns the mean of the known values in each resample, [n]; NaN where a resample holds none of them.

    Args:
      values: [S], None where undefined.
      drawn: [n, S], see `weights`.
    """
    known = np.array([value is not None for value in values])
    numbers = np.array([value or 0.0 for value in values])
    total = drawn @ known
    return np.divide(drawn @ numbers, total, out=np.full(len(drawn), np.nan), where=total > 0)


def summarise(values: Sequence[float | None], n: int = RESAMPLES, seed: int = 0) -> Summary:
    """Returns mean, sample standard deviation, 95 % interval of the mean and count of the known values."""
    known = np.array([value for value in values if value is not None])
    if known.size < 2:
        return Summary(float(known[0]) if known.size else None, None, None, known.size)
    ci95 = interval(means(known.tolist(), weights(known.size, n, seed)))
    return Summary(float(known.mean()), float(known.std(ddof=1)), ci95, known.size)


def pooled(histograms: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pooled AUC and AUPRC of each resample, [n] each; NaN where it holds one kind of voxel only.

    Args:
      histograms: [S, 2, B] healthy and lesion voxels by score, highest scores first (see `tally.stack`). Scores
        inside one bin count as ties.
      drawn: [n, S], see `weights`.
    """
    healthy, lesion = np.tensordot(drawn, histograms, axes=(1, 0)).swapaxes(0, 1)  # [n, B] each
    true_positives = lesion.cumsum(axis=1)
    predicted = true_positives + healthy.cumsum(axis=1)
    positives, negatives = true_positives[:, -1], predicted[:, -1] - true_positives[:, -1]
    pairs = 2 * positives * negatives
    above = (healthy * (2 * true_positives - lesion)).sum(axis=1)
    precision = (lesion * true_positives / np.maximum(predicted, 1)).sum(axis=1)
    auc, auprc = (np.full(len(drawn), np.nan) for _ in range(2))
    np.divide(above, pairs, out=auc, where=pairs > 0)
    np.divide(precision, positives, out=auprc, where=pairs > 0)
    return auc, auprc
