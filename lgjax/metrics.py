"""How well an anomaly score finds lesions: pure NumPy functions on voxels and on subjects.

A metric that is undefined is None, never 0 and never NaN; who calls states the reason. Pooled metrics start
from one `Ranking`, one sort of all voxels: AUC, AUPRC, oracle Dice and both curves come from the same counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours: voxels that share a corner are one lesion


class Ranking(NamedTuple):
    """Counts at every distinct score, highest score first; a voxel is predicted where score >= threshold."""

    thresholds: np.ndarray  # [D], distinct scores, descending
    true_positives: np.ndarray  # [D] int64, lesion voxels at or above the threshold
    predicted: np.ndarray  # [D] int64, voxels at or above the threshold

    @property
    def positives(self) -> int:
        """Number of lesion voxels."""
        return int(self.true_positives[-1]) if self.true_positives.size else 0

    @property
    def negatives(self) -> int:
        """Number of healthy voxels."""
        return int(self.predicted[-1]) - self.positives if self.predicted.size else 0


class LesionWise(NamedTuple):
    """Detection counted in lesions instead of voxels; None where undefined."""

    sensitivity: float | None  # found reference lesions / reference lesions
    ppv: float | None  # true predicted components / predicted components
    f1: float | None  # harmonic mean of the two
    n_reference: int
    n_predicted: int


class Summary(NamedTuple):
    """One metric over subjects; subjects whose value is None are left out and not counted."""

    mean: float | None
    std: float | None  # sample standard deviation (n - 1)
    ci95: tuple[float, float] | None
    n: int


def dice(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Returns 2 |P and R| / (|P| + |R|) of two masks of one shape; None when both are empty."""
    size = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2.0 * np.count_nonzero(np.logical_and(prediction, reference)) / size if size else None


