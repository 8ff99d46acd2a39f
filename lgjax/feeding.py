"""The training step on the devices, and what it is fed: the slices kept there, or streamed, batch by batch."""

import contextlib
import functools
import os
from collections.abc import Generator

import jax

from lgjax import runtime, training
from lgjax.data import cohort, slices
from lgjax.data.prepared import Index
from lgjax.data.recipe import Recipe
from lgjax.errors import UsageError

DEVICE_SHARE = 0.5  # of an accelerator's memory that the training slices may take
MACHINE_SHARE = 0.25  # of the machine's memory, where that is the device's: they are there twice while they are copied
Source = slices.Held | slices.Stored
Batch = tuple[jax.Array, ...]  # x and mask, each [B, H, W, 1]


def find_slices(config, settings: Recipe, index: Index | None) -> tuple[Source, list[str]]:
    """The training slices, and the SHA-256 of the raw scans they are of.

    Raises:
      UsageError: there are none.
      InputError: a file of the prepared data set is not what its index says.
    """
    if index is None:
        subjects = cohort.healthy(config.data, "train")
        found, _ = cohort.load(
            subjects, settings, config.data.workers, "preparing", lambda p: (p.slices, p.image.sha256)
        )
        pooled = cohort.pool([part for part, _ in found])
        return slices.Held(pooled.y, pooled.mask), [sha256 for _, sha256 in found]
    entries = [entry for entry in index.subjects if entry.split == "train"]
    if not entries:
        raise UsageError(f"{config.data.source} is too small: no subject of it falls into the train split.")
    source = slices.Stored(config.data.source, entries, settings.grid)
    source.verify(config.data.workers)
    return source, [entry.input_sha256 for entry in entries]


def batches(config, source: Source, mesh: jax.sharding.Mesh, start: int) -> Generator[Batch, None, None]:
    """Yields the batch of every step from `start`, split over the mesh.

    They depend on the seed and the step alone, and not on whether all slices lie on the device or are streamed to it.

    Raises:
      UsageError: a batch cannot be split evenly.
    """
    size, stop = config.train.batch_size, config.train.steps
    if size % mesh.size:
        raise UsageError(f"--config.train.batch_size={size}: expected a multiple of the {mesh.size} devices.")
    order = functools.partial(training.batch_indices, config.seed, batch_size=size, n=len(source))
    split = runtime.batch_sharding(mesh)
    resident, reason = fits(config, source, mesh)
    place = "kept on the device" if resident else "streamed to the device"
    print(f"{len(source)} training slices, {source.nbytes / 1e9:.2f} GB: {place} ({reason})", flush=True)
    if resident:
        data = runtime.replicate(source.everything(), mesh)
        take = jax.jit(lambda data, rows: tuple(part[rows] for part in data), out_shardings=split)
        for i in range(start, stop):
            yield take(data, order(i))
        return
    share = jax.process_index(), jax.process_count()
    stream = slices.stream(source, order, range(start, stop), share, config.data.workers, config.data.read_processes)
    with contextlib.closing(stream):
        for parts in stream:
            yield tuple(jax.make_array_from_process_local_data(split, part) for part in parts)


def fits(config, source: Source, mesh: jax.sharding.Mesh) -> tuple[bool, str]:
    """Whether all slices shall lie on the device, and why, in words."""
    if config.data.resident != "auto":
        return config.data.resident == "always", f"--config.data.resident={config.data.resident}"
    if jax.process_count() > 1:
        return False, f"{jax.process_count()} processes read a part of each batch"
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices]
    if all(limits):
        room, of = DEVICE_SHARE * min(limits), f"{DEVICE_SHARE:.0%} of its memory"
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        room, of = MACHINE_SHARE * memory / len(limits), f"{MACHINE_SHARE:.0%} of this machine's memory"
    return source.nbytes <= room, f"the limit is {room / 1e9:.2f} GB, {of}"


def make_step(config, mesh: jax.sharding.Mesh):
    """The jitted training step (state, x, mask) -> (state, terms): state on every device, batch split over the mesh."""
    options = runtime.compiler_options(mesh, "training")
    step = training.make_step(config)
    return jax.jit(step, donate_argnums=0, out_shardings=runtime.replicated(mesh), compiler_options=options)
