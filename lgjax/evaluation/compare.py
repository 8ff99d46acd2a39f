"""Every method against a reference: paired differences over the subjects that both have, corrected for their number."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lgjax.evaluation import intervals, tally
from lgjax.evaluation.measure import Result
from lgjax.evaluation.records import Comparison, Difference, Differences
from lgjax.evaluation.settings import Settings

UNDEFINED = "no lesion, or no healthy voxel"


def compare(results: Sequence[Result], reference: str, settings: Settings) -> Comparison:
    """Returns the differences of each other method minus one, with 95 % intervals and p-values.

    Both methods of a row are measured on the same subjects, and the difference is taken subject by subject: a paired t
    test of mean Dice, and Student's t on the paired jackknife of AUC and AUPRC. AUC and AUPRC are those of scores in
    bins less than 1 % wide. A difference is certain where its p-value stays below `settings.family_error` after
    Holm's correction, over all differences of all subjects, or over those of the kinds of lesion.

    Args:
      results: all methods.
      reference: the name of the one that is subtracted from the others.
      settings: of the evaluation.
    """
    theirs = next(result for result in results if result.name == reference)
    rows = [_differences(item, theirs, settings) for item in results if item.name != reference]
    everybody = _corrected([entry for row in rows for entry in row.entries], settings.family_error)
    kinds = _corrected([entry for row in rows for entry in row.auprc_by_kind.values()], settings.family_error)
    tests, kind_tests = (sum(entry.p is not None for entry in entries) for entries in (everybody, kinds))
    return Comparison(reference, settings.family_error, tests, kind_tests, _filled(rows, everybody, kinds))


def _corrected(entries: Sequence[Difference], family_error: float) -> list[Difference]:
    """Returns the differences of one family with their corrected p-values."""
    corrected = iter(intervals.holm([entry.p for entry in entries if entry.p is not None]))

    def decided(entry: Difference) -> Difference:
        if entry.p is None:
            return entry
        p_holm = next(corrected)
        return dataclasses.replace(entry, p_holm=p_holm, certain=p_holm < family_error)

    return [decided(entry) for entry in entries]


def _filled(
    rows: Sequence[Differences], everybody: Sequence[Difference], kinds: Sequence[Difference]
) -> list[Differences]:
    """Returns rows with other differences in place of theirs, given in the order of the rows."""
    left, of_kinds, found = iter(everybody), iter(kinds), []
    for row in rows:
        dice = {rate: next(left) for rate in row.dice}
        auc, auprc = next(left), next(left)
        by_kind = {kind: next(of_kinds) for kind in row.auprc_by_kind}
        found.append(dataclasses.replace(row, dice=dice, auc=auc, auprc=auprc, auprc_by_kind=by_kind))
    return found


def _differences(ours: Result, reference: Result, settings: Settings) -> Differences:
    """Compares a method with the reference, before any correction."""
    ids = _same_voxels(ours, reference)
    rates = [rate for rate in ours.metrics.thresholds if rate in reference.metrics.thresholds]
    if not ids:
        nothing = Difference(None, None, None, reason="no subject of which both judged the same voxels")
        return Differences(ours.name, 0, dict.fromkeys(rates, nothing), nothing, nothing, {})
    dice = {rate: _dice(ours, reference, ids, rate, settings) for rate in rates}
    auc, auprc = _areas(ours, reference, ids, settings)
    kinds = {kind: _areas(ours, reference, some, settings)[1] for kind, some in _by_kind(ours, ids).items()}
    return Differences(ours.name, len(ids), dice, auc, auprc, kinds)


def _by_kind(result: Result, ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns the subjects of each kind that has lesions; nothing where all are of one kind."""
    rows = [row for row in result.rows if row.participant_id in set(ids) and row.kind]
    if len({row.kind for row in rows}) < 2:
        return {}
    kinds = sorted({row.kind for row in rows if row.lesion_voxels})
    return {kind: [row.participant_id for row in rows if row.kind == kind] for kind in kinds}


def _same_voxels(ours: Result, reference: Result) -> list[str]:
    """Returns the subjects of which both methods judged the same voxels of the same scan."""
    first, second = (
        {
            row.participant_id: (row.input_sha256, row.brain_voxels, row.lesion_voxels, row.displaced_voxels)
            for row in item.rows
        }
        for item in (ours, reference)
    )
    return [name for name in ours.histograms if name in reference.histograms and first[name] == second[name]]


def _dice(ours: Result, reference: Result, ids: Sequence[str], rate: str, settings: Settings) -> Difference:
    """Returns the difference of the mean Dice at one rate, over the subjects where both methods have it."""
    first, second = ({row.participant_id: row.dice[rate] for row in item.rows} for item in (ours, reference))
    pairs = [(first[name], second[name]) for name in ids]
    found = np.array([a - b for a, b in pairs if a is not None and b is not None])
    if not found.size:
        return Difference(None, None, None, reason=UNDEFINED)
    error = found.std(ddof=1) / np.sqrt(found.size) if found.size > 1 else 0.0
    return _difference(float(found.mean()), float(error), found.size, settings)


def _areas(ours: Result, reference: Result, ids: Sequence[str], settings: Settings) -> list[Difference]:
    """Returns the differences of AUC and of AUPRC; each subject is left out of both methods at once."""
    first, second = (tally.stack([item.histograms[name] for name in ids]) for item in (ours, reference))
    weights, subjects = intervals.leave_one_out(len(ids)), intervals.informative(first)
    found = []
    for mine, theirs in zip(intervals.pooled(first, weights), intervals.pooled(second, weights), strict=True):
        if np.isnan(mine[0]):
            found.append(Difference(None, None, None, reason=UNDEFINED))
            continue
        error = intervals.jackknife((mine - theirs)[1:])  # NaN where one subject holds all of a kind of voxel
        found.append(_difference(float(mine[0] - theirs[0]), error, subjects, settings))
    return found


def _difference(value: float, error: float, subjects: int, settings: Settings) -> Difference:
    """Returns one difference from its standard error and the subjects that it rests on."""
    if subjects < settings.least_subjects:
        return Difference(value, None, None, reason=settings.few)
    ci95 = intervals.student(value, error, subjects)
    return Difference(value, ci95, ci95[0] > 0 or ci95[1] < 0, intervals.p_value(value, error, subjects))
