"""From finished restorations and references to metrics: one subject, a set of subjects, a folder."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import lgjax
from lgjax import figures, metrics, report
from lgjax.data import sources
from lgjax.data.volume import Volume
from lgjax.errors import InputError, LgjaxError, UsageError
from lgjax.predictions import Prediction, read_predictions

LESION_WISE_RATE = "0.01"  # lesions are counted in the mask at 1 % FPR


class Case(NamedTuple):
    """One measured subject."""

    row: dict[str, Any]  # its line of subjects.tsv; None where undefined
    scores: np.ndarray  # [N] float32, inside the brain
    lesion: np.ndarray  # [N] bool, inside the brain


def measure(prediction: Prediction, subject: sources.Subject) -> Case:
    """Measures one subject; Dice and lesion-wise metrics are None where its reference holds no lesion.

    Raises:
      InputError: an image is unreadable or on another grid, the map is not finite, or there is no reference.
    """
    scan, anomaly = subject.image(), prediction.read("desc-anomaly_T2w")
    brain = prediction.mask("desc-brain_mask", anomaly)
    whole = reference_mask(subject, anomaly)
    reference = whole & brain
    scores, lesion = anomaly.data[brain], reference[brain]
    if not scores.size or not np.isfinite(scores).all():
        raise InputError(anomaly.source, "has no brain voxel or values that are not finite", "Restore it again")
    row: dict[str, Any] = {
        "participant_id": subject.identifier,
        "kind": subject.kind,
        "brain_voxels": int(brain.sum()),
        "lesion_voxels": int(lesion.sum()),
        "lesion_ml": float(lesion.sum() * abs(np.linalg.det(anomaly.affine[:3, :3])) / 1000),
        "lesion_outside_brain_voxels": int(whole.sum() - lesion.sum()),
    }
    counted = metrics.LesionWise(None, None, None, 0, 0)
    for rate in prediction.sidecar["Thresholds"]:
        detected = prediction.detected(rate, anomaly) & brain
        row[f"dice_{rate}"] = metrics.dice(detected, reference) if lesion.any() else None
        row[f"fpr_{rate}"] = metrics.fpr(detected[brain], lesion)
        if rate == LESION_WISE_RATE and lesion.any():
            counted = metrics.lesion_wise(detected, reference)
    row |= {"sensitivity": counted.sensitivity, "ppv": counted.ppv, "f1": counted.f1}
    row |= {"reference_lesions": counted.n_reference, "predicted_components": counted.n_predicted}
    row["input_sha256"] = prediction.sidecar["InputSHA256"]
    row["same_scan"] = scan.sha256 == row["input_sha256"]  # else the reference may belong to another image
    return Case(row, scores, lesion)


def reference_mask(subject: sources.Subject, like: Volume) -> np.ndarray:
    """Returns the reference on the grid of `like`, [X, Y, Z] bool; subjects of kind "healthy" need none."""
    reference = sources.reference(subject, like)
    if reference is None:
        if subject.kind != "healthy":
            remedy = "Add its segmentation, or say that its lesion_kind is healthy"
            raise InputError(subject.original, "has no reference segmentation", remedy)
        return np.zeros(like.data.shape, bool)
    return reference


def aggregate(cases: Sequence[Case], rates: Sequence[str], seed: int = 0):
    """Returns the metrics of a set of subjects as in metrics.json, and the curves (None: undefined)."""
    rows = [case.row for case in cases]
    scores = np.concatenate([case.scores for case in cases])
    labels = np.concatenate([case.lesion for case in cases])
    ranking = metrics.rank(scores, labels)
    why, reasons = metrics.undefined_ranking(ranking), {}
    intervals: tuple = (None, None)
    oracle = metrics.oracle_dice(ranking)
    if why:
        reasons = {key: why for key in ("auc", "auprc", "dice_oracle", "oracle_threshold", "ci95/auc", "ci95/auprc")}
    elif len(cases) < 2:
        reasons = {f"ci95/{key}": "fewer than two subjects" for key in ("auc", "auprc")}
    else:
        edges = metrics.bin_edges(ranking)
        counts = np.stack([metrics.histogram(case.scores, case.lesion, edges) for case in cases])
        intervals = metrics.bootstrap_pooled(counts, seed=seed)
    result: dict[str, Any] = {
        "n_subjects": len(cases),
        "n_with_lesion": sum(row["lesion_voxels"] > 0 for row in rows),
        "negatives": "brain",
        "auc": metrics.auc(ranking),
        "auprc": metrics.auprc(ranking),
        "ci95": {"auc": intervals[0], "auprc": intervals[1]},
        "prevalence": float(labels.mean()),
        "dice": {rate: _dice_entry(rows, rate, reasons, seed) for rate in rates},
        "dice_oracle": oracle and oracle[0],
        "oracle_threshold": oracle and oracle[1],
        "lesion_wise": _lesion_wise_entry(rows, rates, reasons),
        "lesion_outside_brain_voxels": sum(row["lesion_outside_brain_voxels"] for row in rows),
        "other_scans": sum(not row["same_scan"] for row in rows),
        "subjects": len(cases),
        "reasons": reasons,
    }
    if why:
        return result, None
    curves = figures.Curves(metrics.roc_curve(ranking), metrics.precision_recall_curve(ranking), result["prevalence"])
    return result, curves


def evaluate(
    folder: pathlib.Path, subjects: Sequence[sources.Subject], labels: str, progress: bool = True
) -> report.Result:
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
    cases = []
    for name, prediction in tqdm(matched.items(), desc=folder.name, unit="subject", disable=not progress or None):
        try:
            cases.append(measure(prediction, references[name]))
        except LgjaxError as error:
            failed[name] = str(error)
    if not cases:
        reasons = "; ".join(f"{name}: {text}" for name, text in sorted(failed.items())[:3])
        raise InputError(folder, f"no subject could be evaluated ({reasons})", "Check --predictions and --labels")
    first = next(iter(matched.values())).sidecar
    rates = list(first["Thresholds"])
    found, curves = aggregate(cases, rates)
    kinds = sorted({case.row["kind"] for case in cases} - {""})
    found["groups"] = {
        kind: aggregate([case for case in cases if case.row["kind"] == kind], rates)[0] for kind in kinds
    }
    head = {"method": first["Method"], "score": first["Score"], **found, "thresholds": first["Thresholds"]}
    head["failed"] = dict(sorted(failed.items()))
    head["provenance"] = _provenance(folder, labels, [item.sidecar for item in matched.values()])
    return report.Result(first["Method"], head, [case.row for case in cases], curves)


def _by_identifier(subjects: Sequence[sources.Subject], labels: str) -> dict[str, sources.Subject]:
    references: dict[str, sources.Subject] = {}
    for subject in subjects:
        if subject.identifier in references:
            raise UsageError(f"{labels} holds two references of {subject.identifier}. Remove one of them.")
        references[subject.identifier] = subject
    return references


def _check_no_leak(folder: pathlib.Path, predictions: Iterable[Prediction]) -> None:
    """Thresholds and lambda were chosen on the calibration subjects: they cannot be test subjects."""
    sidecars = {prediction.identifier: prediction.sidecar for prediction in predictions}
    calibration = {sha256 for item in sidecars.values() for sha256 in item.get("CalibrationSubjects", [])}
    leaked = [name for name, item in sidecars.items() if item["InputSHA256"] in calibration]
    if leaked:
        problem = f"{', '.join(leaked)} in {folder} served to calibrate lambda and the thresholds"
        raise UsageError(f"{problem}. Evaluate other subjects, or calibrate on others.")


def _dice_entry(rows: Sequence[Mapping], rate: str, reasons: dict[str, str], seed: int) -> dict[str, Any]:
    summary = metrics.summarise([row[f"dice_{rate}"] for row in rows], seed=seed)
    for key in ("mean", "std", "ci95"):
        if getattr(summary, key) is None:
            few = "fewer than two subjects with a lesion" if summary.n else "no subject with a lesion"
            reasons[f"dice/{rate}/{key}"] = few
    healthy = [row["brain_voxels"] - row["lesion_voxels"] for row in rows]
    found = sum((row[f"fpr_{rate}"] or 0) * count for row, count in zip(rows, healthy, strict=True))
    achieved = round(found) / sum(healthy) if sum(healthy) else None  # pooled: counts are whole numbers
    if achieved is None:
        reasons[f"dice/{rate}/achieved_fpr"] = "no healthy voxel"
    return {**summary._asdict(), "achieved_fpr": achieved}


def _lesion_wise_entry(rows: Sequence[Mapping], rates: Sequence[str], reasons: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for key in ("sensitivity", "ppv", "f1"):
        entry[key] = metrics.summarise([row[key] for row in rows]).mean
        if entry[key] is None:
            no_mask = LESION_WISE_RATE not in rates
            why = "no detection mask at 1 % FPR" if no_mask else "no subject with a lesion, or nothing detected"
            reasons[f"lesion_wise/{key}"] = why
    return {**entry, "fpr": float(LESION_WISE_RATE)}


def _provenance(folder: pathlib.Path, labels: str, sidecars: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = sidecars[0]
    several = {key: sorted({str(item.get(key)) for item in sidecars}) for key in ("Version", "Device")}
    return {
        "predictions": str(folder),
        "labels": labels,
        "trained_on": first.get("TrainedOn"),
        "lambda": first.get("Lambda"),
        "config_sha256": first.get("ConfigSHA256"),
        "weights_sha256": first.get("WeightsSHA256"),
        "calibration_subjects": len(first.get("CalibrationSubjects", [])),
        "restored_by_version": ", ".join(several["Version"]),
        "device": ", ".join(several["Device"]),
        "evaluated_by_version": lgjax.__version__,
    }
