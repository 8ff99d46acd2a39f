"""The references that an evaluation measures against."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import nifti, sources
from lgjax.scans.volume import Volume


class References(NamedTuple):
    """Subjects with a reference segmentation."""

    labels: str  # how the user named them
    subjects: Mapping[str, sources.Subject]  # by identifier


def by_identifier(labels: str, subjects: Iterable[sources.Subject]) -> References:
    """Returns subjects by identifier.

    Raises:
      UsageError: two have the same.
    """
    found: dict[str, sources.Subject] = {}
    for subject in subjects:
        if subject.identifier in found:
            raise UsageError(f"{labels} holds two references of {subject.identifier}. Remove one of them.")
        found[subject.identifier] = subject
    return References(labels, found)


def mask(subject: sources.Subject, like: Volume) -> np.ndarray:
    """Returns the reference on the grid of `like`, [X, Y, Z] bool; subjects of kind "healthy" need none."""
    reference = sources.reference(subject, like)
    if reference is None:
        if subject.kind != "healthy":
            remedy = "Add its segmentation, or say that its lesion_kind is healthy"
            raise InputError(subject.original, "has no reference segmentation", remedy)
        return np.zeros(like.data.shape, bool)
    return reference


def displaced(subject: sources.Subject, like: Volume) -> np.ndarray:
    """Returns the tissue that a synthetic lesion pushes aside, on the grid of `like`, [X, Y, Z] bool; else nothing.

    Such tissue is not lesion, but differs from the subject's healthy twin: a detection in it is neither true nor
    false. Real references mark no such tissue.
    """
    if subject.displaced is None:
        return np.zeros(like.data.shape, bool)
    volume = subject.displaced()
    nifti.check_same_grid(like, volume)
    return volume.data > 0