def fpr(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Returns the share of healthy voxels (reference False) that are predicted; None when there are none."""
    healthy = np.logical_not(reference)
    negatives = np.count_nonzero(healthy)
    return np.count_nonzero(np.logical_and(prediction, healthy)) / negatives if negatives else None


def lesion_wise(prediction: np.ndarray, reference: np.ndarray) -> LesionWise:
    """Counts 26-connected components of two masks, [X, Y, Z].

    A reference lesion is found if at least one of its voxels is predicted; a predicted component is true if
    at least one of its voxels is lesion. F1 is 0 when there are reference lesions and none is found.
    """
    lesions, n_reference = ndimage.label(reference, CONNECTIVITY)
    components, n_predicted = ndimage.label(prediction, CONNECTIVITY)
    overlap = np.logical_and(prediction, reference)
    found = np.unique(lesions[overlap]).size
    sensitivity = found / n_reference if n_reference else None
    ppv = np.unique(components[overlap]).size / n_predicted if n_predicted else None
    f1 = None if sensitivity is None else 0.0
    if sensitivity and ppv:
        f1 = 2 * sensitivity * ppv / (sensitivity + ppv)
    return LesionWise(sensitivity, ppv, f1, n_reference, n_predicted)


def rank(scores: np.ndarray, labels: np.ndarray) -> Ranking:
    """Sorts all voxels once.

    Args:
      scores: [N] floats, higher means more anomalous; finite.
      labels: [N] bool, True inside a lesion.

    Returns:
      The counts from which every pooled metric follows; ties share one row.
    """
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"expected scores and labels [N], got {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    last = np.append(scores[1:] != scores[:-1], scores.size > 0)[: scores.size]  # last voxel of every run of ties
    true_positives = np.cumsum(labels[order], dtype=np.int64)[last]
    return Ranking(scores[last], true_positives, np.flatnonzero(last) + 1)


def undefined_ranking(ranking: Ranking) -> str | None:
    """Returns why AUC, AUPRC and the oracle Dice mean nothing here; None where they do."""
    if ranking.positives == 0:
        return "no lesion voxel in the reference"
    if ranking.negatives == 0:
        return "no healthy voxel: the lesion fills the brain mask"
    if ranking.thresholds.size == 1:
        return "the score is constant"
    return None


def auc(ranking: Ranking) -> float | None:
    """Returns the area under the ROC curve: P(lesion voxel scores above healthy voxel), ties count one half.

    Exact (Mann-Whitney): the sum runs in integers. None for one class or a constant score.
    """
    if undefined_ranking(ranking):
        return None
    twice_above = ranking.true_positives + np.append(0, ranking.true_positives[:-1])
    return int(np.sum(_false_positives(ranking) * twice_above)) / (2 * ranking.positives * ranking.negatives)


def auprc(ranking: Ranking) -> float | None:
    """Returns average precision, the sum of precision over steps of recall, without interpolation."""
    if undefined_ranking(ranking):
        return None
    steps = np.diff(ranking.true_positives, prepend=0)
    return float(np.sum(steps * (ranking.true_positives / ranking.predicted)) / ranking.positives)


def oracle_dice(ranking: Ranking) -> tuple[float, float] | None:
    """Returns the best Dice that one threshold reaches on the pooled voxels, and it (score >= threshold)."""
    if undefined_ranking(ranking):
        return None
    scores = 2 * ranking.true_positives / (ranking.predicted + ranking.positives)
    best = int(np.argmax(scores))
    return float(scores[best]), float(ranking.thresholds[best])


def roc_curve(ranking: Ranking, points: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Returns false and true positive rates, [<= points + 1], thinned for drawing and starting at (0, 0)."""
    kept = _thin(ranking, points)
    true_positives = ranking.true_positives[kept]
    false_positives = ranking.predicted[kept] - true_positives
    return np.append(0, false_positives / ranking.negatives), np.append(0, true_positives / ranking.positives)


def precision_recall_curve(ranking: Ranking, points: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision, [<= points], thinned for drawing, recall ascending."""
    kept = _thin(ranking, points)
    true_positives = ranking.true_positives[kept]
    return true_positives / ranking.positives, true_positives / ranking.predicted[kept]


def bootstrap_mean(values: Sequence[float | None], n: int = 1000, seed: int = 0) -> tuple[float, float] | None:
    """Returns the 95 % percentile interval of the mean over `n` resamples of subjects.

    None values are left out; the interval of fewer than two subjects is None.
    """
    known = np.array([value for value in values if value is not None])
    if known.size < 2:
        return None
    means = known[np.random.default_rng(seed).integers(known.size, size=(n, known.size))].mean(axis=1)
    return _interval(means)


def summarise(values: Sequence[float | None], n: int = 1000, seed: int = 0) -> Summary:
    """Returns mean, sample standard deviation, bootstrap interval and count of the known values."""
    known = np.array([value for value in values if value is not None])
    mean = float(known.mean()) if known.size else None
    std = float(known.std(ddof=1)) if known.size > 1 else None
    return Summary(mean, std, bootstrap_mean(values, n, seed), known.size)


def bin_edges(ranking: Ranking, bins: int = 4096) -> np.ndarray:
    """Returns at most `bins` - 1 ascending scores: half quantiles of all voxels, half of lesion voxels.

    Lesions are rare, so quantiles of all voxels alone would leave AUPRC only a few bins.
    """
    half = np.linspace(0, 1, bins // 2, endpoint=False)[1:]
    rows = np.append(
        np.searchsorted(ranking.predicted, half * ranking.predicted[-1]),
        np.searchsorted(ranking.true_positives, half * ranking.positives),
    )
    return ranking.thresholds[np.unique(rows)[::-1]]


def histogram(scores: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns healthy and lesion voxel counts, [2, B + 1] int64, highest scores first."""
    bins = edges.size - np.searchsorted(edges, scores, side="right")
    return np.stack([np.bincount(bins[labels == kind], minlength=edges.size + 1) for kind in (False, True)])


def bootstrap_pooled(histograms: np.ndarray, n: int = 1000, seed: int = 0):
    """Returns the 95 % intervals of pooled AUC and AUPRC over resamples of subjects, each (lo, hi) or None.

    Args:
      histograms: [S, 2, B], one `histogram` a subject over the same edges. Scores inside one bin count as
        ties, so the intervals are those of binned scores.
      n: number of resamples; those that draw no lesion or no healthy voxel are left out.
      seed: of the resampling.
    """
    subjects = histograms.shape[0]
    if subjects < 2:
        return None, None
    weights = np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=n)
    healthy, lesion = np.tensordot(weights.astype(np.float64), histograms, axes=(1, 0)).swapaxes(0, 1)  # [n, B] each
    usable = (healthy.sum(axis=1) > 0) & (lesion.sum(axis=1) > 0)
    if not usable.any():
        return None, None
    healthy, lesion = healthy[usable], lesion[usable]
    true_positives = lesion.cumsum(axis=1)
    predicted = true_positives + healthy.cumsum(axis=1)
    positives = true_positives[:, -1]
    areas = (healthy * (2 * true_positives - lesion)).sum(axis=1) / (2 * positives * healthy.sum(axis=1))
    precision = (lesion * true_positives / np.maximum(predicted, 1)).sum(axis=1) / positives
    return _interval(areas), _interval(precision)


def _false_positives(ranking: Ranking) -> np.ndarray:
    """Returns healthy voxels gained at each row, [D] int64."""
    return np.diff(ranking.predicted, prepend=0) - np.diff(ranking.true_positives, prepend=0)


def _thin(ranking: Ranking, points: int) -> np.ndarray:
    """Returns rows, ascending and with the last, at even steps of both false and true positives."""
    steps = np.linspace(0, 1, points // 2)
    false_positives = ranking.predicted - ranking.true_positives
    rows = np.append(
        np.searchsorted(false_positives, steps * ranking.negatives),
        np.searchsorted(ranking.true_positives, steps * ranking.positives),
    )
    rows[points // 2 - 1] = ranking.predicted.size - 1
    return np.unique(rows)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    """Returns the 2.5 and 97.5 percentiles."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
