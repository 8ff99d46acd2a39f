"""What the sidecars of one restored scan say of it, beside what they all say of the method."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lgjax.derivatives import sidecar
from lgjax.methods.scan import Restored
from lgjax.preparation import bias, midplane
from lgjax.preparation.midplane import Plane
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import evenly_spaced
from lgjax.scans.subject import Subject

CONVERGENCE_POINTS = 100  # of a trace that are kept


def of(subject: Subject, common: Mapping[str, Any], restored: Restored) -> dict[str, Any]:
    """Returns what the sidecars of one subject say."""
    prepared = restored.subject
    image = prepared.image
    return {
        "Sources": [subject.source],
        "SpatialReference": "orig",
        "InputSHA256": image.sha256,
        **common,
        "BrainFrom": prepared.brain_from,
        "BiasFieldRemoved": prepared.field is not None,
        "N4Threads": None if prepared.field is None else bias.THREADS,
        "HistogramMatched": prepared.transfer is not None,
        "FilledVoxels": prepared.filled,
        "Slices": len(prepared.slices.number),
        "Kernels": restored.kernels,
        "BatchSize": restored.pace.batch_size,
        "SecondsPerIteration": restored.pace.seconds_per_iteration,
        "Convergence": _convergence(restored),
    }


def midplane_of(plane: Plane | None, prepared: Prepared) -> dict[str, Any] | None:
    """Returns where a plane of the prepared slices lies in the scanner; None for methods without a mirror."""
    if plane is None:
        return None
    normal, offset = midplane.in_scanner(plane, prepared.slices, prepared.placement, prepared.image.affine)
    return dataclasses.asdict(sidecar.Midplane(list(normal), offset, plane.uncertainty, plane.score))


def _convergence(restored: Restored) -> dict[str, Any] | None:
    """Returns the mean trace of the slices, thinned; None without a loop or a trace."""
    if restored.traces is None or restored.taken is None:
        return None
    parts = restored.traces._asdict().items()
    means = {field: np.mean(values, axis=0) for field, values in parts if values is not None}
    kept = evenly_spaced(len(means["change"]), CONVERGENCE_POINTS)
    taken = {"median": float(np.median(restored.taken)), "most": int(restored.taken.max())}  # until they stopped
    values = {name: [float(f"{v:.6g}") for v in mean[kept]] for name, mean in means.items()}
    return {"iterations_of_slices": taken, "iteration": kept.tolist(), **values}
