"""From finished restorations and references to metrics: one subject, a set of subjects, a folder.

One subject is in memory at a time: what stays of it is its line of the table, its part of a bounded tally of all
voxels, and a coarse histogram for the bootstrap.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lgjax.derivatives.read import Prediction, read_predictions
from lgjax.derivatives.sidecar import Sidecar
from lgjax.evaluation import bootstrap, metrics, origin, records, references, tally
from lgjax.evaluation.metrics import Curves
from lgjax.evaluation.records import Group, Metrics, Row
from lgjax.evaluation.references import References
from lgjax.methods.names import MASK_RATE
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.scans import orientation, sources

COARSE = 16  # bits of a score that the bootstrap does without: bins less than 1 % wide


class Case(NamedTuple):
    """One measured subject."""

    row: Row
    scores: tally.Tally  # of its brain voxels


class Result(NamedTuple):
    """One evaluated method."""

    name: str
    metrics: Metrics
    rows: list[Row]  # evaluated subjects only
    curves: Curves | None  # None where AUC is undefined
    histograms: dict[str, tally.Tally]  # coarse tallies of these subjects by participant_id


def measure(prediction: Prediction, subject: sources.Subject) -> Case:
    """Measures one subject; Dice and lesion-wise metrics are None where its reference holds no lesion.

    Raises:
      InputError: an image is unreadable or on another grid, the map is not finite, or there is no reference.
    """
    sidecar = prediction.sidecar
    scan, anomaly = subject.image(), prediction.read("desc-anomaly_T2w")
    brain = prediction.mask("desc-brain_mask", anomaly)
    if not brain.any() or not np.isfinite(anomaly.data[brain]).all():
        raise InputError(anomaly.source, "has no brain voxel or values that are not finite", "Restore it again")
    whole = references.mask(subject, anomaly)
    axis, looked = _looked_at(brain, anomaly.affine, sidecar.slice_step)
    reference = whole & brain
    scores, lesion = anomaly.data[brain], reference[brain]
    masks = {rate: prediction.detected(rate, anomaly) & brain for rate in sidecar.thresholds}
    counted, distance, false_positive = metrics.LesionWise(None, None, None, 0, 0), None, None
    if (detected := masks.get(MASK_RATE)) is not None:
        # Without the slices in between, which were not looked at and would cut a lesion in many.
        ours, theirs = (np.compress(looked, mask, axis) for mask in (detected, reference))
        step = [sidecar.slice_step if i == axis else 1 for i in range(4)]
        distance = metrics.hd95(ours, theirs, anomaly.affine @ np.diag(step))
        counted = metrics.lesion_wise(ours, theirs) if lesion.any() else counted
        false_positive = float((detected & ~reference).sum() * anomaly.voxel_ml)
    row = Row(
        participant_id=subject.identifier,
        kind=subject.kind,
        brain_voxels=int(brain.sum()),
        lesion_voxels=int(lesion.sum()),
        lesion_ml=float(lesion.sum() * anomaly.voxel_ml),
        lesion_outside_brain_voxels=int(np.compress(looked, whole, axis).sum() - lesion.sum()),
        reference_voxels=int(whole.sum()),
        dice={rate: metrics.dice(mask, reference) if lesion.any() else None for rate, mask in masks.items()},
        fpr={rate: metrics.fpr(mask[brain], lesion) for rate, mask in masks.items()},
        sensitivity=counted.sensitivity,
        ppv=counted.ppv,
        f1=counted.f1,
        reference_lesions=counted.n_reference,
        predicted_components=counted.n_predicted,
        hd95=distance,
        false_positive_ml=false_positive,
        seconds_per_iteration=sidecar.seconds_per_iteration,
        input_sha256=sidecar.input_sha256,
        same_scan=scan.sha256 == sidecar.input_sha256,  # else the reference may belong to another image
    )
    return Case(row, tally.count(scores, lesion))


def _looked_at(brain: np.ndarray, affine: np.ndarray, step: int) -> tuple[int, np.ndarray]:
    """Returns the axis closest to the body's and which slices along it were restored, [S] bool."""
    axis = orientation.axial_axis(affine)
    if step == 1:
        return axis, np.ones(brain.shape[axis], bool)
    return axis, np.moveaxis(brain, axis, 0).reshape(brain.shape[axis], -1).sum(axis=1) > 0


