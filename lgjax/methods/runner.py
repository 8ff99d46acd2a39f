"""Methods compiled for devices: slices in, restored slices out, slice by slice or volume by volume."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.methods import anogan, gmm, intensity, local, own_kernels, volumes
from lgjax.methods.local import Settings as Settings
from lgjax.methods.local import length as length
from lgjax.methods.names import Method
from lgjax.methods.volumes import Volume
from lgjax.models import convolutions, precision
from lgjax.models.base import BoundModel, Model
from lgjax.preparation.slices import Slices
from lgjax.restoration import loop
from lgjax.restoration.data_terms import DATA_TERMS
from lgjax.runtime import devices, parallel

LOG = logging.getLogger(__name__)
AUTHORS = 64  # slices that the authors' code restores at a time
# The slices that one program restores on one device, whatever the batch: rounding hangs on the shapes of arrays.
MICRO_BATCH = {"cpu": 12}
IN_FLIGHT = 2  # programs at a time: the second fills the cores, or the queue, while the first begins and ends
VOLUME_STEP = 2**15  # voxels: volumes are padded to a multiple of it, so that few programs are compiled

Traces = loop.Trace | anogan.Trace | None  # None where nothing is iterated
# (params, y, mask, number, strength) -> (x, Traces); y, mask: [N, H, W, 1]; number, strength: [N]
Restorer = Callable[..., tuple[jax.Array, Traces]]


def from_config(config) -> Settings:
    """Takes what a restoration reads from an experiment's config."""
    given = {**config.model, **config.restore, "seed": config.seed, "mixture": gmm.Settings(**config.gmm)}
    return Settings(**{name: given[name] for name in Settings._fields if name in given})


def restorer(method: Method, settings: Settings, model: Model | None) -> Restorer:
    """Returns the pure function that restores a batch of slices with one method; each slice depends on itself alone.

    Args:
      method: from `parse`, one of slices.
      settings: of the restoration.
      model: that the method needs; None for intensity.
    """

    def restore(params, y, mask, number, strength):
        one = intensity.restore
        if method.model:
            assert model
            one = functools.partial(_restore, method, settings, model.bind(params))
        with precision.matmul_precision(settings.precision):
            return jax.vmap(one)(y, mask, loop.slice_keys(settings.seed, number), strength)

    return restore


def _restore(method: Method, settings: Settings, networks: BoundModel, y, mask, key, strength):
    """Restores one slice."""
    if method.prior == "reconstruction":
        return jnp.where(mask > 0, networks.reconstruct(y), y), None
    if method.prior == "search":
        return anogan.search(
            networks,
            y,
            mask,
            key,
            latent_size=settings.latent_size,
            iterations=settings.iterations,
            learning_rate=settings.learning_rate,
            feature_weight=settings.feature_weight,
        )
    term = DATA_TERMS[method.term]
    return loop.restore(
        y,
        mask,
        key,
        prior=local.prior(method, settings, networks, y),
        data_term=term,
        solver=local.solver(settings, term),
        strength=strength,
        iterations=local.iterations(method, settings),
        tolerance=settings.tolerance,
        traced=settings.traced,
    )


def micro_batch(mesh: jax.sharding.Mesh) -> int:
    """Returns the slices that one program restores on each device of a mesh."""
    return MICRO_BATCH.get(mesh.devices.flat[0].platform, AUTHORS)


class Pace(NamedTuple):
    """How fast batches were restored."""

    batch_size: int | None  # slices of a batch, those that pad it included; None for methods without batches
    seconds_per_iteration: float | None  # of such a batch, without compilation; None for methods without a loop


