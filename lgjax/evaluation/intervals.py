"""Intervals and tests over subjects: how far a number would move with other subjects of the same kind.

Everything is Student's t on a standard error with n - 1 degrees of freedom. The error of a mean is s / sqrt(n); that of
a pooled metric is the jackknife's over subjects (Tukey 1958), which for a mean is the same number. Nothing is drawn.
`benchmarks/coverage.py` has why: with 6 to 20 subjects, percentile and BCa bootstraps cover less, or as much at best.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

LEVEL = 0.95
Interval = tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """One metric over subjects; subjects whose value is None are left out and not counted."""

    mean: float | None
    std: float | None  # sample standard deviation (n - 1)
    ci95: Interval
    n: int


def summarise(values: Sequence[float | None], least: int, highest: float = np.inf) -> Summary:
    """Returns mean, sample standard deviation, 95 % interval of the mean and count of the known values.

    Args:
      values: [S], each at least 0; None where undefined.
      least: known values that an interval takes.
      highest: possible value: the interval ends between 0 and it.
    """
    known = np.array([value for value in values if value is not None], float)
    if known.size < 2:
        return Summary(float(known[0]) if known.size else None, None, None, known.size)
    mean, std = float(known.mean()), float(known.std(ddof=1))
    if known.size < least:
        return Summary(mean, std, None, known.size)
    low, high = student(mean, std / np.sqrt(known.size), known.size)
    return Summary(mean, std, (max(low, 0.0), min(high, highest)), known.size)


def student(value: float, error: float, subjects: int) -> tuple[float, float]:
    """Returns the 95 % interval around a value with some standard error."""
    reach = float(stats.t.ppf((1 + LEVEL) / 2, subjects - 1)) * float(error)
    return value - reach, value + reach


def p_value(value: float, error: float, subjects: int) -> float:
    """Returns the two-sided p-value of a true value of 0, from Student's t; 1 or 0 where nothing varies."""
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * stats.t.sf(abs(value) / error, subjects - 1))


def leave_one_out(subjects: int) -> np.ndarray:
    """Returns how often each subject counts, [1 + S, S]: in the first row all of them, then all but one."""
    return np.vstack([np.ones((1, subjects)), 1 - np.eye(subjects)])


def jackknife(left_out: np.ndarray) -> float:
    """Returns the standard error of a number from its values without each of the subjects, [S] (Tukey 1958)."""
    count = left_out.size
    return float(np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)))


def area_interval(areas: np.ndarray, subjects: int) -> tuple[float, float]:
    """Returns the 95 % interval of a pooled area under a curve: Student's t on its log odds, so it ends in [0, 1].

    Args:
      areas: [1 + S], of all subjects, then without each of them; see `leave_one_out`.
      subjects: that the area rests on, see `informative`.
    """
    inside = bool(((areas > 0) & (areas < 1)).all())
    values = special.logit(areas) if inside else areas  # an area of 0 or 1 has no odds
    low, high = student(float(values[0]), jackknife(values[1:]), subjects)
    if inside:
        return float(special.expit(low)), float(special.expit(high))
    return max(low, 0.0), min(high, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that are corrected for their number (Holm 1979): compare them with the error of the family."""
    ascending = np.argsort(p_values, kind="stable")
    left = len(p_values) - np.arange(len(p_values))  # hypotheses that are not yet rejected
    corrected = np.empty(len(p_values))
    corrected[ascending] = np.minimum(1, np.maximum.accumulate(left * np.asarray(p_values, float)[ascending]))
    return corrected.tolist()


def informative(histograms: np.ndarray) -> int:
    """Returns how many subjects a pooled area rests on: those with lesion voxels or with healthy ones, the fewer."""
    return int((histograms.sum(axis=2) > 0).sum(axis=0).min())


def pooled(histograms: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pooled AUC and AUPRC of each row of weights, [n] each; NaN where it holds one kind of voxel only.

    Args:
      histograms: [S, 2, B] healthy and lesion voxels by score, highest scores first (see `tally.stack`). Scores
        inside one bin count as ties.
      weights: [n, S], how often each subject counts, see `leave_one_out`.
    """
    healthy, lesion = np.tensordot(weights, histograms, axes=(1, 0)).swapaxes(0, 1)  # [n, B] each
    true_positives = lesion.cumsum(axis=1)
    predicted = true_positives + healthy.cumsum(axis=1)
    positives, negatives = true_positives[:, -1], predicted[:, -1] - true_positives[:, -1]
    pairs = 2 * positives * negatives
    above = (healthy * (2 * true_positives - lesion)).sum(axis=1)
    precision = (lesion * true_positives / np.maximum(predicted, 1)).sum(axis=1)
    auc, auprc = (np.full(len(weights), np.nan) for _ in range(2))
    np.divide(above, pairs, out=auc, where=pairs > 0)
    np.divide(precision, positives, out=auprc, where=pairs > 0)
    return auc, auprc
