"""What the tails of healthy scores say beside thresholds: p-values, promised volumes, the largest false positives."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lgjax.calibration import components, null, promise, strata
from lgjax.calibration.components import Largest
from lgjax.calibration.null import Null
from lgjax.calibration.promise import Promise
from lgjax.calibration.scores import anomaly
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import UsageError
from lgjax.runtime.shares import Share
from lgjax.workdir.calibrations import Calibration


class Tails(NamedTuple):
    """The tails of one score; None for what a calibration does not know."""

    null: Null | None = None
    promise: Promise | None = None
    largest: Largest | None = None


def learn(
    score: str,
    changes: Sequence[np.ndarray],
    healthy: Share[Prepared],
    thresholds: Mapping[str, float],
    volumes: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Learns the tails of one score from healthy scans.

    Args:
      score: by name.
      changes: Y - X at the brain voxels of each scan of all hosts, [n].
      healthy: the scans.
      thresholds: of the score, by false positive rate.
      volumes: of false positives, to promise, from `promise.volume_names`.

    Returns:
      The tails as a record keeps them, by the fields of `Calibration`.
    """
    scored = [anomaly(change, score) for change in changes]
    brains = [scan.placement.brain for scan in healthy.own]
    cells = [strata.cells(brain, scan.image.affine)[brain] for scan, brain in zip(healthy.own, brains, strict=True)]
    voxel_ml = [scan.image.voxel_ml for scan in healthy.own]
    own = zip(healthy.of(scored), brains, voxel_ml, strict=True)
    largest = healthy.pooled([components.volumes(values, brain, ml, thresholds) for values, brain, ml in own])
    return {
        "null": null.learn(score, scored, healthy.pooled_arrays(cells))._asdict(),
        "volume_thresholds": promise.learn(score, scored, healthy.pooled(voxel_ml), volumes)._asdict(),
        "largest": components.pooled(score, largest)._asdict(),
    }


def read(calibration: Calibration, score: str) -> Tails:
    """Returns the tails of a score that a calibration knows: none where it was made earlier, or for another score."""
    known, promised, largest = calibration.null, calibration.volume_thresholds, calibration.largest
    if not (known and promised and largest) or missing(calibration, score):
        return Tails()
    return Tails(Null(**known), Promise(**promised), Largest(**largest))


def missing(calibration: Calibration, score: str) -> str:
    """Says why a score has no tails although another one has; "": it has, or the calibration knows of none."""
    other = calibration.null and calibration.null["score"]
    if other in (None, score):
        return ""
    return f"no p-values and no promised volumes: these were calibrated for the score {other}, not {score}"


def thresholds(found: Promise | None, volumes: Sequence[float]) -> dict[str, float] | None:
    """Returns the thresholds of promised volumes, mL, those that can be promised; None where none can.

    Raises:
      UsageError: calibration was not asked for one of them.
    """
    if found is None:
        return None
    asked = promise.volume_names(volumes)
    if unknown := [volume for volume in asked if volume not in found.thresholds]:
        problem = f"--config.restore.false_positive_volumes={','.join(unknown)}: was not calibrated"
        raise UsageError(f"{problem}. Calibrate with the same volumes, or leave them out.")
    kept = {volume: found.thresholds[volume] for volume in asked}
    return {volume: threshold for volume, threshold in kept.items() if threshold is not None} or None


def about(found: Null | None, scans: int) -> dict[str, int] | None:
    """Returns what a sidecar says of its p-values: from how many voxels of how many healthy scans they come."""
    return found and {"Scans": scans, "Voxels": sum(found.voxels), "Strata": len(found.voxels)}


def largest(found: Largest | None, rate: str) -> list[float] | None:
    """Returns the largest false positive of every healthy scan at one false positive rate, mL; None: nobody knows."""
    return found and found.volumes.get(rate)


def broken(calibration: Calibration) -> list[str]:
    """Says in a line each which volumes cannot be promised, for a person."""
    if not calibration.volume_thresholds:
        return []
    found, needs = Promise(**calibration.volume_thresholds), f"at least {promise.CAP - 1} are needed"
    few = [volume for volume, threshold in found.thresholds.items() if threshold is None]
    scans = counted(found.scans, "healthy scan")
    return [f"{scans} cannot promise a volume of {volume} mL of false positives: {needs}" for volume in few]