def aggregate(
    rows: Sequence[Row],
    histograms: Sequence[tally.Tally],
    pooled: tally.Tally,
    rates: Sequence[str],
    seed: int = 0,
) -> tuple[Group, Curves | None]:
    """Returns the metrics of a set of subjects, and the curves (None: undefined).

    Args:
      rows: the subjects.
      histograms: coarse tallies of the same subjects, for the intervals of AUC and AUPRC.
      pooled: tally of all their voxels.
      rates: asked false positive rates.
      seed: of the bootstrap.
    """
    ranking = tally.ranking(pooled)
    undefined = metrics.undefined_ranking(ranking)
    auc_resolution, auprc_resolution = (None, None) if undefined else tally.resolution(pooled)
    dice_oracle, oracle_threshold = metrics.oracle_dice(ranking) or (None, None)
    healthy = [row for row in rows if not row.reference_voxels]
    found = Group(
        n_subjects=len(rows),
        n_with_lesion=sum(row.lesion_voxels > 0 for row in rows),
        negatives="brain",
        auc=metrics.auc(ranking),
        auprc=metrics.auprc(ranking),
        auc_resolution=auc_resolution,
        auprc_resolution=auprc_resolution,
        score_bits=32 - pooled.shift,
        ci95=records.AreaIntervals(None, None) if undefined else _area_intervals(histograms, seed),
        dice_oracle=dice_oracle,
        oracle_threshold=oracle_threshold,
        prevalence=ranking.positives / (ranking.positives + ranking.negatives),
        dice={rate: _dice(rows, rate, seed) for rate in rates},
        lesion_wise=_lesion_means(rows, seed),
        hd95=bootstrap.summarise([row.hd95 for row in rows], seed=seed),
        healthy_fp_ml=bootstrap.summarise([row.false_positive_ml for row in healthy], seed=seed),
        lesion_outside_brain_voxels=sum(row.lesion_outside_brain_voxels for row in rows),
        other_scans=sum(not row.same_scan for row in rows),
        subjects=len(rows),
        reasons={},
    )
    found = dataclasses.replace(found, reasons=records.group_reasons(found, undefined))
    if undefined:
        return found, None
    return found, Curves(metrics.roc_curve(ranking), metrics.precision_recall_curve(ranking), found.prevalence)


def evaluate(folder: pathlib.Path, known: References, progress: bool = True) -> Result:
    """Evaluates one folder of predictions against references.

    Args:
      folder: what lgjax.restore wrote.
      known: the references.
      progress: whether to show a bar.

    Raises:
      UsageError: duplicates, several experiments in one folder, or a calibration subject among the tested.
      InputError: no subject could be evaluated.
    """
    predictions, broken = read_predictions(folder)
    failed = {name: f"{folder} holds no prediction of it" for name in known.subjects if name not in predictions}
    failed |= {name: f"{known.labels} holds no reference of it" for name in predictions if name not in known.subjects}
    failed |= broken
    matched = {name: item for name, item in predictions.items() if name in known.subjects}
    _check_no_leak(folder, matched.values())
    rows: list[Row] = []
    histograms: dict[str, tally.Tally] = {}
    pools: dict[str, tally.Tally] = {}  # by kind
    for name, prediction in tqdm(matched.items(), desc=folder.name, unit="subject", disable=not progress or None):
        try:
            row, scores = measure(prediction, known.subjects[name])
        except LgjaxError as error:
            failed[name] = str(error)
            continue
        rows.append(row)
        histograms[name] = tally.coarsen(scores, COARSE)
        pools[row.kind] = tally.merge([pools[row.kind], scores] if row.kind in pools else [scores])
    if not rows:
        reasons = "; ".join(f"{name}: {text}" for name, text in sorted(failed.items())[:3])
        raise InputError(folder, f"no subject could be evaluated ({reasons})", "Check --predictions and --labels")
    sidecars = [matched[name].sidecar for name in histograms]
    rates = list(sidecars[0].thresholds)
    everyone, curves = aggregate(rows, list(histograms.values()), tally.merge(list(pools.values())), rates)
    groups = {}
    for kind in sorted(pools.keys() - {""}):
        members = [row for row in rows if row.kind == kind]
        coarse = [histograms[row.participant_id] for row in members]
        groups[kind], _ = aggregate(members, coarse, pools[kind], rates)
    provenance = origin.provenance(folder, known, sidecars)
    found = _metrics(everyone, groups, sidecars, dict(sorted(failed.items())), provenance)
    return Result(found.method, found, rows, curves, histograms)


