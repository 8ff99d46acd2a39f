"""One method against every other: paired bootstrap of differences over the subjects that both have."""

from collections.abc import Sequence

import numpy as np

from lgjax.evaluation import bootstrap, tally
from lgjax.evaluation.measure import Result
from lgjax.evaluation.records import FEW, Comparison, Difference, Differences


def compare(results: Sequence[Result], name: str, n: int = bootstrap.RESAMPLES, seed: int = 0) -> Comparison:
    """Returns the differences of one method minus each other one, with 95 % intervals.

    Both methods of a row are measured on the same subjects and resampled with the same draws. AUC and AUPRC are
    those of scores in bins less than 1 % wide.

    Args:
      results: all methods.
      name: the one that is compared with the others.
      n: number of resamples.
      seed: of the resampling.
    """
    ours = next(result for result in results if result.name == name)
    return Comparison(name, n, [_differences(ours, other, n, seed) for other in results if other.name != name])


def _differences(ours: Result, other: Result, n: int, seed: int) -> Differences:
    """Compares two methods."""
    ids = _same_voxels(ours, other)
    rates = [rate for rate in ours.metrics.thresholds if rate in other.metrics.thresholds]
    if not ids:
        nothing = Difference(None, None, None, "no subject of which both judged the same voxels")
        return Differences(other.name, 0, dict.fromkeys(rates, nothing), nothing, nothing)
    drawn = np.vstack([np.ones(len(ids)), bootstrap.weights(len(ids), n, seed)])  # first the subjects themselves
    ours_areas, areas = (
        bootstrap.pooled(tally.stack([item.histograms[name] for name in ids]), drawn) for item in (ours, other)
    )
    dice = {rate: _dice(ours, other, ids, rate, drawn) for rate in rates}
    auc, auprc = (_difference(first - second, len(ids)) for first, second in zip(ours_areas, areas, strict=True))
    return Differences(other.name, len(ids), dice, auc, auprc)


def _same_voxels(ours: Result, other: Result) -> list[str]:
    """Returns the subjects of which both methods judged the same voxels of the same scan."""
    first, second = (
        {row.participant_id: (row.input_sha256, row.brain_voxels, row.lesion_voxels) for row in item.rows}
        for item in (ours, other)
    )
    return [name for name in ours.histograms if name in other.histograms and first[name] == second[name]]


def _dice(ours: Result, other: Result, ids: Sequence[str], rate: str, drawn: np.ndarray) -> Difference:
    """Returns the difference of the mean Dice at one rate, over the subjects where both methods have it."""
    first, second = ({row.participant_id: row.dice[rate] for row in item.rows} for item in (ours, other))
    pairs = [(first[name], second[name]) for name in ids]
    differences = [None if a is None or b is None else a - b for a, b in pairs]
    return _difference(bootstrap.means(differences, drawn), sum(value is not None for value in differences))


def _difference(samples: np.ndarray, subjects: int) -> Difference:
    """Returns one difference from its value (first; NaN: undefined) and those of the resamples, [1 + n]."""
    if np.isnan(samples[0]):
        return Difference(None, None, None, "no lesion, or no healthy voxel")
    ci95 = bootstrap.interval(samples[1:]) if subjects > 1 else None
    if ci95 is None:
        return Difference(float(samples[0]), None, None, FEW)
    return Difference(float(samples[0]), ci95, ci95[0] > 0 or ci95[1] < 0)
