"""What the sidecars of the evaluated subjects tell of how they were restored, and by what."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import lgjax


def restoration(sidecars: Sequence[Mapping[str, Any]], reasons: dict[str, str]) -> dict[str, Any]:
    """Returns what the sidecars say of the restoration: its time, its search for lambda, its convergence.

    Args:
      sidecars: of the evaluated subjects, at least one.
      reasons: gains a reason for each part that is None.
    """
    times = [item["SecondsPerIteration"] for item in sidecars if item.get("SecondsPerIteration")]
    shapes = {(item.get("BatchSize"), *(item.get("Grid") or (None, None))) for item in sidecars}
    batch, *grid = shapes.pop() if len(shapes) == 1 else (None, None, None)
    traces = [item["Convergence"] for item in sidecars if item.get("Convergence")]
    traces = [item for item in traces if item["iteration"] == traces[0]["iteration"]]
    convergence = None
    if traces:
        means = np.mean([item["change"] for item in traces], axis=0)
        convergence = {"iteration": traces[0]["iteration"], "change": [float(f"{value:.6g}") for value in means]}
    timing = {
        "median": float(np.median(times)) if times else None,
        "n": len(times),
        "batch_size": batch,
        "grid": None if None in grid else grid,
    }
    found = {"seconds_per_iteration": timing, "search": sidecars[0].get("Search"), "convergence": convergence}
    nothing = "nothing is iterated, or it was not recorded"
    reasons |= {key: nothing for key in ("search", "convergence") if found[key] is None}
    reasons |= {
        f"seconds_per_iteration/{key}": nothing if key == "median" else "not recorded, or not the same for all subjects"
        for key, value in timing.items()
        if value is None
    }
    return {"slice_step": sidecars[0]["SliceStep"], **found}


def provenance(folder: pathlib.Path, labels: str, sidecars: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns where the numbers come from: the folders, the model, and what restored and evaluated them."""
    first = sidecars[0]
    several = {key: sorted({str(item.get(key)) for item in sidecars}) for key in ("Version", "Device", "JaxVersion")}
    return {
        "predictions": str(folder),
        "labels": labels,
        "trained_on": first.get("TrainedOn"),
        "lambda": first.get("Lambda"),
        "seed": first.get("Seed"),
        "config_sha256": first.get("ConfigSHA256"),
        "weights_sha256": first.get("WeightsSHA256"),
        "calibration_subjects": len(first.get("CalibrationSubjects", [])),
        "restored_by_version": ", ".join(several["Version"]),
        "jax_version": ", ".join(several["JaxVersion"]),
        "device": ", ".join(several["Device"]),
        "evaluated_by_version": lgjax.__version__,
    }
