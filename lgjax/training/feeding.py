"""Training steps on the devices, and what they are fed: the slices kept there, or streamed, batch by batch."""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lgjax.models.base import Model
from lgjax.preparation import audit, cohort
from lgjax.preparation.dataset import Entry, Index
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import evenly_spaced
from lgjax.runtime import devices, hosts, memory, shares
from lgjax.runtime.errors import UsageError
from lgjax.training import packing, store
from lgjax.training import step as training
from lgjax.training.settings import Settings

LOG = logging.getLogger(__name__)
DEVICE_SHARE = 0.5  # of an accelerator's memory that the training slices may take
MACHINE_SHARE = 0.25  # of the machine's memory, where that is the device's: they are there twice while they are copied
VALIDATED = 128  # held-out slices at most: without gradients they take no more memory than a batch of the paper
SPLITS = ("train", "calibration")  # of healthy subjects: those that are trained on, those that are held out
DISPATCHED = 10  # training steps per dispatch on accelerators, to amortise the host's overhead
Source = store.InMemory | store.OnDisk


class Steps(NamedTuple):
    """Some training steps, to be taken by `program(state, *arguments)`: -> (state after them, their loss terms)."""

    steps: int
    program: Callable  # jitted; it gives loss terms of every step, [steps], or scalars of a single one
    arguments: tuple


def check_splits(source: cohort.Source, index: Index | None) -> list[audit.Row]:
    """Checks what is known before a scan is read: each split has healthy subjects, and of a prepared data set others.

    Returns:
      Who is trained on and who is held out.

    Raises:
      UsageError: a split is empty or holds somebody ill, or two splits share a scan or a person.
    """
    if index is None:
        found = ((split, cohort.healthy(source, split)) for split in SPLITS)
        return [audit.Row(one.identifier, one.participant, split) for split, subjects in found for one in subjects]
    entries = {split: _entries(source, index, split) for split in SPLITS}
    check_apart(*([entry.input_sha256 for entry in entries[split]] for split in SPLITS))
    rows = cohort.rows(source.spec, [entry for split in SPLITS for entry in entries[split]])
    audit.check(source.spec, rows)
    return rows


def check_apart(trained: Sequence[str], held_out: Sequence[str]) -> None:
    """Raises UsageError where a scan, by its SHA-256, is in both the training and the calibration set."""
    if shared := sorted(set(trained) & set(held_out)):
        count = f"{len(shared)} of {len(held_out)} scans"
        raise UsageError(
            f"{count} of the calibration set are in the training set too (SHA-256 {shared[0][:12]}). Keep them apart."
        )


def find_slices(
    source: cohort.Source, recipe: Recipe, index: Index | None, workers: int, split: str = "train"
) -> tuple[Source, list[str]]:
    """Finds the slices of a split, and the SHA-256 of the raw scans they are of.

    Args:
      source: of healthy scans, see `cohort.healthy`.
      recipe: how scans are prepared.
      index: of the prepared data set, if the source is one.
      workers: threads that prepare scans and verify slices.
      split: train or calibration.

    Raises:
      UsageError: there are none.
      InputError: a file of the prepared data set is not what its index says.
    """
    if index is None:
        subjects = cohort.healthy(source, split)
        label = f"preparing ({split})"
        every = shares.alone(subjects)
        found = cohort.load(every, recipe, workers, label, lambda p: (p.slices, p.image.sha256)).own
        pooled = cohort.pool([part for part, _ in found])
        return store.InMemory(pooled.y, pooled.mask), [sha256 for _, sha256 in found]
    entries = _entries(source, index, split)
    stored = store.OnDisk(source.spec, entries, recipe.grid)
    stored.verify(workers)
    return stored, [entry.input_sha256 for entry in entries]


def _entries(source: cohort.Source, index: Index, split: str) -> list[Entry]:
    """Returns a split's subjects of a prepared data set as `cohort.healthy` does; raises UsageError for none."""
    entries = [entry for entry in index.subjects if entry.split == split]
    if not entries:
        raise UsageError(cohort.too_small(source.spec, split))
    return entries[: source.calibration_subjects] if split == "calibration" else entries


def validation_batch(held_out: Source) -> store.Batch:
    """Returns slices and masks, each [N, H, W, 1], that every checkpoint is validated on: VALIDATED, evenly spaced."""
    return held_out.read(evenly_spaced(len(held_out), VALIDATED))


