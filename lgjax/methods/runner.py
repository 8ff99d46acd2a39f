"""Methods by name, each a function from slices to restored slices: `<model>_<prior>_<term>`, or a baseline.

vae_lg_neural_tv = the VAE's local Gaussian with the variance network, and TV as the data term
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax import models
from lgjax.methods import anogan, gmm, intensity
from lgjax.methods.names import Method, check_model
from lgjax.models.base import BoundModel
from lgjax.models.precision import matmul_precision
from lgjax.preparation import slices as preparation_slices
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Slices
from lgjax.restoration import loop, priors
from lgjax.restoration.data_terms import DATA_TERMS
from lgjax.restoration.priors import Prior
from lgjax.runtime import devices
from lgjax.runtime.errors import InputError

LOG = logging.getLogger(__name__)
AUTHORS = 64  # slices that the authors' code restores at a time
# On CPU a slice of a larger batch is restored as fast, and the last batch of a volume is filled up with empty ones.
SUITABLE = {"cpu": 16}


Traces = loop.Trace | anogan.Trace | None  # None where nothing is iterated
# (params, y, mask, index, strength) -> (x, Traces); y, mask: [N, H, W, 1]; index, strength: [N]
Restorer = Callable[..., tuple[jax.Array, Traces]]


def restorer(method: Method, config) -> Restorer:
    """The pure function that restores a batch of slices with one method; each slice depends on itself alone.

    Args:
      method: from `parse`, not gmm, which needs whole volumes.
      config: the whole config.
    """

    def restore(params, y, mask, index, strength):
        one = intensity.restore
        if method.model:
            one = functools.partial(
                _restore, method, config, models.from_config(config, config.restore.precision).bind(params)
            )
        with matmul_precision(config.restore.precision):
            return jax.vmap(one)(y, mask, loop.slice_keys(config.seed, index), strength)

    return restore


def _restore(method: Method, config, networks: BoundModel, y, mask, key, strength):
    """Restores one slice."""
    settings = config.restore
    if method.prior == "reconstruction":
        return jnp.where(mask > 0, networks.reconstruct(y), y), None
    if method.prior == "search":
        return anogan.search(
            networks,
            y,
            mask,
            key,
            latent_size=config.model.latent_size,
            iterations=settings.iterations,
            learning_rate=settings.learning_rate,
        )
    return loop.restore(
        y,
        mask,
        key,
        prior=_prior(method, config, networks, y),
        data_term=DATA_TERMS[method.term],
        solver=loop.solver(
            settings.optimizer,
            method.term,
            learning_rate=settings.learning_rate,
            iterations=settings.iterations,
            refreshes=settings.refreshes,
            dual_steps=settings.dual_steps,
        ),
        strength=strength,
        iterations=settings[length(method, config)],
        tolerance=settings.tolerance,
    )


def length(method: Method, config) -> str:
    """The field of `config.restore` that says how many iterations a method makes at most."""
    return "refreshes" if method.restores and config.restore.optimizer == "proximal" else "iterations"


def _prior(method: Method, config, networks: BoundModel, y: jax.Array) -> Prior:
    """The prior that a method's restoration of the slice y climbs."""
    settings = config.restore
    if method.prior == "elbo":
        return priors.elbo(networks, config.model.reconstruction_weight)
    if method.prior == "lg_est":
        return priors.local_gaussian_estimated(networks, settings.samples_est, config.model.variance_floor)
    observed = {"restored": None, "observed": y}[settings.variance_at]
    samples = settings.get("samples_neural", 1)  # an exact code (aae) has nothing to draw
    return priors.local_gaussian_neural(networks, samples, observed, settings.deviation_limit)


