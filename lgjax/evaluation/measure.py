"""From finished restorations and references to metrics: one subject, a set of subjects, a folder.

One subject is in memory at a time: what stays of it is its line of the table, its part of a bounded tally of all
voxels, and a coarse histogram for the bootstrap.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lgjax.derivatives.read import Prediction, read_predictions
from lgjax.evaluation import bootstrap, metrics, origin, tally
from lgjax.evaluation.metrics import Curves
from lgjax.methods.names import MASK_RATE
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.scans import orientation, sources
from lgjax.scans.volume import Volume

COARSE = 16  # bits of a score that the bootstrap does without: bins less than 1 % wide
FEW = "fewer than two subjects"


class Case(NamedTuple):
    """One measured subject."""

    row: dict[str, Any]  # its line of subjects.tsv; None where undefined
    scores: tally.Tally  # of its brain voxels


class Result(NamedTuple):
    """One evaluated method."""

    name: str
    metrics: dict[str, Any]  # metrics.json
    rows: list[dict[str, Any]]  # subjects.tsv, evaluated subjects only
    curves: Curves | None  # None where AUC is undefined
    histograms: dict[str, tally.Tally]  # coarse tallies of these subjects by participant_id


def measure(prediction: Prediction, subject: sources.Subject) -> Case:
    """Measures one subject; Dice and lesion-wise metrics are None where its reference holds no lesion.

    Raises:
      InputError: an image is unreadable or on another grid, the map is not finite, or there is no reference.
    """
    scan, anomaly = subject.image(), prediction.read("desc-anomaly_T2w")
    brain = prediction.mask("desc-brain_mask", anomaly)
    if not brain.any() or not np.isfinite(anomaly.data[brain]).all():
        raise InputError(anomaly.source, "has no brain voxel or values that are not finite", "Restore it again")
    whole = reference_mask(subject, anomaly)
    step = prediction.sidecar["SliceStep"]
    axis, looked = _looked_at(brain, anomaly.affine, step)
    spaced = anomaly.affine @ np.diag([step if i == axis else 1 for i in range(4)])  # of the slices looked at alone
    reference = whole & brain
    scores, lesion = anomaly.data[brain], reference[brain]
    millilitres = anomaly.voxel_ml
    outside = int(np.compress(looked, whole, axis).sum() - lesion.sum())
    row: dict[str, Any] = {
        "participant_id": subject.identifier,
        "kind": subject.kind,
        "brain_voxels": int(brain.sum()),
        "lesion_voxels": int(lesion.sum()),
        "lesion_ml": float(lesion.sum() * millilitres),
        "lesion_outside_brain_voxels": outside,
        "reference_voxels": int(whole.sum()),
    }
    counted, distance, false_positive = metrics.LesionWise(None, None, None, 0, 0), None, None
    for rate in prediction.sidecar["Thresholds"]:
        detected = prediction.detected(rate, anomaly) & brain
        row[f"dice_{rate}"] = metrics.dice(detected, reference) if lesion.any() else None
        row[f"fpr_{rate}"] = metrics.fpr(detected[brain], lesion)
        if rate == MASK_RATE:
            false_positive = float((detected & ~reference).sum() * millilitres)
            # Without the slices in between, which were not looked at and would cut a lesion in many.
            ours, theirs = (np.compress(looked, mask, axis) for mask in (detected, reference))
            distance = metrics.hd95(ours, theirs, spaced)
            if lesion.any():
                counted = metrics.lesion_wise(ours, theirs)
    row |= {"sensitivity": counted.sensitivity, "ppv": counted.ppv, "f1": counted.f1}
    row |= {"reference_lesions": counted.n_reference, "predicted_components": counted.n_predicted}
    row |= {"hd95": distance, "false_positive_ml": false_positive}
    row |= {"seconds_per_iteration": prediction.sidecar.get("SecondsPerIteration")}
    row["input_sha256"] = prediction.sidecar["InputSHA256"]
    row["same_scan"] = scan.sha256 == row["input_sha256"]  # else the reference may belong to another image
    return Case(row, tally.count(scores, lesion))


def _looked_at(brain: np.ndarray, affine: np.ndarray, step: int) -> tuple[int, np.ndarray]:
    """Returns the axis closest to the body's and which slices along it were restored, [S] bool."""
    axis = orientation.axial_axis(affine)
    if step == 1:
        return axis, np.ones(brain.shape[axis], bool)
    return axis, np.moveaxis(brain, axis, 0).reshape(brain.shape[axis], -1).sum(axis=1) > 0


def reference_mask(subject: sources.Subject, like: Volume) -> np.ndarray:
    """Returns the reference on the grid of `like`, [X, Y, Z] bool; subjects of kind "healthy" need none."""
    reference = sources.reference(subject, like)
    if reference is None:
        if subject.kind != "healthy":
            remedy = "Add its segmentation, or say that its lesion_kind is healthy"
            raise InputError(subject.original, "has no reference segmentation", remedy)
        return np.zeros(like.data.shape, bool)
    return reference


