"""One scan with one method, before and after its restoration: the slices to restore, and the way back to its grid."""

from typing import NamedTuple

import numpy as np

from lgjax.methods import atlas, mirror, volumes
from lgjax.methods.mirror import Seen
from lgjax.methods.names import Method
from lgjax.methods.runner import Pace, Settings, Traces
from lgjax.methods.volumes import Volume
from lgjax.preparation import slices as preparation_slices
from lgjax.preparation.midplane import Plane
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Slices
from lgjax.runtime.errors import InputError


class Plan(NamedTuple):
    """One subject, about to be restored."""

    subject: Prepared  # with the slices that are looked at, and the brain mask in those
    slices: Slices  # that the method is given
    chosen: np.ndarray  # which of these are looked at, [N] bool
    strength: np.ndarray  # lambda of each slice, [N] float32
    known: np.ndarray | Volume | None  # see `Runner`
    plane: Plane | None  # at which the mirror image was made; None for methods without


class Restored(NamedTuple):
    """One subject, restored."""

    subject: Prepared  # with the slices that were looked at, and the brain mask in those
    change: np.ndarray  # Y - X on the scan's own grid, [X, Y, Z] float32, in the method's unit
    traces: Traces  # of its slices, each [N, iterations]; None for methods without a loop
    taken: np.ndarray | None  # iterations that each slice took, [N]; None without a loop, or where nothing counts them
    pace: Pace  # of its batches
    kernels: str  # whose kernels restored it, of `names.KERNELS`
    plane: Plane | None = None  # at which the mirror image was made; None for methods without


class Answer(NamedTuple):
    """What a runner made of the slices of one plan."""

    x: np.ndarray  # [N, H, W, 1]
    traces: Traces
    pace: Pace
    seconds: float  # that the devices were at work on them; of a batch of several scans, its share
    kernels: str  # whose kernels restored them, of `names.KERNELS`


def plan(
    method: Method, settings: Settings, subject: Prepared, strength: float, step: int = 1, seen: Seen | None = None
) -> Plan:
    """Plans the restoration of every `step`-th slice of one subject with one lambda; needs no device.

    Args:
      method: from `names.parse`.
      settings: of the restoration.
      subject: prepared.
      strength: lambda; 0 where the method has none.
      step: 1 for all slices.
      seen: the subject's mirror image, from `mirror.of`; None: made here where the method needs one.

    Raises:
      InputError: no slice is looked at.
    """
    kept, placement = preparation_slices.every(subject.slices, subject.placement, step)
    if not len(kept.number):
        remedy = "Restore with a smaller --config.restore.slice_step"
        raise InputError(subject.image.source, f"has no slice whose number is a multiple of {step}", remedy)
    slices = subject.slices if method.volume or method.name == "gmm" else kept
    if method.mirror and seen is None:
        seen = mirror.of(subject)
    return Plan(
        subject._replace(slices=kept, placement=placement),
        slices,
        slices.number % step == 0,
        np.full(len(slices.number), strength, np.float32),
        _known(method, settings, subject, seen if method.mirror else None),
        seen.plane if seen and method.mirror else None,
    )


def finish(planned: Plan, answer: Answer, taken: np.ndarray | None) -> Restored:
    """Brings restored slices back to the scan's own grid; needs no device.

    Args:
      planned: from `plan`.
      answer: of the runner.
      taken: iterations of each slice, from `Runner.taken`; None for methods without a loop.

    Raises:
      InputError: the restoration diverged.
    """
    slices, subject = planned.slices, planned.subject
    difference = slices.y - answer.x
    if not np.isfinite(difference).all():
        bad = slices.number[~np.isfinite(difference).all(axis=(1, 2, 3))]
        raise InputError(
            subject.image.source,
            f"its restoration diverged in {len(bad)} slices",
            "Lower --config.restore.learning_rate, calibrate and restore again",
        )
    change = preparation_slices.from_slices(difference[planned.chosen], subject.placement)
    return Restored(subject, change, answer.traces, taken, answer.pace, answer.kernels, planned.plane)


def _known(method: Method, settings: Settings, subject: Prepared, seen: Seen | None) -> np.ndarray | Volume | None:
    """Returns what a method wants to know of a volume beside its slices."""
    if method.volume:
        return volumes.volume(subject, seen.mirror if seen else None)
    if method.name == "gmm" and settings.mixture.atlas != "none":
        return atlas.tissue_priors(subject.placement, subject.image.affine)
    return None