def _metrics(
    everyone: Group,
    groups: dict[str, Group],
    sidecars: Sequence[Sidecar],
    failed: dict[str, str],
    provenance: records.Provenance,
) -> Metrics:
    """Returns the metrics of all subjects and of each kind, with what their sidecars tell of the restoration."""
    first = sidecars[0]
    timing, convergence = origin.timing(sidecars), origin.convergence(sidecars)
    reasons = everyone.reasons | records.restoration_reasons(timing, first.search, convergence)
    return Metrics(
        **vars(dataclasses.replace(everyone, reasons=reasons)),
        method=first.method,
        score=first.score,
        groups=groups,
        thresholds=first.thresholds,
        slice_step=first.slice_step,
        seconds_per_iteration=timing,
        search=first.search,
        convergence=convergence,
        failed=failed,
        provenance=provenance,
    )


def _check_no_leak(folder: pathlib.Path, predictions: Iterable[Prediction]) -> None:
    """Networks, thresholds and lambda come from the training and calibration subjects: they cannot be test subjects."""
    sidecars = {prediction.identifier: prediction.sidecar for prediction in predictions}
    calibration = {sha256 for item in sidecars.values() for sha256 in item.calibration_subjects}
    leaked = [name for name, item in sidecars.items() if item.input_sha256 in calibration]
    if leaked:
        problem = f"{', '.join(leaked)} in {folder} served to calibrate lambda and the thresholds"
        raise UsageError(f"{problem}. Evaluate other subjects, or calibrate on others.")
    if seen := [name for name, item in sidecars.items() if item.used_in_training]:
        raise UsageError(f"{', '.join(seen)} in {folder} served to train the model. Evaluate other subjects.")


def _area_intervals(histograms: Sequence[tally.Tally], seed: int) -> records.AreaIntervals:
    """Returns the intervals of AUC and AUPRC; a single subject has none."""
    if len(histograms) < 2:
        return records.AreaIntervals(None, None)
    samples = bootstrap.pooled(tally.stack(histograms), bootstrap.weights(len(histograms), seed=seed))
    return records.AreaIntervals(*map(bootstrap.interval, samples))


def _dice(rows: Sequence[Row], rate: str, seed: int) -> records.Dice:
    """Returns mean Dice at one rate and the rate that was achieved."""
    healthy = [row.brain_voxels - row.lesion_voxels for row in rows]
    found = sum((row.fpr[rate] or 0) * count for row, count in zip(rows, healthy, strict=True))
    achieved = round(found) / sum(healthy) if sum(healthy) else None  # pooled: counts are whole numbers
    summary = bootstrap.summarise([row.dice[rate] for row in rows], seed=seed)
    return records.Dice(**vars(summary), achieved_fpr=achieved)


def _lesion_means(rows: Sequence[Row], seed: int) -> records.LesionMeans:
    """Returns what is counted in lesions, in the mask at 1 % FPR."""
    columns = ([row.sensitivity for row in rows], [row.ppv for row in rows], [row.f1 for row in rows])
    found = [bootstrap.summarise(values, seed=seed) for values in columns]
    intervals = records.LesionIntervals(*(item.ci95 for item in found))
    return records.LesionMeans(float(MASK_RATE), intervals, *(item.mean for item in found))