def batch_size(config, mesh: jax.sharding.Mesh) -> int:
    """Slices in a batch: `restore.batch_size`, or where that is 0 what suits the device, for each device as many."""
    wanted = config.restore.batch_size or SUITABLE.get(mesh.devices.flat[0].platform, AUTHORS)
    return -(-wanted // mesh.size) * mesh.size


class Runner:
    """A method compiled for one batch size on a mesh: any number of slices in, as many restored slices out.

    The last batch is padded with empty slices. Out of device memory, the batch is halved, which changes no result.
    """

    whole = False  # any slices will do, each is restored by itself

    def __init__(self, method: Method, config, params, mesh: jax.sharding.Mesh):
        """Places the parameters on every device of the mesh."""
        check_model(method, config)
        self.mesh = mesh
        self.devices = mesh.devices.size
        self.batch_size = batch_size(config, mesh)
        self.iterates = method.prior not in ("", "reconstruction")
        self.tolerance = config.restore.tolerance if method.restores else 0.0
        self.params = jax.device_put(params, devices.replicated(mesh))
        options = devices.compiler_options(mesh, "restoration")
        self.function = jax.jit(restorer(method, config), compiler_options=options)
        self.compiled: Callable | None = None  # for the present batch size
        self.seconds: list[float] = []  # of every batch since the last call of `seconds_per_iteration`
        self.done: list[int] = []  # iterations of the same batches

    def __call__(self, slices: Slices, strength: np.ndarray) -> Iterator[tuple[np.ndarray, Traces]]:
        """Yields restored slices [n, H, W, 1] and their traces, batch by batch, in order.

        Args:
          slices: N of them.
          strength: lambda of every slice, [N].
        """
        start, total = 0, len(slices.index)
        while start < total:
            part = [a[start : start + self.batch_size] for a in (*slices, strength)]
            n = len(part[0])
            padded = [np.pad(a, [(0, self.batch_size - n)] + [(0, 0)] * (a.ndim - 1)) for a in part]
            try:
                arrays = jax.device_put(padded, devices.batch_sharding(self.mesh))
                if self.compiled is None:
                    self.compiled = self.function.lower(self.params, *arrays).compile()
                began = time.perf_counter()
                x, trace = jax.device_get(self.compiled(self.params, *arrays))
            except jax.errors.JaxRuntimeError as error:
                self._halve(error)
                continue
            self.seconds.append(time.perf_counter() - began)
            if self.iterates:
                self.done.append(self.taken(trace).max())  # the batch goes on until its last slice has stopped
            yield x[:n], jax.tree.map(lambda a, n=n: a[:n], trace)
            start += n

    def taken(self, traces: loop.Trace | anogan.Trace) -> np.ndarray:
        """Iterations that slices took until they stopped, [N]."""
        return loop.taken(np.asarray(traces.change), self.tolerance)

    def seconds_per_iteration(self) -> float | None:
        """Median over the batches since the last call, without compilation; None for methods without a loop."""
        rates = [seconds / done for seconds, done in zip(self.seconds, self.done, strict=False)]
        self.seconds, self.done = [], []
        return float(np.median(rates)) if rates else None

    def _halve(self, error: Exception) -> None:
        """Halves the batch after an out-of-memory error; raises any other error, and this one when it cannot."""
        if not devices.is_out_of_memory(error) or self.batch_size <= self.devices:
            raise error
        self.batch_size = -(-self.batch_size // (2 * self.devices)) * self.devices
        self.compiled, self.seconds, self.done = None, [], []
        LOG.warning("out of device memory: going on with batches of %d", self.batch_size)


class VolumeRunner:
    """The counterpart of `Runner` for gmm, which fits all slices of one volume at once."""

    whole = True  # needs all slices of a volume
    batch_size = None

    STEP = 16  # slices: volumes are padded to a multiple of it, so that few programs are compiled

    def __init__(self, config):
        """Takes the whole config."""
        settings = config.gmm
        self.function = jax.jit(
            functools.partial(
                gmm.distance_map, classes=settings.classes, kappa=settings.kappa, iterations=settings.iterations
            )
        )

    def __call__(self, slices: Slices, strength: np.ndarray) -> Iterator[tuple[np.ndarray, None]]:
        """Yields the slices of one volume minus their distance to the nearest tissue, once; `strength` has no say.

        The distance has no sign: where the nearest class changes, an interpolation between +2 and -2 would say 0.
        """
        n = len(slices.index)
        pad = [(0, -n % self.STEP), (0, 0), (0, 0), (0, 0)]
        distance = jax.device_get(self.function(np.pad(slices.y, pad), np.pad(slices.mask, pad)))[:n]
        yield slices.y - np.abs(distance), None

    def seconds_per_iteration(self) -> None:
        """None: the iterations of EM are not those of a restoration."""


def build_runner(method: Method, config, params, mesh: jax.sharding.Mesh) -> "Runner | VolumeRunner":
    """What runs a method on slices, batch by batch or volume by volume."""
    return VolumeRunner(config) if method.name == "gmm" else Runner(method, config, params, mesh)


class Restored(NamedTuple):
    """One subject, restored."""

    subject: Prepared  # with the slices that were looked at, and the brain mask in those
    change: np.ndarray  # Y - X on the scan's own grid, [X, Y, Z] float32, in the method's unit
    traces: Traces  # of its slices, each [N, iterations]; None for methods without a loop
    taken: np.ndarray | None  # iterations that each slice took, [N]; None for methods without a loop
    seconds_per_iteration: float | None  # of a batch, without compilation


def restore_scan(runner: Runner | VolumeRunner, subject: Prepared, strength: float, step: int = 1) -> Restored:
    """Restores every `step`-th slice of one subject with one lambda.

    Raises:
      InputError: the restoration diverged.
    """
    kept, placement = preparation_slices.every(subject.slices, subject.placement, step)
    slices = subject.slices if runner.whole else kept
    batches = list(runner(slices, np.full(len(slices.index), strength, np.float32)))
    difference = slices.y - np.concatenate([x for x, _ in batches])
    if not np.isfinite(difference).all():
        bad = slices.index[~np.isfinite(difference).all(axis=(1, 2, 3))]
        raise InputError(
            subject.image.source,
            f"its restoration diverged in {len(bad)} slices",
            "Lower --config.restore.learning_rate, calibrate and restore again",
        )
    traces = None if batches[0][1] is None else jax.tree.map(lambda *t: np.concatenate(t), *(t for _, t in batches))
    taken = None if isinstance(runner, VolumeRunner) or traces is None else runner.taken(traces)
    change = preparation_slices.from_slices(difference[slices.index % step == 0], placement)
    looked_at = subject._replace(slices=kept, placement=placement)
    return Restored(looked_at, change, traces, taken, runner.seconds_per_iteration())
