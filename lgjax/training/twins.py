"""Patients of the phantom and the healthy brains they were made from: what a restoration of them should find.

Models that restore are compared on these at every checkpoint: the anomalies are made in another way than those of a
training, and no label of a lesion is read.
"""

from typing import NamedTuple

import numpy as np

from lgjax.preparation import pipeline
from lgjax.preparation.cohort import Source
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import BACKGROUND, evenly_spaced, saturate
from lgjax.runtime import parallel, progress
from lgjax.scans import sources, synthetic
from lgjax.scans.sources import Subject

COUNT = 2  # patients of each kind
KEPT = 128  # slices at most, evenly spaced


class Twins(NamedTuple):
    """Slices of patients and of their healthy twins, on one scale, each [N, H, W, 1] float32."""

    observed: np.ndarray
    healthy: np.ndarray
    mask: np.ndarray


def spec(source: Source) -> str:
    """Names the patients that a training is judged on: those of the phantom's split dev, made from its heads if any."""
    if not sources.is_phantom(source.spec):
        return f"phantom:dev:{COUNT}"
    name, _, labels = source.spec.partition(":")
    return f"{name}:dev:{COUNT}" + (f":{labels}" if labels else "")


def load(source: Source, recipe: Recipe, workers: int) -> Twins:
    """Prepares the patients and their twins, and keeps some slices.

    Args:
      source: of the training's healthy scans.
      recipe: how those are prepared; neither bias field nor histogram applies to synthetic pairs.
      workers: threads.

    Raises:
      InputError: a scan cannot be prepared.
    """
    pairs = synthetic.twins(spec(source))
    bare = recipe._replace(bias_field=None, histogram=None, saturation=None)

    def prepared(pair: tuple[Subject, Subject]) -> Twins:
        patient, healthy = (pipeline.prepare(subject, bare) for subject in pair)
        return together(patient, healthy, recipe.saturation)

    made = parallel.ahead(prepared, pairs, workers)  # a pair fails where the grid is too coarse for a brain
    found = progress.track(made, "preparing (twins)", len(pairs), "pair")
    everything = Twins(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    rows = evenly_spaced(len(everything.mask), KEPT)
    return Twins(*(part[rows] for part in everything))


def together(patient: Prepared, healthy: Prepared, saturation: tuple[float, float] | None) -> Twins:
    """Brings a healthy twin to its patient's scale, in the slices that both have and where both have brain.

    Args:
      patient, healthy: without saturation.
      saturation: what both are clipped to afterwards; None: nothing.
    """
    _, rows, others = np.intersect1d(patient.slices.number, healthy.slices.number, return_indices=True)
    ours, theirs = patient.placement, healthy.placement
    mask = patient.slices.mask[rows] * healthy.slices.mask[others] * (ours.columns == theirs.columns)
    mask = mask * (ours.rows == theirs.rows)
    z = (healthy.slices.y[others] * theirs.std + theirs.mean - ours.mean) / ours.std
    observed = patient.slices.y[rows]
    healthy_slices = np.where(mask > 0, z, np.where(patient.slices.mask[rows] > 0, observed, BACKGROUND))
    observed, z = (saturate(part.astype(np.float32), saturation) for part in (observed, healthy_slices))
    return Twins(observed, z, mask.astype(np.float32))