def aggregate(
    rows: Sequence[Mapping[str, Any]],
    histograms: Sequence[tally.Tally],
    pooled: tally.Tally,
    rates: Sequence[str],
    seed: int = 0,
) -> tuple[dict[str, Any], Curves | None]:
    """Returns the metrics of a set of subjects as in metrics.json, and the curves (None: undefined).

    Args:
      rows: lines of subjects.tsv.
      histograms: coarse tallies of the same subjects, for the intervals of AUC and AUPRC.
      pooled: tally of all their voxels.
      rates: asked false positive rates, as in the names of columns.
      seed: of the bootstrap.
    """
    ranking = tally.ranking(pooled)
    prevalence = ranking.positives / (ranking.positives + ranking.negatives)
    reasons: dict[str, str] = {}
    result: dict[str, Any] = {
        "n_subjects": len(rows),
        "n_with_lesion": sum(row["lesion_voxels"] > 0 for row in rows),
        "negatives": "brain",
        **_pooled_entries(ranking, pooled, histograms, reasons, seed),
        "prevalence": prevalence,
        "dice": {rate: _dice_entry(rows, rate, reasons, seed) for rate in rates},
        **_mask_entries(rows, rates, reasons, seed),
        "lesion_outside_brain_voxels": sum(row["lesion_outside_brain_voxels"] for row in rows),
        "other_scans": sum(not row["same_scan"] for row in rows),
        "subjects": len(rows),
        "reasons": reasons,
    }
    if result["auc"] is None:
        return result, None
    return result, Curves(metrics.roc_curve(ranking), metrics.precision_recall_curve(ranking), prevalence)


def evaluate(folder: pathlib.Path, subjects: Sequence[sources.Subject], labels: str, progress: bool = True) -> Result:
    """Evaluates one folder of predictions against references.

    Args:
      folder: what lgjax.restore wrote.
      subjects: the references.
      labels: how the user named them, for messages and provenance.
      progress: whether to show a bar.

    Raises:
      UsageError: duplicates, several experiments in one folder, or a calibration subject among the tested.
      InputError: no subject could be evaluated.
    """
    predictions, failed = read_predictions(folder)
    references = _by_identifier(subjects, labels)
    missing = {name: f"{folder} holds no prediction of it" for name in references if name not in predictions}
    missing |= {name: f"{labels} holds no reference of it" for name in predictions if name not in references}
    failed = missing | failed
    matched = {name: item for name, item in predictions.items() if name in references}
    _check_no_leak(folder, matched.values())
    rows: list[dict[str, Any]] = []
    histograms: dict[str, tally.Tally] = {}
    pools: dict[str, tally.Tally] = {}  # by kind
    for name, prediction in tqdm(matched.items(), desc=folder.name, unit="subject", disable=not progress or None):
        try:
            row, scores = measure(prediction, references[name])
        except LgjaxError as error:
            failed[name] = str(error)
            continue
        rows.append(row)
        histograms[name] = tally.coarsen(scores, COARSE)
        pools[row["kind"]] = tally.merge([pools[row["kind"]], scores] if row["kind"] in pools else [scores])
    if not rows:
        reasons = "; ".join(f"{name}: {text}" for name, text in sorted(failed.items())[:3])
        raise InputError(folder, f"no subject could be evaluated ({reasons})", "Check --predictions and --labels")
    first = next(iter(matched.values())).sidecar
    rates = list(first["Thresholds"])
    found, curves = aggregate(rows, list(histograms.values()), tally.merge(list(pools.values())), rates)
    found["groups"] = {}
    for kind in sorted(pools.keys() - {""}):
        members = [row for row in rows if row["kind"] == kind]
        coarse = [histograms[row["participant_id"]] for row in members]
        found["groups"][kind] = aggregate(members, coarse, pools[kind], rates)[0]
    used = [matched[name].sidecar for name in histograms]
    head = {"method": first["Method"], "score": first["Score"], **found, "thresholds": first["Thresholds"]}
    head |= origin.restoration(used, head["reasons"])
    head["failed"] = dict(sorted(failed.items()))
    head["provenance"] = origin.provenance(folder, labels, used)
    return Result(first["Method"], head, rows, curves, histograms)


def _by_identifier(subjects: Sequence[sources.Subject], labels: str) -> dict[str, sources.Subject]:
    references: dict[str, sources.Subject] = {}
    for subject in subjects:
        if subject.identifier in references:
            raise UsageError(f"{labels} holds two references of {subject.identifier}. Remove one of them.")
        references[subject.identifier] = subject
    return references


