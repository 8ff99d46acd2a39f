"""Cohorts: which healthy subjects train, calibrate and test, and their slices in one array."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from lgjax.data import preprocess, sources
from lgjax.data.preprocess import Grid, Placement, Slices
from lgjax.data.sources import Subject
from lgjax.data.volume import Volume
from lgjax.errors import InputError, UsageError

SHARES = {
    "train": 0.8,
    "calibration": 0.1,
    "test": 0.1,
}  # of a folder's subjects, by a hash of their identifiers
T = TypeVar("T")


class Prepared(NamedTuple):
    """A scan ready to be restored, and the way back."""

    image: Volume  # finite everywhere
    filled: int  # voxels of the brain that were NaN or infinite
    slices: Slices
    placement: Placement


def grid(config) -> Grid:
    """The slice grid that `config.data` asks for."""
    return Grid(config.height, config.width, config.spacing)


def prepare(subject: Subject, grid: Grid) -> Prepared:
    """Reads one subject, finds its brain, z-scores it and cuts it into slices.

    Raises:
      InputError: the scan or its mask cannot be used.
    """
    image = subject.image()
    brain = preprocess.brain_mask(image, subject.mask() if subject.mask else None)
    data, filled = preprocess.clean(image, brain)
    slices, placement = preprocess.to_slices(data, brain, image.affine, grid)
    if not len(slices.index):
        raise InputError(image.source, "has no axial slice with enough brain in it", "Check the scan and its mask")
    return Prepared(dataclasses.replace(image, data=data), filled, slices, placement)


def healthy(config, split: str) -> list[Subject]:
    """Healthy subjects of one split of `config.data.source`; no subject is in two splits.

    Args:
      config: the part `data` of a config.
      split: train, calibration or test.

    Raises:
      UsageError: the split is empty.
    """
    if config.source.split(":")[0] == "phantom":
        count = {"train": config.train_subjects, "calibration": config.calibration_subjects}[split]
        _, _, labels = config.source.partition(":")
        return sources.find(f"phantom:{split}:{count}" + (f":{labels}" if labels else ""))
    chosen = [s for s in sources.find(config.source) if split_of(s.identifier) == split]
    if not chosen:
        raise UsageError(f"{config.source} is too small: no subject of it falls into the {split} split.")
    return chosen


def split_of(identifier: str) -> str:
    """The split of a subject: from a hash of its identifier, so adding subjects moves none."""
    position = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8]) / 2**64
    for split, share in SHARES.items():
        position -= share
        if position < 0:
            return split
    return "test"


def load(subjects: Sequence[Subject], grid: Grid, workers: int, label: str) -> tuple[list[Prepared], list[InputError]]:
    """Prepares subjects in parallel, with a progress bar; one that cannot be used does not stop the others.

    Returns:
      The prepared subjects in order, and what was wrong with the others.
    """

    def attempt(subject):
        try:
            return prepare(subject, grid)
        except InputError as error:
            return error

    results = list(tqdm(ahead(attempt, subjects, workers), label, len(subjects), unit="subject"))
    faults = [result for result in results if isinstance(result, InputError)]
    for fault in faults:
        tqdm.write(f"left out: {fault}")
    return [result for result in results if isinstance(result, Prepared)], faults


def ahead(function: Callable[[Any], T], items: Iterable, workers: int) -> Iterator[T]:
    """Applies a function in threads, in order, never more than a few items ahead of the reader."""
    with ThreadPoolExecutor(workers) as pool:
        pending = []
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def pool(prepared: Sequence[Prepared]) -> Slices:
    """All slices of several subjects in one array."""
    return Slices(*(np.concatenate(parts) for parts in zip(*(p.slices for p in prepared), strict=True)))
