"""Methods on devices: slices in, restored slices out, in batches of any number of slices or volume by volume."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lgjax.methods import gmm, local, volumes
from lgjax.methods.local import Settings as Settings
from lgjax.methods.local import length as length
from lgjax.methods.names import Method
from lgjax.methods.programs import Programs
from lgjax.methods.slicewise import Traces as Traces
from lgjax.methods.volumes import Volume
from lgjax.models.base import Model
from lgjax.preparation.slices import Slices
from lgjax.restoration import loop
from lgjax.runtime import devices, parallel

LOG = logging.getLogger(__name__)
AUTHORS = 64  # slices that the authors' code restores at a time
# The slices that one program restores on one device, whatever the batch: rounding hangs on the shapes of arrays.
MICRO_BATCH = {"cpu": 12}
IN_FLIGHT = 2  # programs at a time: the second fills the cores, or the queue, while the first begins and ends
VOLUME_STEP = 2**15  # voxels: volumes are padded to a multiple of it, so that few programs are compiled


def from_config(config) -> Settings:
    """Takes what a restoration reads from an experiment's config."""
    given = {**config.model, **config.restore, "seed": config.seed, "mixture": gmm.Settings(**config.gmm)}
    return Settings(**{name: given[name] for name in Settings._fields if name in given})


def micro_batch(mesh: jax.sharding.Mesh) -> int:
    """Returns the slices that one program restores on each device of a mesh."""
    return MICRO_BATCH.get(mesh.devices.flat[0].platform, AUTHORS)


class Pace(NamedTuple):
    """How fast batches were restored."""

    batch_size: int | None  # slices of a batch, those that pad it included; None for methods without batches
    seconds_per_iteration: float | None  # of such a batch, without compilation; None for methods without a loop


