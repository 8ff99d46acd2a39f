"""The references that an evaluation measures against."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import nifti, segmentations, sources
from lgjax.scans.finding import series
from lgjax.scans.finding.listing import MAYBE
from lgjax.scans.participants import is_called_healthy
from lgjax.scans.volume import Volume

_MUCH = 0.5  # of the brain; no lesion is that large


class References(NamedTuple):
    """Subjects with a reference segmentation."""

    labels: str  # how the user named them
    subjects: Mapping[str, sources.Subject]  # by identifier
    values: tuple[float, ...] = ()  # that are lesion; (): see `segmentations.lesion_of`

    @property
    def said(self) -> str:
        """What outputs and messages call the references: `labels`, unless that may tell who was scanned."""
        return next(iter(series.nameable([self.labels], self.subjects.values())), series.UNNAMED)


class Reference(NamedTuple):
    """The reference of one subject."""

    lesion: np.ndarray  # [X, Y, Z] bool
    source: str  # the file; "": none is there, and none was needed
    note: str = ""  # what a person should know of how it was found


def find(labels: str, assume_ras: bool = False, values: Sequence[float] = (), any_sequence: bool = False) -> References:
    """Finds the references that --labels names; errors as in `sources.find`, and where two are of one subject."""
    try:
        listing = sources.survey(labels, sources.Reading(assume_ras=assume_ras, any_sequence=any_sequence))
        left_out = tuple(each for each in listing.left_out if each.reason != MAYBE)  # `read` tells what became of those
        sources.tell(labels, listing._replace(left_out=left_out))
        return by_identifier(labels, listing.found, values)
    except UsageError as fault:
        if not pathlib.Path(labels).is_dir():
            raise
        raise UsageError(f"{fault} References need their scans beside them, or a table that names both.") from fault


def by_identifier(labels: str, subjects: Iterable[sources.Subject], values: Sequence[float] = ()) -> References:
    """Returns subjects by identifier.

    Raises:
      UsageError: two have the same.
    """
    found: dict[str, sources.Subject] = {}
    for subject in subjects:
        if subject.identifier in found:
            raise UsageError(f"{labels} holds two references of {subject.identifier}. Remove one of them.")
        found[subject.identifier] = subject
    return References(labels, found, tuple(values))


def read(subject: sources.Subject, scan: Volume, values: Sequence[float] = ()) -> Reference:
    """Reads the reference of a subject, on the grid of its scan; subjects whose kind is healthy need none.

    Args:
      subject: whose.
      scan: its scan, or a map of its brain that is 0 elsewhere.
      values: that are lesion, see `segmentations.lesion_of`.

    Raises:
      InputError: there is none, or several may be it; it is unreadable, on another grid, or has other values.
    """
    if subject.lesion is None and is_called_healthy(subject.kind):
        return Reference(np.zeros(scan.data.shape, bool), "")
    label, note = _label(subject, scan)
    nifti.check_same_grid(scan, label)
    lesion = segmentations.lesion_of(label, values)
    return Reference(lesion, label.source, "; ".join(filter(None, (note, _doubt(subject, label, lesion, scan)))))


def _doubt(subject: sources.Subject, label: Volume, lesion: np.ndarray, scan: Volume) -> str:
    """Says what is odd about the lesion that a segmentation gave; "": nothing."""
    if label.data.any() and not lesion.any():
        held = segmentations.listed(segmentations.values_of(label.data))
        return f"{subject.identifier}: its reference holds {held}, no value of --lesion_labels"
    inside = scan.data != 0
    share = float(lesion[inside].mean()) if inside.any() else 0.0
    if share > _MUCH:
        name = label.source.rpartition("/")[2]
        return f"{subject.identifier}: {name} calls {share:.0%} of the brain lesion; is it a segmentation of tissue?"
    return ""


def _label(subject: sources.Subject, scan: Volume) -> tuple[Volume, str]:
    """Reads the segmentation of a subject, and tells how it was found where no name told."""
    if subject.lesion is not None:
        return subject.lesion(), ""
    if subject.guess is None:
        remedy = "Add its segmentation, or say that its lesion_kind is healthy"
        raise InputError(subject.original, "has no reference segmentation", remedy)
    try:
        label = subject.guess(scan)
    except InputError as fault:
        if segmentations.holds_labels(subject.image()):
            remedy = "Put scans and references into one folder, or name both in a table (--labels=table.tsv)"
            raise InputError(subject.original, "is a segmentation itself, without its scan", remedy) from fault
        raise
    why = "no other image there looks like a segmentation"
    return label, f"{subject.identifier}: {label.source.rpartition('/')[2]} is taken as the reference: {why}"


def relative(labels: str, source: str) -> str:
    """Returns the path of a reference as seen from what --labels names; of one elsewhere, its name."""
    root = pathlib.Path(labels)
    root = (root if root.is_dir() else root.parent).resolve()
    for start, before in ((root, ""), (root.parent, "../")):
        path = pathlib.Path(source).absolute()
        if source and path.exists() and path.is_relative_to(start):
            return before + path.relative_to(start).as_posix()
    return pathlib.PurePath(source).name


def check_values(known: References, empty: Iterable[str]) -> None:
    """Refuses values that no reference holds.

    Args:
      known: the references.
      empty: all subjects that were measured, where no reference of theirs had a lesion.

    Raises:
      UsageError: values were given, and no reference holds any of them.
    """
    held: set[float] = set()
    for name in empty if known.values else ():
        subject = known.subjects[name]
        if subject.lesion is not None or not is_called_healthy(subject.kind):
            held |= set(segmentations.values_of(_label(subject, subject.image())[0].data).tolist())
    if held - {0.0}:
        asked = ",".join(f"{value:g}" for value in known.values)
        there = segmentations.listed(sorted(held))
        raise UsageError(f"--lesion_labels={asked}: no reference holds them. They hold {there}.")


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
