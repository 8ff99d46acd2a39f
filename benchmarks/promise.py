"""Tests p-values and promised volumes on healthy brains that calibration has not seen.

    python benchmarks/promise.py --labels=LABEL_MAPS --output=benchmarks/promise.json
    python benchmarks/promise.py --patients=FOLDER --output=benchmarks/promise_brats18.json

The method is `mirror_tv3d` as it travels with lgjax. Its tails are learnt anew, with the code that `calibrate` runs:

same     16 of 48 brains of one kind (MNI152's head, `phantom@2`) calibrate, the other 32 are judged: exchangeable
heads    24 brains of two heads of LABEL_MAPS calibrate, 24 of two other heads are judged (`phantom@2+3`)
shipped  the record that travels with lgjax (MNI152's head) judges those 24
patients the same record judges what lies outside the reference lesions of real patients, who are no healthy subjects

Coverage is the share of a scan's voxels with p <= alpha; intervals are Student's t over the judged scans. `same` is
split at random 500 times too, since what is promised holds on average over calibrations as well.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import lgjax
from lgjax.calibration import components, null, promise, strata
from lgjax.calibration.null import Null
from lgjax.calibration.promise import Promise
from lgjax.calibration.scores import anomaly, thresholds
from lgjax.derivatives import lesions
from lgjax.detector import Detector
from lgjax.evaluation import intervals
from lgjax.methods.queue import restore_scan
from lgjax.runtime import devices, files, places
from lgjax.scans import orientation, sources

ALPHAS = (0.05, 0.01, 0.001)
VOLUMES, RATE, SCORE = ("1", "5"), "0.01", "positive"
CALIBRATING, SPLITS, SEED = 16, 500, 0
EVERY = 20  # voxels, of which one counts in the splits
LESION_ALPHA = 0.1


class Scan(NamedTuple):
    """What is healthy of one scan, restored."""

    scores: np.ndarray  # of the brain's voxels outside a lesion, [n] float32
    cells: np.ndarray  # of the same, [n] uint8
    brain: np.ndarray  # bool, these voxels, cut to their box
    voxel_ml: float


class Learnt(NamedTuple):
    """What calibration learns."""

    null: Null
    promise: Promise
    threshold: float  # at RATE
    largest: list[float]  # mL, at that threshold


def restored(detector: Detector, spec: str) -> list[Scan]:
    """Restores all scans of a source."""
    found = []
    for subject in sources.find(spec):
        prepared = detector.prepare(subject)
        brain = prepared.placement.brain
        healthy = brain & (subject.lesion().data == 0) if subject.lesion else brain
        change = restore_scan(detector.runner, prepared, detector.strength).change[healthy]
        cells = strata.cells(brain, prepared.image.affine)[healthy]
        found.append(Scan(anomaly(change, SCORE), cells, healthy[orientation.box(healthy)], prepared.image.voxel_ml))
        print(subject.identifier, flush=True)
    return found


def learn(scans: Sequence[Scan]) -> Learnt:
    """Learns the tails of healthy scans."""
    scores, voxel_ml = [scan.scores for scan in scans], [scan.voxel_ml for scan in scans]
    threshold = thresholds(np.concatenate(scores), [RATE])[RATE]
    largest = components.learn(SCORE, scores, [scan.brain for scan in scans], voxel_ml, {RATE: threshold})
    return Learnt(
        null.learn(SCORE, scores, [scan.cells for scan in scans]),
        promise.learn(SCORE, scores, voxel_ml, VOLUMES),
        threshold,
        largest.volumes[RATE],
    )


def shipped(detector: Detector) -> Learnt:
    """Returns what travels with lgjax."""
    tails = detector.tails
    assert tails.null is not None
    assert tails.promise is not None
    assert tails.largest is not None
    return Learnt(tails.null, tails.promise, detector.about["Thresholds"][RATE], tails.largest.volumes[RATE])


def volume(scan: Scan, threshold: float) -> float:
    """Returns the volume of the voxels that score above a threshold, mL."""
    return float((scan.scores > np.float32(threshold)).sum() * scan.voxel_ml)


def of_scans(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean and 95 % interval of a share or a volume over scans, and the largest."""
    found = intervals.summarise(values, 6)
    ends = None if found.ci95 is None else [round(end, 6) for end in found.ci95]
    return {"mean": round(float(np.mean(values)), 6), "ci95": ends, "most": round(float(max(values)), 6)}


def coverage(learnt: Learnt, scans: Sequence[Scan]) -> dict[str, Any]:
    """Returns the share of voxels with p <= alpha, over all voxels and by stratum."""
    grid = np.array(learnt.null.strata).ravel()
    judged = [(null.pvalues(learnt.null, scan.scores, scan.cells), grid[scan.cells]) for scan in scans]
    found: dict[str, Any] = {}
    for alpha in ALPHAS:
        inside = [
            of_scans(
                [float((p[stratum == number] <= alpha).mean()) for p, stratum in judged if (stratum == number).any()]
            )
            for number in range(grid.max() + 1)
        ]
        found[f"{alpha:g}"] = {"all": of_scans([float((p <= alpha).mean()) for p, _ in judged]), "strata": inside}
    return found


