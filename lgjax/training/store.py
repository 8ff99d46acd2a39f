"""Slices in large numbers, in memory or on disk, and their way into batches.

A source (`InMemory`, `OnDisk`) has a length, `read(rows)` and `everything()`; `stream` reads it ahead of the training.
"""

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Generator, Sequence
from types import ModuleType

import numpy as np

from lgjax.preparation import dataset as preparation_dataset
from lgjax.preparation.dataset import Entry
from lgjax.preparation.slices import Grid
from lgjax.runtime import files, parallel, progress
from lgjax.runtime.errors import EnvironmentFault, InputError

IMAGES, MASKS = f"{preparation_dataset.SLICES}.npy", f"{preparation_dataset.SLICES_MASK}.npy"
OPEN_SUBJECTS = 256  # whose two files are mapped at a time: half of the 1024 descriptors that a process usually has
_AHEAD = 8  # batches read before they are asked for
_AGAIN = "Prepare it again"
_BYTES = 8  # of a pixel: intensity and mask, float32

Batch = tuple[np.ndarray, np.ndarray]  # y and mask, each [B, H, W, 1] float32
Order = Callable[[int], np.ndarray]  # the rows of batch i


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Slices in memory."""

    y: np.ndarray  # [N, H, W, 1] float32, z-scored
    mask: np.ndarray  # [N, H, W, 1] float32

    def __len__(self) -> int:
        return len(self.y)

    @property
    def nbytes(self) -> int:
        """Of y and mask."""
        return self.y.nbytes + self.mask.nbytes

    def read(self, rows: np.ndarray) -> Batch:
        """Returns the slices of some rows, in their order."""
        return self.y[rows], self.mask[rows]

    def everything(self) -> Batch:
        """Returns all slices."""
        return self.y, self.mask


class OnDisk:
    """The slices of some subjects of a prepared data set, one after the other; only what is read is in memory.

    Files are mapped when first read, at most OPEN_SUBJECTS of them at a time. Every method raises InputError for a file
    that is not what the index says.
    """

    def __init__(self, folder: str | os.PathLike, subjects: Sequence[Entry], grid: Grid):
        self.folder, self.subjects, self.grid = pathlib.Path(folder), tuple(subjects), grid
        self._ends = np.cumsum([len(subject.index) for subject in self.subjects])
        self._mapped = functools.lru_cache(OPEN_SUBJECTS)(self._map)

    def __reduce__(self):
        return OnDisk, (self.folder, self.subjects, self.grid)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def nbytes(self) -> int:
        """Of y and mask in memory."""
        return len(self) * self.grid.height * self.grid.width * _BYTES

    def read(self, rows: np.ndarray) -> Batch:
        """Returns the slices of some rows, in their order."""
        y = np.empty((len(rows), self.grid.height, self.grid.width, 1), np.float32)
        mask = np.empty_like(y)
        for k, row in enumerate(rows):
            subject = int(np.searchsorted(self._ends, row, side="right"))
            images, masks = self._mapped(subject)
            y[k, ..., 0], mask[k, ..., 0] = images[row - self._ends[subject]], masks[row - self._ends[subject]]
        return y, mask

    def everything(self) -> Batch:
        """Returns all slices."""
        return self.read(np.arange(len(self)))

    def verify(self, workers: int) -> None:
        """Compares the bytes of every file with the index, in threads, with a progress bar."""
        checks = parallel.ahead(self._verify, range(len(self.subjects)), workers)
        for _ in progress.track(checks, "verifying slices", len(self.subjects), "subject"):
            pass

    def _verify(self, subject: int) -> None:
        entry = self.subjects[subject]
        for suffix, expected in ((IMAGES, entry.slices_sha256), (MASKS, entry.mask_sha256)):
            path = preparation_dataset.file(self.folder, entry.identifier, suffix)
            with files.faults(path):
                found = files.sha256(path)
            if found != expected:
                raise InputError(path, "has changed since it was prepared: its SHA-256 is not the index's", _AGAIN)
        self._map(subject)

    def _map(self, subject: int) -> tuple[np.ndarray, np.ndarray]:
        entry = self.subjects[subject]
        shape = (len(entry.index), self.grid.height, self.grid.width)
        paths = (preparation_dataset.file(self.folder, entry.identifier, suffix) for suffix in (IMAGES, MASKS))
        images, masks = (_map_file(path, shape, dtype) for path, dtype in zip(paths, (np.float32, bool), strict=True))
        return images, masks


def _map_file(path: pathlib.Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Maps a .npy file into memory; raises InputError where it is not of this shape and dtype."""
    try:
        with files.faults(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(path, f"is no array of slices: {error}".rstrip("."), _AGAIN) from error
    if array.shape != shape or array.dtype != dtype:
        found, expected = f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {shape}"
        raise InputError(path, f"holds {found}, expected {expected} by the index", _AGAIN)
    return array


def part(rows: np.ndarray, index: int, count: int) -> np.ndarray:
    """Returns the rows of a batch that process `index` of `count` reads; end to end, the parts are the batch."""
    share = len(rows) // count
    return rows[index * share : (index + 1) * share]


@dataclasses.dataclass(frozen=True)
class _Batches:
    """What Grain reads from: item i is batch i."""

    source: InMemory | OnDisk
    order: Order
    share: tuple[int, int]
    stop: int

    def __len__(self) -> int:
        return self.stop

    def __getitem__(self, step: int) -> Batch:
        return self.source.read(part(self.order(step), *self.share))


def stream(
    source: InMemory | OnDisk, order: Order, steps: range, share: tuple[int, int], threads: int, processes: int = 0
) -> Generator[Batch, None, None]:
    """Yields this host's part of some batches, read ahead by Grain if on disk; close it to end what reads.

    Args:
      source: where the slices are.
      order: which rows make batch i.
      steps: which batches.
      share: index and count of the hosts that read.
      threads: that read at a time, in each process.
      processes: that read beside this one; with 0, this one does.

    Raises:
      EnvironmentFault: Grain is needed and not installed.
      InputError: a file is not what it was.
    """
    batches = _Batches(source, order, share, steps.stop)
    if isinstance(source, InMemory):  # there is nothing to wait for
        yield from (batches[step] for step in steps)
        return
    grain = _grain()
    dataset = grain.MapDataset.source(batches)[steps.start :]
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_AHEAD, threads)))
    if processes:
        options = grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=parallel.stay_with_parent)
        # Through pipes: shared memory is scarce in containers, and is left behind by what is killed.
        pipes = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, pipes)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _grain() -> ModuleType:
    """Imports Grain; not at the top of the module, since only what is streamed from disk needs Grain."""
    try:
        import grain
    except ImportError as error:
        raise EnvironmentFault(
            f"slices cannot be streamed: grain is missing ({error}). Install it (pip install grain), "
            "or set --config.data.resident=always if all slices fit the device."
        ) from error
    return grain
