"""The mirror image of a prepared scan, as the methods that have the mirror for an expert need it."""

from collections.abc import Iterable
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


def differences(subject: Prepared, seen: Seen) -> tuple[float, int]:
    """Returns the sum of (X - mX)^2 over the brain pixels whose mirror image is seen, and how many these are.

    Args:
      subject: healthy.
      seen: its mirror, from `of`.
    """
    known = np.isfinite(seen.mirror.spread)
    difference = (subject.slices.y - seen.mirror.mirrored)[known].astype(np.float64)
    return float((difference**2).sum()), difference.size


def variance(found: Iterable[tuple[float, int]]) -> float:
    """Returns V_m = E[(X - mX)^2], the mean over the brain pixels of healthy subjects whose mirror image is seen.

    Args:
      found: of each subject, from `differences`.

    Returns:
      Squared standard deviations of the brain.
    """
    total, count = 0.0, 0
    for some, pixels in found:
        total, count = total + some, count + pixels
    if not count:
        raise UsageError("no healthy scan shows a pixel and its mirror image. Check the brain masks.")
    return total / count
