"""Thresholds that bound the expected false positive volume of a healthy scan, by conformal risk control."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CAP = 10  # times the promised volume: what a scan's false positives count, at most
_ROUNDING = 1e-9


class Promise(NamedTuple):
    """Thresholds by promised volume in mL ("1"), as a record keeps them."""

    score: str
    scans: int  # n, healthy ones
    caps: dict[str, float]  # B, mL: what one scan counts at most
    thresholds: dict[str, float | None]  # None: no promise is possible with so few scans
    means: dict[str, float | None]  # mL, of the calibration scans' capped false positives at the threshold


def volume_names(volumes: Sequence[float]) -> tuple[str, ...]:
    """Returns what promised volumes, mL, are named by, ascending."""
    return tuple(f"{volume:g}" for volume in sorted(volumes))


def learn(score: str, scores: Sequence[np.ndarray], voxel_ml: Sequence[float], volumes: Sequence[str]) -> Promise:
    """Finds the threshold of every promised volume.

    Args:
      score: by name.
      scores: of the brain voxels of each healthy scan, [n] float32.
      voxel_ml: volume of a voxel of each scan.
      volumes: to promise, mL, from `volume_names`.
    """
    healthy = Healthy(scores, voxel_ml)
    caps = {volume: CAP * float(volume) for volume in volumes}
    found = {volume: healthy.threshold(float(volume), cap) for volume, cap in caps.items()}
    means = {volume: None if t is None else healthy.mean(t, caps[volume]) for volume, t in found.items()}
    return Promise(score, len(scores), caps, found, means)


class Healthy:
    """Scores of healthy scans, sorted."""

    def __init__(self, scores: Sequence[np.ndarray], voxel_ml: Sequence[float]):
        """Sorts the scores; arguments as in `learn`."""
        self.scores, self.voxel_ml = [np.sort(values) for values in scores], voxel_ml
        self.steps = np.unique(np.concatenate(scores))  # where the volumes change

    def mean(self, threshold: float, cap: float) -> float:
        """Returns Rhat(t), mL: the mean over the scans of min(volume of the voxels that score above t, cap)."""
        above = [len(s) - np.searchsorted(s, np.float32(threshold), side="right") for s in self.scores]
        losses = [min(count * ml, cap) for count, ml in zip(above, self.voxel_ml, strict=True)]
        return float(np.mean(losses))

    def threshold(self, volume: float, cap: float) -> float | None:
        """Returns inf{t: n / (n + 1) Rhat(t) + B / (n + 1) <= V} (Angelopoulos et al. 2024), None for the empty set.

        A scan that is exchangeable with the n scans has an expected loss of at most V at this threshold. Rhat falls
        with t and changes at scores alone, so that the infimum is one of the scores.

        Args:
          volume: V, mL.
          cap: B, mL.
        """
        n = len(self.scores)
        if cap > (n + 1) * volume * (1 + _ROUNDING):
            return None

        def holds(t: float) -> bool:
            return (n * self.mean(t, cap) + cap) / (n + 1) <= volume

        highest = len(self.steps) - 1  # where no voxel is left
        return float(self.steps[bisect.bisect_left(self.steps, True, hi=highest, key=holds)])