class Runner:
    """A method compiled for a mesh: any number of slices in, as many restored slices out.

    Methods of volumes (tv3d) and gmm take all slices of one volume at once, and have no batches. The others:

    Every device runs the same program on the same number of slices, a micro-batch, whatever the number of slices, of
    devices and of slices in a batch; the last micro-batch is padded with empty slices. So the bits of a restored slice
    depend on the slice alone, on one kind of device. A batch is a number of micro-batches between which nobody waits.
    Out of device memory, the micro-batch is halved, which may change roundings, and is said.

    With `cuda_graphs`, a GPU is told the kernels of all iterations at once; it computes the same.

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
        self.method, self.settings, self.model, self.mesh = method, settings, model, mesh
        self.whole = method.name == "gmm"  # it needs all slices of a volume, each that is there
        self.mixture = settings.mixture
        self.micro = micro_batch(mesh)
        self.wanted = settings.batch_size
        self.iterates = method.iterates
        self.tolerance = settings.tolerance if method.restores else 0.0
        self.params = jax.device_put(params, devices.replicated(mesh))
        self.graphs = settings.cuda_graphs  # whether a restoration is to be one CUDA graph
        self.function = self._function()
        self.fused: bool | None = None  # whether kernels of ours are used; None: nobody has asked
        self.compiled: Callable | None = None  # for the present micro-batch
        self.programs: dict[int, Callable] = {}  # of volumes, by their number of slices, or of voxels for gmm
        self.timed: list[tuple[int, float]] = []  # slices and seconds per iteration of batches since `pace` was asked
        self.busy = 0.0  # seconds in which the devices had a program to run; compiling does not count

    def _function(self) -> Any:
        """Returns the method as a function to be compiled."""
        if self.whole:
            kappa, iterations = self.mixture.kappa, self.mixture.iterations
            return jax.jit(functools.partial(gmm.score, kappa=kappa, iterations=iterations))
        if self.method.volume:
            model = self.model if self.method.model else None
            each = devices.on_all(volumes.restorer(self.method, self.settings, model, self.micro), self.mesh)
        else:
            each = devices.on_each(restorer(self.method, self.settings, self.model), self.mesh)
        options = devices.compiler_options(self.mesh, "restoration")
        if self.graphs:
            options = {**options, **self._graph()}
        return jax.jit(each, compiler_options=options)

    def _graph(self) -> dict[str, str]:
        """Returns the options that make a restoration one CUDA graph; says where there are none."""
        options = devices.compiler_options(self.mesh, "graph")
        if not options:
            LOG.warning("warning: restore.cuda_graphs: XLA makes no such graphs for this device: going on without.")
        return options

    @property
    def whole_volumes(self) -> bool:
        """Whether the method takes all slices of a volume at once, and so has no batches."""
        return self.whole or self.method.volume

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
                self._halve(error)
        yield x[: len(whole.number)], trace

    def _at_once(self, filled: Volume, strength: np.float32) -> tuple[np.ndarray, Traces]:
        """Restores one padded volume, and times the restoration."""
        size = len(filled.number)
        (x, trace), seconds = self._run(size, self.params, filled, strength)
        if self.iterates:
            self.timed.append((size, seconds / self._made(trace)))
        return x, trace

    def compile(self, *given: Any) -> Callable:
        """Compiles the method for what is given; what a compiler refuses is left out: our kernels, then graphs."""
        self.settle(*given)
        try:
            with convolutions.fusion(self.fused):
                return self.function.lower(*given).compile()
        except Exception as error:
            if devices.is_out_of_memory(error) or not (self.fused or self.graphs):
                raise
            refused = self._without()
            program = self.compile(*given)
            LOG.warning(refused)
            return program

    def _without(self) -> str:
        """Leaves out what a compiler may have refused; returns what is then to be said."""
        if self.fused:
            self.fused = False
            return own_kernels.REFUSED
        self.graphs = False
        self.function = self._function()
        return "warning: restore.cuda_graphs: XLA refuses the graph on this device: going on without."

    def settle(self, *given: Any) -> None:
        """Decides, once, whether kernels of ours are to be used for slices like those given."""
        if self.fused is None:
            self.fused = self._trusts(given)

    def _trusts(self, given: tuple[Any, ...]) -> bool:
        """Returns whether kernels of ours do as XLA's on the devices of the mesh, for slices like those given."""
        kind = convolutions.forms.value or self.mesh.devices.flat[0].device_kind
        if not (self.model and self.method.model and convolutions.has_own_kernels(kind)):
            return False
        size = next(array.shape[1:3] for array in jax.tree.leaves(given[1:]) if np.ndim(array) == 4)
        with convolutions.forms(kind):
            return own_kernels.trusted(self.model.bind, self.params, size, self.settings.precision)

    def _run(self, size: int, *given: Any) -> tuple[Any, float]:
        """Runs the program for one size of what is given, compiled first; returns how long the run took, too."""
        if size not in self.programs:
            self.programs[size] = self.compile(*given)
        began = time.perf_counter()
        found = jax.device_get(self.programs[size](*given))
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
        distance, _ = self._run(len(values), values, mask, priors)
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
                self._halve(error)

    def _batch(self, part: Sequence[np.ndarray]) -> tuple[np.ndarray, Traces]:
        """Restores one batch, some micro-batches at a time, and times the batch."""
        n, step = len(part[0]), self.dispatched
        pieces = [self.place([a[i : i + step] for a in part]) for i in range(0, n, step)]
        if self.compiled is None:
            self.compiled = self.compile(self.params, *pieces[0])
        program, began = self.compiled, time.perf_counter()
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

    def _halve(self, error: Exception) -> None:
        """Halves the micro-batch after an out-of-memory error; raises any other error, and this one when it cannot."""
        if not devices.is_out_of_memory(error) or self.micro == 1 or not self.params:  # without networks, none helps
            raise error
        self.micro = -(-self.micro // 2)
        self.compiled, self.programs, self.timed = None, {}, []
        if self.method.volume:  # whose program has the micro-batches within
            self.function = self._function()
        LOG.warning(
            "warning: out of device memory: going on with %d slices at a time on each device. Roundings may differ.",
            self.micro,
        )