def _check_no_leak(folder: pathlib.Path, predictions: Iterable[Prediction]) -> None:
    """Networks, thresholds and lambda come from the training and calibration subjects: they cannot be test subjects."""
    sidecars = {prediction.identifier: prediction.sidecar for prediction in predictions}
    calibration = {sha256 for item in sidecars.values() for sha256 in item.get("CalibrationSubjects", [])}
    leaked = [name for name, item in sidecars.items() if item["InputSHA256"] in calibration]
    if leaked:
        problem = f"{', '.join(leaked)} in {folder} served to calibrate lambda and the thresholds"
        raise UsageError(f"{problem}. Evaluate other subjects, or calibrate on others.")
    if seen := [name for name, item in sidecars.items() if item.get("UsedInTraining")]:
        raise UsageError(f"{', '.join(seen)} in {folder} served to train the model. Evaluate other subjects.")


def _pooled_entries(ranking, pooled, histograms, reasons: dict[str, str], seed: int) -> dict[str, Any]:
    """AUC, AUPRC and oracle Dice, their intervals and how exact they are."""
    why, oracle = metrics.undefined_ranking(ranking), metrics.oracle_dice(ranking)
    intervals: dict[str, bootstrap.Interval] = {"auc": None, "auprc": None}
    resolution: tuple[float | None, float | None] = (None, None)
    if why:
        names = ("auc", "auprc", "dice_oracle", "oracle_threshold", "auc_resolution", "auprc_resolution")
        reasons |= {key: why for key in (*names, "ci95/auc", "ci95/auprc")}
    else:
        resolution = tally.resolution(pooled)
        if len(histograms) > 1:
            samples = bootstrap.pooled(tally.stack(histograms), bootstrap.weights(len(histograms), seed=seed))
            intervals = dict(zip(intervals, map(bootstrap.interval, samples), strict=True))
        reasons |= {f"ci95/{key}": FEW for key, value in intervals.items() if value is None}
    return {
        "auc": metrics.auc(ranking),
        "auprc": metrics.auprc(ranking),
        "auc_resolution": resolution[0],  # largest possible distance to the exact value
        "auprc_resolution": resolution[1],
        "score_bits": 32 - pooled.shift,  # of float32 that the pooled metrics tell apart; 32: exact
        "ci95": intervals,
        "dice_oracle": oracle and oracle[0],
        "oracle_threshold": oracle and oracle[1],
    }


def _dice_entry(rows: Sequence[Mapping], rate: str, reasons: dict[str, str], seed: int) -> dict[str, Any]:
    entry = _summary(rows, f"dice_{rate}", f"dice/{rate}", "no subject with a lesion", reasons, seed)
    healthy = [row["brain_voxels"] - row["lesion_voxels"] for row in rows]
    found = sum((row[f"fpr_{rate}"] or 0) * count for row, count in zip(rows, healthy, strict=True))
    achieved = round(found) / sum(healthy) if sum(healthy) else None  # pooled: counts are whole numbers
    if achieved is None:
        reasons[f"dice/{rate}/achieved_fpr"] = "no healthy voxel"
    return {**entry, "achieved_fpr": achieved}


def _mask_entries(rows: Sequence[Mapping], rates: Sequence[str], reasons: dict[str, str], seed: int) -> dict[str, Any]:
    """What is counted in the mask at 1 % FPR: lesions, distances, false positive volume of healthy subjects."""
    no_mask = None if MASK_RATE in rates else "no detection mask at 1 % FPR"
    lesion_wise: dict[str, Any] = {"fpr": float(MASK_RATE), "ci95": {}}
    for key in ("sensitivity", "ppv", "f1"):
        why = no_mask or "no subject with a lesion, or nothing detected"
        found = bootstrap.summarise([row[key] for row in rows], seed=seed)
        lesion_wise[key], lesion_wise["ci95"][key] = found.mean, found.ci95
        if found.mean is None:
            reasons[f"lesion_wise/{key}"] = why
        if found.ci95 is None:
            reasons[f"lesion_wise/ci95/{key}"] = FEW if found.n else why
    healthy = [row for row in rows if not row["reference_voxels"]]
    why_hd95 = no_mask or "no subject with both a lesion and a detection"
    why_healthy = no_mask or "no subject without a lesion"
    return {
        "lesion_wise": lesion_wise,
        "hd95": _summary(rows, "hd95", "hd95", why_hd95, reasons, seed),  # mm
        "healthy_fp_ml": _summary(healthy, "false_positive_ml", "healthy_fp_ml", why_healthy, reasons, seed),
    }


def _summary(
    rows: Sequence[Mapping], column: str, key: str, why: str, reasons: dict[str, str], seed: int
) -> dict[str, Any]:
    """Summarises a column over subjects; where that is undefined, `why` goes to `reasons` under `key`."""
    entry = bootstrap.summarise([row[column] for row in rows], seed=seed)._asdict()
    undefined = [part for part in ("mean", "std", "ci95") if entry[part] is None]
    reasons |= {f"{key}/{part}": FEW if entry["n"] else why for part in undefined}
    return entry
