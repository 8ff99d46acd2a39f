"""Cohorts: which healthy subjects train, calibrate and test, and their slices in one array."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from lgjax.preparation import audit, dataset, pipeline
from lgjax.preparation.dataset import Entry, is_prepared, read_index
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Slices
from lgjax.preparation.splits import splits_of
from lgjax.runtime import parallel, places, progress
from lgjax.runtime.errors import InputError, UsageError
from lgjax.runtime.shares import Share
from lgjax.scans import names, participants, phantom, sources
from lgjax.scans.finding import listing
from lgjax.scans.sources import Subject

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Source(NamedTuple):
    """Where healthy subjects come from."""

    spec: str  # phantom[@THICKNESS[+GAP]][:LABEL_MAPS_FOLDER], or a folder, split by subject
    train_subjects: int  # of the phantom; 0: nobody is trained on, so those of the training split calibrate too
    calibration_subjects: int  # at most


def healthy(source: Source, split: str) -> list[Subject]:
    """Finds the healthy subjects of one split; no subject is in two splits.

    Args:
      source: where they come from.
      split: train, calibration (at most `calibration_subjects`) or test.

    Raises:
      UsageError: the split is empty.
    """
    if sources.is_phantom(source.spec):
        count = {"train": source.train_subjects, "calibration": source.calibration_subjects}[split]
        name, _, labels = source.spec.partition(":")
        return sources.find(f"{name}:{split}:{count}" + (f":{labels}" if labels else ""))
    return _chosen(source, split)[0]


def _chosen(source: Source, split: str) -> tuple[list[Subject], dict[str, str]]:
    """Returns the subjects of one split of a folder, and the split of everybody; errors as in `healthy`."""
    wanted = {"train", "calibration"} if split == "calibration" and not source.train_subjects else {split}
    if is_prepared(source.spec):
        found = sources.prepared(source.spec)
        splits = {entry.identifier: entry.split for entry in read_index(source.spec).subjects}
    else:
        found = _raw(source.spec)
        splits = splits_of(found)
    chosen = [subject for subject in found if splits.get(subject.identifier) in wanted]
    if not chosen:
        raise UsageError(too_small(source.spec, split))
    return chosen[: source.calibration_subjects] if split == "calibration" else chosen, splits


def _raw(spec: str) -> list[Subject]:
    """Finds the subjects of a folder of raw scans, with what a table says of them."""
    found = participants.annotate(
        sources.survey(spec, sources.Reading()).found, [spec]
    )  # `count` tells what is left out
    if any(subject.bias_field is not None for subject in found):
        raise UsageError(f"{spec} is an unfinished prepared data set. Run lgjax.preprocess again.")
    return found


def left_out(source: Source) -> list[str]:
    """Lists who of a folder of raw scans is not healthy, and so in no split but test."""
    if sources.is_phantom(source.spec) or is_prepared(source.spec):
        return []
    return [f"{one.identifier} ({one.kind})" for one in _raw(source.spec) if not participants.is_healthy(one.kind)]


def calibrating(source: Source) -> str:
    """Tells who of a folder calibrates, and who does not; "" of synthetic brains. Raises UsageError as `healthy`."""
    if sources.is_phantom(source.spec):
        return ""
    chosen, splits = _chosen(source, "calibration")
    taken = [subject.identifier for subject in chosen]
    held_out = [name for name, split in splits.items() if split == "test"]
    told = [f"calibration {len(taken)}: {listing.shown(taken)}"]
    if held_out:
        told.append(f"left out, the test split: {len(held_out)} ({listing.shown(held_out)})")
    if others := len(splits) - len(taken) - len(held_out):
        told.append(f"{others} not needed (data.calibration_subjects={source.calibration_subjects})")
    return "; ".join(told)


def too_small(spec: str, split: str) -> str:
    """Says that a split is empty, and what to do."""
    remedy = "Give more subjects, or name some: prepare again with --calibration=NAME,NAME"
    remedy = remedy if split == "calibration" else "Give more subjects"
    return f"{spec} is too small: no subject of it falls into the {split} split. {remedy}."


def count(source: Source) -> int:
    """Returns how many subjects a source has, in all splits that it is read for."""
    if sources.is_phantom(source.spec):
        return source.train_subjects + source.calibration_subjects
    if is_prepared(source.spec):
        return len(read_index(source.spec).subjects)
    return len(sources.find(source.spec))


def describe(source: Source) -> str:
    """Tells in words where healthy subjects come from and, where they are synthetic, which heads the splits share.

    What was read decides, not how a folder is called: synthetic scans that were prepared are synthetic.
    """
    if not sources.is_phantom(source.spec):
        place = places.shown(source.spec)
        return f"synthetic healthy brains, prepared: {place}" if _is_synthetic(source.spec) else place
    name, _, labels = source.spec.partition(":")
    return f"synthetic healthy brains ({name}) {phantom.describe(labels or None)}"


def kind(spec: str) -> str:
    """Says what the healthy scans of a source are: healthy scans, or synthetic healthy brains, prepared ones too."""
    return "synthetic healthy brains" if sources.is_phantom(spec) or _is_synthetic(spec) else "healthy scans"


def _is_synthetic(spec: str) -> bool:
    """Returns whether the scans of a prepared data set were made by the phantom."""
    entries = read_index(spec).subjects[:1] if is_prepared(spec) else ()
    return any(sources.is_phantom(str(name)) for entry in entries for name in _scan(spec, entry).get("Sources", ()))


def _scan(spec: str, entry: Entry) -> dict[str, Any]:
    return dataset.record(spec, entry.identifier, dataset.SCAN) or {}


def rows(spec: str, entries: Sequence[Entry]) -> list[audit.Row]:
    """Returns who the subjects of a prepared data set are."""
    kinds = participants.kinds(spec)
    return [
        audit.Row(
            entry.identifier,
            _scan(spec, entry).get("Participant") or entry.identifier,
            entry.split,
            kinds.get(entry.identifier, kinds.get(names.subject(entry.identifier), "")),
        )
        for entry in entries
    ]


def load(subjects: Share[Subject], recipe: Recipe, workers: int, label: str, keep: Callable[[Prepared], T]) -> Share[T]:
    """Prepares this host's subjects in parallel, with a progress bar; one that cannot be used is left out by all hosts.

    Args:
      subjects: at least one, of all hosts.
      keep: what to keep of each, since whole scans of a cohort do not fit in memory.

    Raises:
      UsageError: nothing is left.
    """

    def prepared(subject: sources.Subject) -> T:
        return keep(pipeline.prepare(subject, recipe))

    results = parallel.attempts(prepared, subjects.own, workers)
    found = subjects.having(list(progress.track(results, label, len(subjects.own), "subject")))
    faults = found.pooled([str(result) if isinstance(result, InputError) else "" for result in found.own])
    for fault in filter(None, faults):
        LOG.warning("left out: %s", fault)
    usable = [place for place, fault in enumerate(faults) if not fault]
    if not usable:
        raise UsageError(f"none of {len(faults)} scans can be used; the first: {faults[0]}")
    return cast(Share[T], found.chosen(usable))


def pool(slices: Sequence[Slices]) -> Slices:
    """Joins all slices of several subjects, in the order of the subjects."""
    return Slices(*(np.concatenate(parts) for parts in zip(*slices, strict=True)))
