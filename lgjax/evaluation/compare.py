"""One method against every other: paired differences over the subjects that both have, corrected for their number."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lgjax.evaluation import intervals, tally
from lgjax.evaluation.measure import Result
from lgjax.evaluation.records import Comparison, Difference, Differences
from lgjax.evaluation.settings import Settings

UNDEFINED = "no lesion, or no healthy voxel"


def compare(results: Sequence[Result], name: str, settings: Settings) -> Comparison:
    """Returns the differences of one method minus each other one, with 95 % intervals and p-values.

    Both methods of a row are measured on the same subjects, and the difference is taken subject by subject: a paired t
    test of mean Dice, and Student's t on the paired jackknife of AUC and AUPRC. AUC and AUPRC are those of scores in
    bins less than 1 % wide. A difference is certain where its p-value stays below `settings.family_error` after
    Holm's correction over all differences that are returned.

    Args:
      results: all methods.
      name: the one that is compared with the others.
      settings: of the evaluation.
    """
    ours = next(result for result in results if result.name == name)
    rows = [_differences(ours, other, settings) for other in results if other.name != name]
    tests = [entry.p for row in rows for entry in row.entries if entry.p is not None]
    return Comparison(name, settings.family_error, len(tests), _corrected(rows, tests, settings.family_error))


def _corrected(rows: Sequence[Differences], tests: Sequence[float], family_error: float) -> list[Differences]:
    """Returns the differences with their corrected p-values; `tests` are theirs, in the same order."""
    corrected = iter(intervals.holm(tests))

    def decided(entry: Difference) -> Difference:
        if entry.p is None:
            return entry
        p_holm = next(corrected)
        return dataclasses.replace(entry, p_holm=p_holm, certain=p_holm < family_error)

    found = []
    for row in rows:
        dice = {rate: decided(entry) for rate, entry in row.dice.items()}
        found.append(dataclasses.replace(row, dice=dice, auc=decided(row.auc), auprc=decided(row.auprc)))
    return found


def _differences(ours: Result, other: Result, settings: Settings) -> Differences:
    """Compares two methods, before any correction."""
    ids = _same_voxels(ours, other)
    rates = [rate for rate in ours.metrics.thresholds if rate in other.metrics.thresholds]
    if not ids:
        nothing = Difference(None, None, None, reason="no subject of which both judged the same voxels")
        return Differences(other.name, 0, dict.fromkeys(rates, nothing), nothing, nothing)
    dice = {rate: _dice(ours, other, ids, rate, settings) for rate in rates}
    auc, auprc = _areas(ours, other, ids, settings)
    return Differences(other.name, len(ids), dice, auc, auprc)


def _same_voxels(ours: Result, other: Result) -> list[str]:
    """Returns the subjects of which both methods judged the same voxels of the same scan."""
    first, second = (
        {
            row.participant_id: (row.input_sha256, row.brain_voxels, row.lesion_voxels, row.displaced_voxels)
            for row in item.rows
        }
        for item in (ours, other)
    )
    return [name for name in ours.histograms if name in other.histograms and first[name] == second[name]]


def _dice(ours: Result, other: Result, ids: Sequence[str], rate: str, settings: Settings) -> Difference:
    """Returns the difference of the mean Dice at one rate, over the subjects where both methods have it."""
    first, second = ({row.participant_id: row.dice[rate] for row in item.rows} for item in (ours, other))
    pairs = [(first[name], second[name]) for name in ids]
    found = np.array([a - b for a, b in pairs if a is not None and b is not None])
    if not found.size:
        return Difference(None, None, None, reason=UNDEFINED)
    error = found.std(ddof=1) / np.sqrt(found.size) if found.size > 1 else 0.0
    return _difference(float(found.mean()), float(error), found.size, settings)


def _areas(ours: Result, other: Result, ids: Sequence[str], settings: Settings) -> list[Difference]:
    """Returns the differences of AUC and of AUPRC; each subject is left out of both methods at once."""
    first, second = (tally.stack([item.histograms[name] for name in ids]) for item in (ours, other))
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
