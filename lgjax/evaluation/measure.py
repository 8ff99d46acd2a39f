"""From finished restorations and references to metrics: one subject, a set of subjects, a folder.

One subject is in memory at a time: what stays of it is its line of the table, its part of a bounded tally of all
voxels, and a coarse histogram for the intervals.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lgjax.derivatives.read import Prediction, is_renamed, read_predictions
from lgjax.derivatives.sidecar import Sidecar
from lgjax.evaluation import intervals, metrics, origin, pairs, records, references, tally
from lgjax.evaluation.metrics import Curves
from lgjax.evaluation.records import Group, Metrics, Row
from lgjax.evaluation.references import References
from lgjax.evaluation.settings import Settings
from lgjax.runtime import places
from lgjax.runtime import progress as bars
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.scans import names, orientation, sources
from lgjax.scans.volume import Volume

COARSE = 16  # bits of a score that the intervals do without: bins less than 1 % wide


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
    predictions: Mapping[str, Prediction] = MappingProxyType({})  # of these subjects by participant_id


class Judged(NamedTuple):
    """The voxels of one scan, [X, Y, Z] bool each; lesion is judged against all others of `brain`."""

    brain: np.ndarray  # of the brain mask, without displaced tissue
    lesion: np.ndarray  # of the reference, inside the brain
    truth: np.ndarray  # what detection is held against: `lesion`, or the whole reference where no voxel is inside
    outside: np.ndarray  # of the reference, in slices that were restored but outside the brain mask
    displaced: np.ndarray  # of the brain, see `references.displaced`


def measure(prediction: Prediction, subject: sources.Subject, known: References, settings: Settings) -> Case:
    """Measures one subject; Dice and lesion-wise metrics are None where its reference holds no lesion.

    A lesion that lies wholly outside the brain mask was missed, by the mask instead of the score: Dice and sensitivity
    are 0. Otherwise the patient whom the method served worst would be left out of every mean. Of a lesion that is
    partly inside, the part inside is judged, as in the paper; `lesion_outside_brain_voxels` tells of the rest.

    Raises:
      InputError: an image is unreadable or on another grid, the map is not finite, or there is no reference.
    """
    sidecar = prediction.sidecar
    scan, anomaly = subject.image(), prediction.read("desc-anomaly_T2w")
    brain = prediction.mask("desc-brain_mask", anomaly)
    if not brain.any() or not np.isfinite(anomaly.data[brain]).all():
        raise InputError(anomaly.source, "has no brain voxel or values that are not finite", "Restore it again")
    reference = references.read(subject, anomaly, known.values)
    whole = reference.lesion
    axis, looked = _looked_at(brain, anomaly.affine, sidecar.slice_step)
    voxels = _judged(brain, whole, references.displaced(subject, anomaly), axis, looked)
    lesion = voxels.lesion[voxels.brain]
    masks = {rate: prediction.detected(rate, anomaly) & voxels.brain for rate in sidecar.thresholds}
    counted = _counted(masks.get(sidecar.mask_rate), voxels.truth, axis, looked, anomaly, sidecar.slice_step, settings)
    row = Row(
        participant_id=subject.identifier,
        kind=subject.kind,
        brain_voxels=int(brain.sum()),
        displaced_voxels=int(voxels.displaced.sum()),
        lesion_voxels=int(lesion.sum()),
        lesion_ml=float(lesion.sum() * anomaly.voxel_ml),
        lesion_outside_brain_voxels=int(voxels.outside.sum()),
        reference_voxels=int(whole.sum()),
        dice={rate: metrics.dice(mask, voxels.truth) if voxels.truth.any() else None for rate, mask in masks.items()},
        fpr={rate: metrics.fpr(mask[voxels.brain], lesion) for rate, mask in masks.items()},
        fp_ml={rate: float((mask & ~whole).sum() * anomaly.voxel_ml) for rate, mask in masks.items()},
        **counted,
        seconds_per_iteration=sidecar.seconds_per_iteration,
        input_sha256=sidecar.input_sha256,
        same_scan=scan.sha256 == sidecar.input_sha256,  # else the reference may belong to another image
        reference=references.relative(known.labels, reference.source),
        reference_note=reference.note,
        light=sidecar.quality.light if sidecar.quality else "",
    )
    return Case(row, tally.count(anomaly.data[voxels.brain], lesion))


def _judged(brain: np.ndarray, whole: np.ndarray, displaced: np.ndarray, axis: int, looked: np.ndarray) -> Judged:
    """Returns which voxels are judged, from the brain mask, the whole reference and the displaced tissue."""
    seen = whole & looked.reshape([-1 if i == axis else 1 for i in range(3)])
    displaced = displaced & brain & ~whole
    lesion = whole & brain
    return Judged(brain & ~displaced, lesion, lesion if lesion.any() else seen, seen & ~brain, displaced)


def _counted(
    detected: np.ndarray | None,
    truth: np.ndarray,
    axis: int,
    looked: np.ndarray,
    anomaly: Volume,
    slice_step: int,
    settings: Settings,
) -> dict[str, Any]:
    """Returns what is counted in lesions, mm and mL in one mask, by the fields of a row; None: there is no mask."""
    if detected is None:
        nothing = dict.fromkeys(("sensitivity", "ppv", "f1", "hd95", "detected_ml", "false_positive_ml"))
        return nothing | {"reference_lesions": 0, "predicted_components": 0}
    # Without the slices in between, which were not looked at and would cut a lesion in many.
    ours, theirs = (np.compress(looked, mask, axis) for mask in (detected, truth))
    step = [slice_step if i == axis else 1 for i in range(4)]
    found = metrics.lesion_wise(ours, theirs, settings)
    return {
        "sensitivity": found.sensitivity,
        "ppv": found.ppv if truth.any() else None,
        "f1": found.f1,
        "reference_lesions": found.n_reference,
        "predicted_components": found.n_predicted,
        "hd95": metrics.hd95(ours, theirs, anomaly.affine @ np.diag(step)),
        "detected_ml": float(detected.sum() * anomaly.voxel_ml),
        "false_positive_ml": float((detected & ~truth).sum() * anomaly.voxel_ml),
    }


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
    mask_rate: str,
    settings: Settings,
) -> tuple[Group, Curves | None]:
    """Returns the metrics of a set of subjects, and the curves (None: undefined).

    Args:
      rows: the subjects.
      histograms: coarse tallies of the same subjects, for the intervals of AUC and AUPRC.
      pooled: tally of all their voxels.
      rates: asked false positive rates.
      mask_rate: the one of them in whose mask lesions, distances and volumes are counted.
      settings: of the evaluation.
    """
    ranking = tally.ranking(pooled)
    undefined = metrics.undefined_ranking(ranking)
    auc_resolution, auprc_resolution = (None, None) if undefined else tally.resolution(pooled)
    dice_oracle, oracle_threshold = metrics.oracle_dice(ranking) or (None, None)
    healthy = [row for row in rows if not row.reference_voxels]
    patients = [row for row in rows if row.has_lesion]
    displaced, least = sum(row.displaced_voxels for row in rows), settings.least_subjects
    found = Group(
        n_subjects=len(rows),
        n_with_lesion=len(patients),
        negatives=records.NEGATIVES[displaced > 0],
        auc=metrics.auc(ranking),
        auprc=metrics.auprc(ranking),
        auc_resolution=auc_resolution,
        auprc_resolution=auprc_resolution,
        score_bits=32 - pooled.shift,
        ci95=records.AreaIntervals(None, None) if undefined else _area_intervals(histograms, least),
        dice_oracle=dice_oracle,
        oracle_threshold=oracle_threshold,
        prevalence=ranking.positives / (ranking.positives + ranking.negatives),
        dice={rate: _dice(rows, rate, least) for rate in rates},
        mask_rate=mask_rate,
        lesion_wise=_lesion_means(rows, mask_rate, least),
        hd95=intervals.summarise([row.hd95 for row in rows], least),
        lesion_ml=intervals.summarise([row.lesion_ml for row in patients], least),
        detected_ml=intervals.summarise([row.detected_ml for row in patients], least),
        healthy_fp_ml=intervals.summarise([row.false_positive_ml for row in healthy], least),
        fp_ml=records.FalsePositives(
            *(
                {rate: intervals.summarise([row.fp_ml[rate] for row in some], least) for rate in rates}
                for some in (healthy, patients)
            )
        ),
        displaced_voxels=displaced,
        lesion_outside_brain_voxels=sum(row.lesion_outside_brain_voxels for row in rows),
        missed_by_brain_mask=[row.participant_id for row in patients if not row.lesion_voxels],
        other_scans=sum(not row.same_scan for row in rows),
        subjects=len(rows),
        reasons={},
    )
    found = dataclasses.replace(found, reasons=records.group_reasons(found, undefined, settings.few))
    if undefined:
        return found, None
    return found, Curves(metrics.roc_curve(ranking), metrics.precision_recall_curve(ranking), found.prevalence)


def evaluate(folder: pathlib.Path, known: References, settings: Settings, progress: bool = True) -> Result:
    """Evaluates one folder of predictions against references.

    Args:
      folder: what lgjax.restore wrote.
      known: the references.
      settings: of the evaluation.
      progress: whether to show a bar.

    Raises:
      UsageError: duplicates, several experiments in one folder, a calibration subject among the tested, or values of
        lesion that no reference holds.
      InputError: no subject could be evaluated.
    """
    predictions, broken = read_predictions(folder)
    matched = pairs.paired(predictions, known, broken)
    alone = predictions.keys() - {item.identifier for item in matched.values()}
    told = f"{places.shown(known.said)} holds no reference of this name, and none of the same scan"
    failed = dict.fromkeys(sorted(alone), told)
    failed |= {name: places.told(text) for name, text in broken.items()}
    absent = known.subjects.keys() - matched.keys() - failed.keys()
    _check_no_leak(folder, matched.values())
    rows: list[Row] = []
    histograms: dict[str, tally.Tally] = {}
    pools: dict[str, tally.Tally] = {}  # by kind
    items = bars.track(matched.items(), folder.name, len(matched), "subject") if progress else matched.items()
    for name, prediction in items:
        try:
            row, scores = measure(prediction, known.subjects[name], known, settings)
        except LgjaxError as error:
            failed[name] = places.told(str(error))
            continue
        rows.append(row)
        histograms[name] = tally.coarsen(scores, COARSE)
        pools[row.kind] = tally.merge([pools[row.kind], scores] if row.kind in pools else [scores])
    if not rows:
        reasons = "; ".join(f"{name}: {text}" for name, text in list(failed.items())[:3])  # of what was restored, first
        reasons = reasons or "; ".join(f"{name}: {_absent(name, folder)}" for name in sorted(absent)[:3])
        raise InputError(folder, f"no subject could be evaluated ({reasons})", "Check --predictions and --labels")
    failed |= {name: _absent(name, folder) for name in absent}
    if not any(row.reference_voxels for row in rows):
        references.check_values(known, [row.participant_id for row in rows])
    evaluated = {name: matched[name] for name in histograms}
    sidecars = [item.sidecar for item in evaluated.values()]
    about = (list(sidecars[0].thresholds), sidecars[0].mask_rate, settings)
    everyone, curves = aggregate(rows, list(histograms.values()), tally.merge(list(pools.values())), *about)
    groups = {}
    for kind in sorted(pools.keys() - {""}):
        members = [row for row in rows if row.kind == kind]
        coarse = [histograms[row.participant_id] for row in members]
        groups[kind], _ = aggregate(members, coarse, pools[kind], *about)
    provenance = origin.provenance(folder, known, sidecars)
    found = _metrics(everyone, groups, rows, sidecars, dict(sorted(failed.items())), provenance, settings)
    renamed = {name: item.identifier for name, item in evaluated.items() if item.identifier != name}
    return Result(found.method, dataclasses.replace(found, restored_as=renamed), rows, curves, histograms, evaluated)


def _absent(name: str, folder: pathlib.Path) -> str:
    """Returns why a subject with a reference cannot be evaluated."""
    if is_renamed(name, folder):
        return (
            f"{places.shown(folder)} holds it as {names.squeezed(name)}, the name that an earlier version gave it. "
            "Restore it again into another folder"
        )
    return f"{places.shown(folder)} holds no prediction of it"


def _metrics(
    everyone: Group,
    groups: dict[str, Group],
    rows: Sequence[Row],
    sidecars: Sequence[Sidecar],
    failed: dict[str, str],
    provenance: records.Provenance,
    settings: Settings,
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
        settings=settings,
        seconds_per_iteration=timing,
        search=first.search,
        convergence=convergence,
        failed=failed,
        references={row.participant_id: row.reference for row in rows},
        notes={row.participant_id: row.reference_note for row in rows if row.reference_note},
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


def _area_intervals(histograms: Sequence[tally.Tally], least: int) -> records.AreaIntervals:
    """Returns the intervals of AUC and AUPRC; fewer than `least` subjects with a kind of voxel have none."""
    stacked = tally.stack(histograms)
    subjects = intervals.informative(stacked)
    if subjects < least:
        return records.AreaIntervals(None, None)
    areas = intervals.pooled(stacked, intervals.leave_one_out(len(histograms)))
    return records.AreaIntervals(*(intervals.area_interval(values, subjects) for values in areas))


def _dice(rows: Sequence[Row], rate: str, least: int) -> records.Dice:
    """Returns mean Dice at one rate and the rate that was achieved."""
    healthy = sum(row.healthy_voxels for row in rows)
    found = sum((row.fpr[rate] or 0) * row.healthy_voxels for row in rows)
    achieved = round(found) / healthy if healthy else None  # pooled: counts are whole numbers
    summary = intervals.summarise([row.dice[rate] for row in rows], least, highest=1)
    return records.Dice(**vars(summary), achieved_fpr=achieved)


def _lesion_means(rows: Sequence[Row], mask_rate: str, least: int) -> records.LesionMeans:
    """Returns what is counted in lesions, in the mask at one rate."""
    columns = ([row.sensitivity for row in rows], [row.ppv for row in rows], [row.f1 for row in rows])
    found = [intervals.summarise(values, least, highest=1) for values in columns]
    ci95 = records.LesionIntervals(*(item.ci95 for item in found))
    return records.LesionMeans(float(mask_rate), ci95, *(item.mean for item in found))
