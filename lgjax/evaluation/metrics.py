"""How well an anomaly score finds lesions: pure NumPy functions on voxels and on subjects.

A metric that is undefined is None, never 0 and never NaN; who calls states the reason. Pooled metrics start
from one `Ranking` of all voxels (see `tally`): AUC, AUPRC, oracle Dice and both curves come from the same counts.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, spatial

from lgjax.evaluation.settings import NEIGHBOURS, Settings


class Curves(NamedTuple):
    """The thinned curves of one method, and the chance level."""

    roc: tuple[np.ndarray, np.ndarray]  # false positive rate, true positive rate
    precision_recall: tuple[np.ndarray, np.ndarray]  # recall, precision
    prevalence: float  # share of lesion voxels: the precision of guessing


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


def dice(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Returns 2 |P and R| / (|P| + |R|) of two masks of one shape; None when both are empty."""
    size = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2.0 * np.count_nonzero(np.logical_and(prediction, reference)) / size if size else None


def fpr(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Returns the share of healthy voxels (reference False) that are predicted; None when there are none."""
    healthy = np.logical_not(reference)
    negatives = np.count_nonzero(healthy)
    return np.count_nonzero(np.logical_and(prediction, healthy)) / negatives if negatives else None


def lesion_wise(prediction: np.ndarray, reference: np.ndarray, settings: Settings) -> LesionWise:
    """Counts connected components of two masks, [X, Y, Z], after the rule of MSSEG (Commowick et al. 2018).

    A predicted component is true if at least `settings.detection_share` of its voxels are lesion (1 - beta in MSSEG);
    a reference lesion is found if true components cover at least `settings.lesion_share` of its voxels (alpha).
    MSSEG's gamma is left out: all true components count, not the largest alone. A mask of everything finds nothing,
    unless the lesion is a good part of the brain. F1 is 0 when there are reference lesions and none is found.
    """
    structure = ndimage.generate_binary_structure(3, NEIGHBOURS[settings.connectivity])
    lesions, n_reference = ndimage.label(reference, structure)
    components, n_predicted = ndimage.label(prediction, structure)
    true = _shares(components, n_predicted, reference) >= settings.detection_share
    found = _shares(lesions, n_reference, np.append(False, true)[components]) >= settings.lesion_share
    sensitivity = float(found.mean()) if n_reference else None
    ppv = float(true.mean()) if n_predicted else None
    f1 = None if sensitivity is None else 0.0
    if sensitivity and ppv:
        f1 = 2 * sensitivity * ppv / (sensitivity + ppv)
    return LesionWise(sensitivity, ppv, f1, n_reference, n_predicted)


def hd95(prediction: np.ndarray, reference: np.ndarray, affine: np.ndarray) -> float | None:
    """Returns the symmetric 95 % Hausdorff distance of two masks [X, Y, Z] in mm; None when either is empty.

    The larger of the two directed 95th percentiles of the distance from each border voxel of one mask to the
    nearest border voxel of the other. A border voxel has one of its six neighbours outside the mask or the image.

    Args:
      affine: [4, 4], voxel indices -> mm.
    """
    if not (prediction.any() and reference.any()):
        return None
    ours, theirs = (_border(mask) @ affine[:3, :3].T for mask in (prediction, reference))
    directed = [spatial.cKDTree(end).query(start)[0] for start, end in ((ours, theirs), (theirs, ours))]
    return float(max(np.percentile(distances, 95) for distances in directed))


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


def _shares(labels: np.ndarray, count: int, mask: np.ndarray) -> np.ndarray:
    """Returns which share of each component, 1 to `count`, a mask holds, [count]."""
    inside, whole = (np.bincount(part, minlength=count + 1)[1:] for part in (labels[mask], labels.ravel()))
    return inside / whole


def _border(mask: np.ndarray) -> np.ndarray:
    """Returns the indices of the border voxels of a mask, [B, 3]."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))
