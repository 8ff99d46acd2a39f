"""All voxels of many subjects in bounded memory: every distinct score with its healthy and lesion counts.

Tallies of subjects merge into one that is exact, ties included, while it has at most `LIMIT` rows. Beyond that,
neighbouring scores share a row: scores are sorted by the bits of float32, of which as few of the lowest are
dropped as it takes. What that can cost is computed from the tally itself (`resolution`). The result does not
depend on the order of merging.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.evaluation.metrics import Ranking

LIMIT = 2**22  # rows of 24 bytes, 100 MB
MAX_SHIFT = 23  # sign and exponent always stay: at most 512 rows
SIGN = np.uint32(1 << 31)


class Tally(NamedTuple):
    """Counts by score, scores ascending; a row holds the scores whose keys agree but for the lowest `shift` bits."""

    first: np.ndarray  # [D] uint32, key of the lowest score in the row
    last: np.ndarray  # [D] uint32, key of the highest one: equal to `first` where the row is a true tie
    counts: np.ndarray  # [2, D] int64, healthy and lesion voxels
    shift: int  # bits dropped


def count(scores: np.ndarray, lesion: np.ndarray) -> Tally:
    """Returns the exact tally of one subject.

    Args:
      scores: [N] floats, taken as float32, higher means more anomalous; finite.
      lesion: [N] bool, True inside a lesion.
    """
    if scores.shape != lesion.shape or scores.ndim != 1:
        raise ValueError(f"expected scores and lesion [N], got {scores.shape} and {lesion.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    distinct, row = np.unique(keys(scores), return_inverse=True)
    counts = [np.bincount(row[lesion == kind], minlength=distinct.size) for kind in (False, True)]
    return Tally(distinct, distinct, np.array(counts, np.int64), 0)


def merge(tallies: Sequence[Tally], limit: int = LIMIT) -> Tally:
    """Returns the tally of all voxels of some tallies, in at most `limit` rows (512 or more)."""
    first = np.concatenate([item.first for item in tallies])
    order = np.argsort(first, kind="stable")  # linear: it merges sorted runs
    last = np.concatenate([item.last for item in tallies])[order]
    counts = np.concatenate([item.counts for item in tallies], axis=1)[:, order]
    merged = Tally(first[order], last, counts, 0)
    shift = max(item.shift for item in tallies)
    while _starts(merged.first, shift).size > limit and shift < MAX_SHIFT:
        shift += 1
    return coarsen(merged, shift)


def coarsen(tally: Tally, shift: int) -> Tally:
    """Returns a tally with the lowest `shift` bits of the scores dropped; each row keeps its true lowest score."""
    starts = _starts(tally.first, shift)
    if starts.size == tally.first.size:
        return tally._replace(shift=shift)
    last, counts = np.maximum.reduceat(tally.last, starts), np.add.reduceat(tally.counts, starts, axis=1)
    return Tally(tally.first[starts], last, counts, shift)


def ranking(tally: Tally) -> Ranking:
    """Returns the counts from which every pooled metric follows; exact at every threshold it lists."""
    healthy, lesion = tally.counts[:, ::-1]
    return Ranking(scores(tally.first[::-1]), np.cumsum(lesion), np.cumsum(healthy + lesion))


def resolution(tally: Tally) -> tuple[float, float]:
    """Returns how far AUC and AUPRC of the tally can be from the exact ones; 0 where no row merged scores.

    In a row that merged scores, AUC counts h l / 2 pairs where any number up to h l is possible. AUPRC takes the
    precision after the row for its l lesion voxels; it is highest if all of them come first, lowest if all h
    healthy ones do. Undefined without both kinds of voxels.
    """
    healthy, lesion = tally.counts[:, ::-1]
    before_true = np.cumsum(lesion) - lesion
    before = np.cumsum(healthy + lesion) - healthy - lesion
    mixed = (tally.first != tally.last)[::-1] & (lesion > 0)
    h, l, t, n = healthy[mixed], lesion[mixed], before_true[mixed], before[mixed]  # noqa: E741
    taken, best, worst = (t + l) / (n + h + l), (t + l) / (n + l), (t + 1) / (n + h + 1)
    area = int((h * l).sum()) / (2 * int(healthy.sum()) * int(lesion.sum()))
    return area, float((l * np.maximum(best - taken, taken - worst)).sum() / lesion.sum())


def stack(tallies: Sequence[Tally]) -> np.ndarray:
    """Returns tallies of one shift over the rows that any of them has, [S, 2, B] int64, highest scores first."""
    shift = tallies[0].shift
    bins = np.unique(np.concatenate([item.first >> shift for item in tallies]))
    stacked = np.zeros((len(tallies), 2, bins.size), np.int64)
    for target, item in zip(stacked, tallies, strict=True):
        target[:, bins.size - 1 - np.searchsorted(bins, item.first >> shift)] = item.counts
    return stacked


def keys(values: np.ndarray) -> np.ndarray:
    """Returns unsigned integers, uint32, in the order of float32 values; -0 and 0 are one."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def scores(keys: np.ndarray) -> np.ndarray:
    """Returns the float32 values of `keys`."""
    return np.where(keys & SIGN, keys ^ SIGN, ~keys).view(np.float32)


def _starts(ascending: np.ndarray, shift: int) -> np.ndarray:
    """Returns where a new row begins among ascending keys."""
    rows = ascending >> shift
    return np.flatnonzero(np.append(rows.size > 0, rows[1:] != rows[:-1])[: rows.size])