def check_shared(size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises UsageError where the devices of a mesh cannot share the slices of a batch evenly."""
    if size % mesh.size:
        less = max(1, size // mesh.size) * mesh.size
        fewer = max(count for count in range(1, mesh.size) if size % count == 0)
        raise UsageError(
            f"--config.train.batch_size={size}: expected a multiple of the {mesh.size} devices, such as {less}. "
            f"Or train on {fewer} of them: on GPUs, CUDA_VISIBLE_DEVICES says which."
        )


def steps(
    model: Model, settings: Settings, source: Source, mesh: jax.sharding.Mesh, start: int
) -> Generator[Steps, None, None]:
    """Yields the steps from `start` to the last, batches split over the mesh.

    Batches depend on the seed and the step alone, not on whether all slices lie on the device or are streamed to it.
    Where slices lie on the device, several steps are dispatched together. A dispatch never crosses a logged or
    checkpointed step; the steps left before one run singly.

    Raises:
      UsageError: a batch cannot be split evenly.
    """
    size, stop = settings.batch_size, settings.steps
    check_shared(size, mesh)
    order = functools.partial(training.batch_indices, settings.seed, batch_size=size, n=len(source))
    split = devices.batch_sharding(mesh)
    resident, reason = fits(settings, source, mesh)
    place = "kept on the device" if resident else "streamed to the device"
    LOG.info("%d training slices, %.2f GB: %s (%s)", len(source), source.nbytes / 1e9, place, reason)
    step = make_step(model, settings, mesh)
    if resident:
        data = devices.replicate(source.everything(), mesh)
        take = jax.jit(lambda data, rows: tuple(part[rows] for part in data), out_shardings=split)
        several, count = make_steps(model, settings, mesh), per_dispatch(settings, mesh)
        while start < stop:
            if count > 1 and start + count <= next_stop(settings, start):
                rows = np.stack([order(i) for i in range(start, start + count)])
                yield Steps(count, several, (data, rows))
                start += count
            else:
                yield Steps(1, step, take(data, order(start)))
                start += 1
        return
    share = jax.process_index(), jax.process_count()
    stream = store.stream(source, order, range(start, stop), share, settings.workers, settings.read_processes)
    with contextlib.closing(stream):
        for parts in stream:
            yield Steps(1, step, tuple(jax.make_array_from_process_local_data(split, part) for part in parts))


def per_dispatch(settings: Settings, mesh: jax.sharding.Mesh) -> int:
    """Returns the steps per dispatch where slices lie on the device; 0 in the settings: as suits the device."""
    suits = 1 if mesh.devices.flat[0].platform == "cpu" else DISPATCHED
    return settings.steps_per_dispatch or suits


def next_stop(settings: Settings, step: int) -> int:
    """Returns the first step after `step` that is logged or checkpointed."""
    periods = settings.log_every, settings.checkpoint_every
    return min(settings.steps, *((step // period + 1) * period for period in periods))


def fits(settings: Settings, source: Source, mesh: jax.sharding.Mesh) -> tuple[bool, str]:
    """Returns whether all slices shall lie on the device, and why, in words."""
    if settings.resident != "auto":
        return settings.resident == "always", f"--config.data.resident={settings.resident}"
    if jax.process_count() > 1:
        return False, f"{jax.process_count()} processes read a part of each batch"
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices]
    if all(limits):
        room, of = DEVICE_SHARE * min(limits), f"{DEVICE_SHARE:.0%} of its memory"
    else:
        room, of = MACHINE_SHARE * memory.total() / len(limits), f"{MACHINE_SHARE:.0%} of this machine's memory"
    return source.nbytes <= room, f"the limit is {room / 1e9:.2f} GB, {of}"


def make_step(model: Model, settings: Settings, mesh: jax.sharding.Mesh):
    """Makes the jitted training step (state, x, mask) -> (state, terms).

    The state is on every device, the batch split over the mesh.
    """
    return _jitted(training.make_step(model, settings), mesh)


def make_steps(model: Model, settings: Settings, mesh: jax.sharding.Mesh):
    """Makes the jitted function (state, data, rows) -> (state, terms) that takes several training steps.

    State and data, all slices and their masks, each [N, H, W, 1], are on every device; rows, [steps, B], say which
    slices make each batch, which is split over the mesh; terms are those of every step, each [steps].
    """
    split = devices.batch_sharding(mesh)

    def several(state, data, rows):
        form = packing.of(state.variables["params"])
        step = training.make_step(model, settings, form.unpack)

        def one(state, rows):
            return step(state, *(jax.lax.with_sharding_constraint(part[rows], split) for part in data))

        state, terms = jax.lax.scan(one, training.relaid(state, form.pack), rows)
        return training.relaid(state, form.unpack), terms

    return _jitted(several, mesh)


def make_validation(model: Model, settings: Settings, mesh: jax.sharding.Mesh) -> Callable[..., dict[str, float]]:
    """Makes the function (variables, x, mask, *pairs) -> terms of held-out slices, see `step.make_validation`.

    The first host computes them, on one device; on the others the function returns no term.
    """
    options = devices.compiler_options(mesh, "restoration")
    program = jax.jit(training.make_validation(model, settings), compiler_options=options)

    def validate(variables, *held_out):
        if not hosts.is_first_host():
            return {}
        return {name: float(value) for name, value in jax.device_get(program(variables, *held_out)).items()}

    return validate


def _jitted(function: Callable, mesh: jax.sharding.Mesh):
    """Jits a function of a state for training; the function takes the state over, and results are on every device."""
    options = devices.compiler_options(mesh, "training")
    return jax.jit(function, donate_argnums=0, out_shardings=devices.replicated(mesh), compiler_options=options)