class Runner:
    """A method on the devices of a mesh: any number of slices in, as many restored slices out.

    Methods of volumes (tv3d) and gmm take all slices of one volume at once, and have no batches. The others:

    Every device runs the same program on the same number of slices, a micro-batch, whatever the number of slices, of
    devices and of slices in a batch; the last micro-batch is padded with empty slices. So the bits of a restored slice
    depend on the slice alone, on one kind of device. A batch is a number of micro-batches between which nobody waits.
    Out of device memory, the micro-batch is halved, which may change roundings, and is said.

    Of a volume, devices share out the micro-batches that networks are asked about, and each solves the data term alone:
    its bits, too, depend on the volume alone.
    """

    def __init__(self, method: Method, settings: Settings, model: Model | None, params: Any, mesh: jax.sharding.Mesh):
        """Places the parameters on every device of the mesh.

        Args:
          method: from `parse`.
          settings: of the restoration.
          model: that the method needs (see `check_model`); None will do for baselines.
          params: frozen parameters of the model.
          mesh: the devices.
        """
        self.method, self.settings, self.mesh = method, settings, mesh
        self.whole = method.name == "gmm"  # it needs all slices of a volume, each that is there
        self.mixture = settings.mixture
        self.micro = micro_batch(mesh)
        self.wanted = settings.batch_size
        self.iterates = method.iterates
        self.tolerance = settings.tolerance if method.restores else 0.0
        self.params = jax.device_put(params, devices.replicated(mesh))
        self.programs = Programs(method, settings, model, mesh, self.micro)
        self.timed: list[tuple[int, float]] = []  # slices and seconds per iteration of batches since `pace` was asked
        self.busy = 0.0  # seconds in which the devices had a program to run; compiling does not count

    @property
    def whole_volumes(self) -> bool:
        """Whether the method takes all slices of a volume at once, and so has no batches."""
        return self.whole or self.method.volume

    @property
    def kernels(self) -> str:
        """Whose kernels restore, once something was restored: those of lgjax or of XLA."""
        return self.programs.kernels

    @property
    def dispatched(self) -> int:
        """The slices that all devices take at a time, a micro-batch each."""
        return self.micro * self.mesh.size

    @property
    def size(self) -> int:
        """The slices of a batch: as many as wanted, or as suit the devices, in whole micro-batches."""
        return -(-(self.wanted or IN_FLIGHT * self.dispatched) // self.dispatched) * self.dispatched

    def __call__(
        self, slices: Slices, strength: np.ndarray, known: np.ndarray | Volume | None = None
    ) -> Iterator[tuple[np.ndarray, Traces]]:
        """Yields restored slices [n, H, W, 1] and their traces, batch by batch, in order.

        Args:
          slices: N of them; for gmm and methods of volumes, those of one volume.
          strength: lambda of every slice, [N]; of a volume all the same.
          known: for methods of volumes, the slices with what joins them; for gmm, the priors of its K classes at the n
            pixels inside the mask, [K, n], or None: all are equally likely.
        """
        if self.whole:
            assert not isinstance(known, Volume)
            return self._mixture(slices, known)
        if self.method.volume:
            assert isinstance(known, Volume)
            return self._volume(known, float(strength[0]))
        return self._batches(slices, strength)

    def _volume(self, whole: Volume, strength: float) -> Iterator[tuple[np.ndarray, Traces]]:
        """Yields the restored slices of one volume, once."""
        filled = jax.device_put(volumes.padded(whole), devices.replicated(self.mesh))
        while True:
            try:
                x, trace = self._at_once(filled, np.float32(strength))
                break
            except jax.errors.JaxRuntimeError as error:
                self._retry(error)
        yield x[: len(whole.number)], trace

    def _at_once(self, filled: Volume, strength: np.float32) -> tuple[np.ndarray, Traces]:
        """Restores one padded volume, and times the restoration."""
        (x, trace), seconds = self._run(self.params, filled, strength)
        if self.iterates:
            self.timed.append((len(filled.number), seconds / self._made(trace)))
        return x, trace

    def _run(self, *given: Any) -> tuple[Any, float]:
        """Runs the program for what is given, compiled first; returns how long the run took, too."""
        program, began = self.programs.of(*given), time.perf_counter()
        found = jax.device_get(program(*given))
        seconds = time.perf_counter() - began
        self.busy += seconds
        return found, seconds

    def _mixture(self, slices: Slices, priors: np.ndarray | None) -> Iterator[tuple[np.ndarray, None]]:
        """Yields the slices of one volume minus their distance to the nearest tissue, once."""
        inside = slices.mask > 0
        n = int(inside.sum())
        if priors is None:
            priors = np.ones((self.mixture.classes, n), np.float32)
        pad = (0, -n % VOLUME_STEP)
        values, mask = np.pad(slices.y[inside], pad), np.pad(np.ones(n, np.float32), pad)
        priors = np.pad(priors, ((0, 0), pad), constant_values=1)
        distance, _ = self._run(values, mask, priors)
        x = slices.y.copy()
        x[inside] -= distance[:n]
        yield x, None

    def _batches(self, slices: Slices, strength: np.ndarray) -> Iterator[tuple[np.ndarray, Traces]]:
        """Yields the restored slices of one batch after the other."""
        start, total = 0, len(slices.number)
        while start < total:
            x, trace = self.batch([a[start : start + self.size] for a in (*slices, strength)])
            yield x, trace
            start += len(x)

    def batch(self, part: Sequence[np.ndarray]) -> tuple[np.ndarray, Traces]:
        """Restores the first slices of a part as one batch: as many as `size` says after an out-of-memory error.

        Args:
          part: Y, mask, number and lambda of at most `size` slices.
        """
        while True:
            try:
                return self._batch([a[: self.size] for a in part])
            except jax.errors.JaxRuntimeError as error:
                self._retry(error)

    def _batch(self, part: Sequence[np.ndarray]) -> tuple[np.ndarray, Traces]:
        """Restores one batch, some micro-batches at a time, and times the batch."""
        n, step = len(part[0]), self.dispatched
        pieces = [self.place([a[i : i + step] for a in part]) for i in range(0, n, step)]
        program, began = self.programs.of(self.params, *pieces[0]), time.perf_counter()
        done = list(parallel.ahead(lambda piece: jax.device_get(program(self.params, *piece)), pieces, IN_FLIGHT))
        seconds = time.perf_counter() - began
        self.busy += seconds
        x, trace = jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *done)
        if self.iterates:  # a micro-batch goes on until its last slice has stopped
            self.timed.append((len(pieces) * step, seconds / self._made(trace)))
        return x, trace

    def place(self, part: Sequence[np.ndarray]) -> list[jax.Array]:
        """Puts at most `dispatched` slices on the devices, padded with empty slices to that number."""
        padded = [np.pad(a, [(0, self.dispatched - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in part]
        return jax.device_put(padded, devices.batch_sharding(self.mesh))

    def taken(self, traces: Traces) -> Any:
        """Counts the iterations that slices took until they stopped, [N]; None where nothing is iterated or traced."""
        if traces is None or traces.change is None:
            return None
        return loop.taken(np.asarray(traces.change), self.tolerance)

    def _made(self, traces: Traces) -> int:
        """Counts the iterations that a program made: until its last slice stopped; all, where nothing says more."""
        taken = self.taken(traces)
        return local.iterations(self.method, self.settings) if taken is None else taken.max()

    def pace(self) -> Pace:
        """Returns the median pace of the largest batches since the last call."""
        size = max((size for size, _ in self.timed), default=None if self.whole_volumes else self.size)
        rates = [seconds for batch, seconds in self.timed if batch == size]
        self.timed = []
        return Pace(size, float(np.median(rates)) if rates else None)

    def _retry(self, error: Exception) -> None:
        """Changes what may have failed, so that it can be run again: a CUDA graph, or the micro-batch; else raises."""
        if not self.programs.ungraphed(error):
            self._halve(error)

    def _halve(self, error: Exception) -> None:
        """Halves the micro-batch after an out-of-memory error; raises any other error, and this one when it cannot."""
        if not devices.is_out_of_memory(error) or self.micro == 1 or not self.params:  # without networks, none helps
            raise error
        self.micro = -(-self.micro // 2)
        self.programs.restart(self.micro)
        self.timed = []
        LOG.warning(
            "warning: out of device memory: going on with %d slices at a time on each device. Roundings may differ.",
            self.micro,
        )
