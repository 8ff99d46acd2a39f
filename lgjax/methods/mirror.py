"""The mirror image of a prepared scan, as the methods that have the mirror for an expert need it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.preparation import midplane
from lgjax.preparation.midplane import Mirror, Plane
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime.errors import UsageError
from lgjax.scans import orientation


class Seen(NamedTuple):
    """All slices of a scan in their mirror."""

    plane: Plane
    mirror: Mirror


def of(subject: Prepared) -> Seen:
    """Finds the mid-sagittal plane of a scan in all its slices, and reflects them."""
    zooms = orientation.zooms(subject.image.affine)
    plane = midplane.find(subject.slices, subject.placement, zooms)
    return Seen(plane, midplane.mirror(subject.slices, subject.placement, zooms, plane))


def variance(subjects: Sequence[Prepared], seen: Sequence[Seen]) -> float:
    """Returns V_m = E[(X - mX)^2], the mean over the brain pixels of healthy subjects whose mirror image is seen.

    Args:
      subjects: healthy.
      seen: their mirrors, from `of`.

    Returns:
      Squared standard deviations of the brain.
    """
    total, count = 0.0, 0
    for subject, (_, mirror) in zip(subjects, seen, strict=True):
        known = np.isfinite(mirror.spread)
        difference = (subject.slices.y - mirror.mirrored)[known].astype(np.float64)
        total, count = total + float((difference**2).sum()), count + difference.size
    if not count:
        raise UsageError("no healthy scan shows a pixel and its mirror image. Check the brain masks.")
    return total / count
