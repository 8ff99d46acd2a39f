"""Measured subjects and evaluated methods that tests make up."""

from collections.abc import Sequence
from typing import Any

from configs import eval as judging
from lgjax.evaluation import tally
from lgjax.evaluation.measure import COARSE, Case, Result, aggregate
from lgjax.evaluation.records import Metrics, Provenance, Row, Timing
from lgjax.evaluation.settings import Settings, from_config


def settings(**changes: Any) -> Settings:
    """Returns the settings of configs/eval.py but for the changes, as from the command line."""
    config = judging.get_config()
    config.update(changes)
    return from_config(config)


def row(name: str, **changes: Any) -> Row:
    """Returns a subject without a lesion, but for the changes."""
    volumes = {"brain_voxels": 400, "lesion_voxels": 0, "lesion_ml": 1.0, "lesion_outside_brain_voxels": 0}
    volumes |= {"displaced_voxels": 0, "detected_ml": 1.0}
    unknown = dict.fromkeys(("sensitivity", "ppv", "f1", "hd95", "false_positive_ml", "seconds_per_iteration"))
    counts = {"reference_voxels": 0, "reference_lesions": 0, "predicted_components": 0}
    scan = {"participant_id": name, "kind": "glioma", "input_sha256": name, "same_scan": True}
    scan |= {"reference": "", "reference_note": "", "light": ""}
    found = scan | volumes | counts | unknown | {"dice": {}, "fpr": {}} | changes
    return Row(**{"fp_ml": dict.fromkeys(found["fpr"], 0.0)} | found)


def provenance(**changes: Any) -> Provenance:
    """Returns where made-up numbers come from."""
    texts = ("predictions", "labels", "restored_by_version", "jax_version", "device", "evaluated_by_version")
    unknown = ("trained_on", "lambda_", "seed", "config_sha256", "weights_sha256")
    return Provenance(
        **dict.fromkeys(texts, "") | dict.fromkeys(unknown) | {"calibration_subjects": 0, "lesion_labels": ()} | changes
    )


def result(
    name: str,
    cases: Sequence[Case],
    thresholds: dict[str, float],
    mask_rate: str = "0.01",
    least: int = 6,
    **changes,
) -> Result:
    """Returns a method that was measured on some subjects; intervals are of `least` of them or more."""
    rule = settings(least_subjects=least)
    histograms = {case.row.participant_id: tally.coarsen(case.scores, COARSE) for case in cases}

    def measured(some: Sequence[Case]):
        coarse = [histograms[case.row.participant_id] for case in some]
        pooled = tally.merge([case.scores for case in some])
        return aggregate([case.row for case in some], coarse, pooled, [*thresholds], mask_rate, rule)

    everyone, curves = measured(cases)
    kinds = sorted({case.row.kind for case in cases})
    about = {
        "method": name,
        "score": "absolute",
        "groups": {kind: measured([case for case in cases if case.row.kind == kind])[0] for kind in kinds},
        "thresholds": thresholds,
        "slice_step": 1,
        "settings": rule,
        "seconds_per_iteration": Timing(None, 0, None, None),
        "search": None,
        "convergence": None,
        "failed": {},
        "references": {},
        "notes": {},
        "provenance": provenance(),
    }
    return Result(name, Metrics(**vars(everyone) | about | changes), [case.row for case in cases], curves, histograms)
