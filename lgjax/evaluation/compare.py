"""One method against every other: paired bootstrap of differences over the subjects that both have."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lgjax.evaluation import bootstrap, tally
from lgjax.evaluation.measure import FEW, Result


def compare(results: Sequence[Result], name: str, n: int = bootstrap.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Returns the differences of one method minus each other one, with 95 % intervals.

    Both methods of a row are measured on the same subjects and resampled with the same draws. AUC and AUPRC are
    those of scores in bins less than 1 % wide.

    Args:
      results: all methods.
      name: the one that is compared with the others.
      n: number of resamples.
      seed: of the resampling.

    Returns:
      {"method": name, "resamples": n, "rows": [{"against", "n_subjects", "dice": {rate: entry}, "auc": entry,
      "auprc": entry}]}, an entry being {"difference", "ci95", "excludes_zero"}, with a "reason" where one is null.
    """
    ours = next(result for result in results if result.name == name)
    rows = [_row(ours, other, n, seed) for other in results if other.name != name]
    return {"method": name, "resamples": n, "rows": rows}


def _row(ours: Result, other: Result, n: int, seed: int) -> dict[str, Any]:
    """Compares two methods."""
    ids = _same_voxels(ours, other)
    rates = [rate for rate in ours.metrics["thresholds"] if rate in other.metrics["thresholds"]]
    row: dict[str, Any] = {"against": other.name, "n_subjects": len(ids)}
    if not ids:
        why = "no subject of which both judged the same voxels"
        nothing = {"difference": None, "ci95": None, "excludes_zero": None, "reason": why}
        return row | {"dice": dict.fromkeys(rates, nothing), "auc": nothing, "auprc": nothing}
    drawn = np.vstack([np.ones(len(ids)), bootstrap.weights(len(ids), n, seed)])  # first the subjects themselves
    ours_areas, areas = (
        bootstrap.pooled(tally.stack([item.histograms[name] for name in ids]), drawn) for item in (ours, other)
    )
    dice = {rate: _dice(ours, other, ids, rate, drawn) for rate in rates}
    auc, auprc = (_entry(first - second, len(ids)) for first, second in zip(ours_areas, areas, strict=True))
    return row | {"dice": dice, "auc": auc, "auprc": auprc}


def _same_voxels(ours: Result, other: Result) -> list[str]:
    """Returns the subjects of which both methods judged the same voxels of the same scan."""
    keys = ("input_sha256", "brain_voxels", "lesion_voxels")
    first, second = ({row["participant_id"]: [row[key] for key in keys] for row in item.rows} for item in (ours, other))
    return [name for name in ours.histograms if name in other.histograms and first[name] == second[name]]


def _dice(ours: Result, other: Result, ids: Sequence[str], rate: str, drawn: np.ndarray) -> dict[str, Any]:
    """Difference of the mean Dice at one rate, over the subjects where both methods have it."""
    first, second = ({row["participant_id"]: row[f"dice_{rate}"] for row in item.rows} for item in (ours, other))
    pairs = [(first[name], second[name]) for name in ids]
    differences = [None if None in pair else pair[0] - pair[1] for pair in pairs]
    return _entry(bootstrap.means(differences, drawn), sum(value is not None for value in differences))


def _entry(samples: np.ndarray, subjects: int) -> dict[str, Any]:
    """Returns one difference from its value (first; NaN: undefined) and those of the resamples, [1 + n]."""
    if np.isnan(samples[0]):
        return {"difference": None, "ci95": None, "excludes_zero": None, "reason": "no lesion, or no healthy voxel"}
    ci95 = bootstrap.interval(samples[1:]) if subjects > 1 else None
    entry = {"difference": float(samples[0]), "ci95": ci95}
    if ci95 is None:
        return entry | {"excludes_zero": None, "reason": FEW}
    return entry | {"excludes_zero": ci95[0] > 0 or ci95[1] < 0}