def lesion_pvalues(learnt: Learnt, scans: Sequence[Scan]) -> dict[str, float]:
    """Returns the share of healthy scans whose largest false positive has a lesion's p-value of at most a tenth."""
    found = components.learn(
        SCORE,
        [s.scores for s in scans],
        [s.brain for s in scans],
        [s.voxel_ml for s in scans],
        {RATE: learnt.threshold},
    )
    values = [lesions.pvalue(ml, learnt.largest) if ml else 1.0 for ml in found.volumes[RATE]]
    return {"alpha": LESION_ALPHA, "share": round(float(np.mean([p <= LESION_ALPHA for p in values])), 4)}


def promised(learnt: Learnt, scans: Sequence[Scan]) -> dict[str, Any]:
    """Returns the false positive volumes of scans at the promised thresholds, capped and as they are."""
    found = {}
    for name, threshold in learnt.promise.thresholds.items():
        assert threshold is not None
        volumes, cap = [volume(scan, threshold) for scan in scans], learnt.promise.caps[name]
        found[name] = {
            "threshold": threshold,
            "capped_ml": of_scans([min(ml, cap) for ml in volumes]),
            "ml": of_scans(volumes),
            "at_the_cap": sum(ml >= cap for ml in volumes),
        }
    return found


def splits(scans: Sequence[Scan]) -> dict[str, Any]:
    """Learns on random scans and judges on the others, again and again: means over calibrations and scans."""
    rng, losses, shares = np.random.default_rng(SEED), dict.fromkeys(VOLUMES, 0.0), dict.fromkeys(ALPHAS, 0.0)
    tops, thinned = [top(scan) for scan in scans], [thin(scan) for scan in scans]
    for _ in range(SPLITS):
        order = rng.permutation(len(scans))
        first, others = order[:CALIBRATING], order[CALIBRATING:]
        found = promise.learn(SCORE, [tops[i].scores for i in first], [tops[i].voxel_ml for i in first], VOLUMES)
        for name, threshold in found.thresholds.items():
            assert threshold is not None
            losses[name] += float(np.mean([min(volume(tops[i], threshold), found.caps[name]) for i in others]))
        known = null.learn(SCORE, [thinned[i].scores for i in first], [thinned[i].cells for i in first])
        judged = [null.pvalues(known, thinned[i].scores, thinned[i].cells) for i in others]
        for alpha in ALPHAS:
            shares[alpha] += float(np.mean([(p <= alpha).mean() for p in judged]))
    return {
        "capped_ml": {name: round(total / SPLITS, 4) for name, total in losses.items()},
        "coverage": {f"{alpha:g}": round(total / SPLITS, 6) for alpha, total in shares.items()},
    }


def top(scan: Scan) -> Scan:
    """Keeps the highest scores of a scan, a little more than the largest cap holds: no loss depends on the others."""
    count = int(promise.CAP * max(map(float, VOLUMES)) / scan.voxel_ml) + 2
    return scan._replace(scores=np.sort(scan.scores)[-count:])


def thin(scan: Scan) -> Scan:
    """Keeps one voxel in so many."""
    return scan._replace(scores=scan.scores[::EVERY], cells=scan.cells[::EVERY])


def judged(learnt: Learnt, scans: Sequence[Scan]) -> dict[str, Any]:
    """Measures all that is promised on scans that calibration has not seen."""
    return {
        "calibrated_on": learnt.promise.scans,
        "judged": len(scans),
        "strata_voxels": learnt.null.voxels,
        "coverage": coverage(learnt, scans),
        "volumes": promised(learnt, scans),
        "lesions": lesion_pvalues(learnt, scans),
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", help="a folder of FreeSurfer-style label maps")
    parser.add_argument("--patients", help="a folder of patients with reference lesions")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    detector = lgjax.load(method="mirror_tv3d", device="cpu")
    parts: dict[str, Any] = {}
    if arguments.labels:
        same = restored(detector, "phantom@2:calibration:16") + restored(detector, "phantom@2:test/healthy:32")
        heads = restored(detector, f"phantom@2+3:calibration:24:{arguments.labels}")
        others = restored(detector, f"phantom@2+3:test/healthy:24:{arguments.labels}")
        parts["same"] = {**judged(learn(same[:CALIBRATING]), same[CALIBRATING:]), "splits": splits(same)}
        parts["heads"] = judged(learn(heads), others)
        parts["shipped"] = judged(shipped(detector), others)
    if arguments.patients:
        parts["patients"] = judged(shipped(detector), restored(detector, arguments.patients))
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "method": detector.method.name,
        "seed": SEED,
        **parts,
    }
    files.atomic_write(pathlib.Path(arguments.output), json.dumps(record, indent=1) + "\n")
    for name, part in parts.items():
        for alpha, found in part["coverage"].items():
            print(name, "p <=", alpha, found["all"])
        for volume_ml, found in part["volumes"].items():
            print(name, volume_ml, "mL", found["capped_ml"], found["ml"], found["at_the_cap"])
        print(name, part["lesions"], part.get("splits", ""))


if __name__ == "__main__":
    main()
