"""Methods by name, each a function from slices to restored slices: `<model>_<prior>_<term>`, or a baseline.

vae_lg_neural_tv = the VAE's local Gaussian with the variance network, and TV as the data term
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.methods import anogan, atlas, gmm, intensity
from lgjax.methods.names import Method
from lgjax.models import precision
from lgjax.models.base import BoundModel, Model
from lgjax.preparation import slices as preparation_slices
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Slices
from lgjax.restoration import loop, priors, solvers
from lgjax.restoration.data_terms import DATA_TERMS
from lgjax.restoration.priors import Prior
from lgjax.runtime import devices
from lgjax.runtime.errors import InputError

LOG = logging.getLogger(__name__)
AUTHORS = 64  # slices that the authors' code restores at a time
# On CPU a slice of a larger batch is restored as fast, and the last batch of a volume is filled up with empty ones.
SUITABLE = {"cpu": 16}
VOLUME_STEP = 2**15  # voxels: volumes are padded to a multiple of it, so that few programs are compiled

Traces = loop.Trace | anogan.Trace | None  # None where nothing is iterated
# (params, y, mask, number, strength) -> (x, Traces); y, mask: [N, H, W, 1]; number, strength: [N]
Restorer = Callable[..., tuple[jax.Array, Traces]]


class Settings(NamedTuple):
    """All that a restoration reads; what a model has no use for keeps its default."""

    seed: int
    precision: str  # of products of matrices, see models.precision
    batch_size: int  # slices restored at a time; 0: as suits the device
    mixture: gmm.Settings
    learning_rate: float = 0.0
    iterations: int = 0
    optimizer: str = "adam"  # see restoration.solvers.solver
    refreshes: int = 0
    dual_steps: int = 0
    tolerance: float = 0.0  # standard deviations of the brain, see restoration.restore
    samples_est: int = 1  # an exact code (aae) has nothing to draw
    samples_neural: int = 1
    variance_at: str = "restored"  # or observed
    deviation_limit: float = 0.0
    variance_floor: float = 0.0  # squared standard deviations of the brain
    reconstruction_weight: float = 1.0
    latent_size: int = 0
    feature_weight: float = 0.0  # of the search of anogan


def from_config(config) -> Settings:
    """Takes what a restoration reads from an experiment's config."""
    given = {**config.model, **config.restore, "seed": config.seed, "mixture": gmm.Settings(**config.gmm)}
    return Settings(**{name: given[name] for name in Settings._fields if name in given})


def restorer(method: Method, settings: Settings, model: Model | None) -> Restorer:
    """Returns the pure function that restores a batch of slices with one method; each slice depends on itself alone.

    Args:
      method: from `parse`, not gmm, which needs whole volumes.
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
    return loop.restore(
        y,
        mask,
        key,
        prior=_prior(method, settings, networks, y),
        data_term=DATA_TERMS[method.term],
        solver=solvers.solver(
            settings.optimizer,
            method.term,
            learning_rate=settings.learning_rate,
            iterations=settings.iterations,
            refreshes=settings.refreshes,
            dual_steps=settings.dual_steps,
        ),
        strength=strength,
        iterations=getattr(settings, length(method, settings)),
        tolerance=settings.tolerance,
    )


def length(method: Method, settings: Settings) -> str:
    """Names the field of `Settings` that says how many iterations a method makes at most."""
    return "refreshes" if method.restores and settings.optimizer == "proximal" else "iterations"


def _prior(method: Method, settings: Settings, networks: BoundModel, y: jax.Array) -> Prior:
    """Returns the prior that a method's restoration of the slice y climbs."""
    if method.prior == "elbo":
        return priors.elbo(networks, settings.reconstruction_weight)
    if method.prior == "lg_est":
        return priors.local_gaussian_estimated(networks, settings.samples_est, settings.variance_floor)
    observed = {"restored": None, "observed": y}[settings.variance_at]
    return priors.local_gaussian_neural(networks, settings.samples_neural, observed, settings.deviation_limit)


def batch_size(settings: Settings, mesh: jax.sharding.Mesh) -> int:
    """Returns the slices of a batch, the same number for each device: those of the settings, or what suits it."""
    wanted = settings.batch_size or SUITABLE.get(mesh.devices.flat[0].platform, AUTHORS)
    return -(-wanted // mesh.size) * mesh.size


class Runner:
    """A method compiled for one batch size on a mesh: any number of slices in, as many restored slices out.

    The last batch is padded with empty slices. Out of device memory, the batch is halved, which changes no result.
    gmm fits all slices of one volume at once, and has no batches.
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
        self.mesh = mesh
        self.whole = method.name == "gmm"  # it needs all slices of a volume; else each is restored by itself
        self.mixture = settings.mixture
        self.size = batch_size(settings, mesh)
        self.iterates = method.prior not in ("", "reconstruction")
        self.tolerance = settings.tolerance if method.restores else 0.0
        self.params = jax.device_put(params, devices.replicated(mesh))
        if self.whole:
            kappa, iterations = settings.mixture.kappa, settings.mixture.iterations
            self.function = jax.jit(functools.partial(gmm.score, kappa=kappa, iterations=iterations))
        else:
            options = devices.compiler_options(mesh, "restoration")
            self.function = jax.jit(restorer(method, settings, model), compiler_options=options)
        self.compiled: Callable | None = None  # for the present batch size
        self.seconds: list[float] = []  # of every batch since the last call of `seconds_per_iteration`
        self.done: list[int] = []  # iterations of the same batches

    @property
    def batch_size(self) -> int | None:
        """Slices in a batch; None for gmm."""
        return None if self.whole else self.size

    def __call__(
        self, slices: Slices, strength: np.ndarray, priors: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, Traces]]:
        """Yields restored slices [n, H, W, 1] and their traces, batch by batch, in order.

        Args:
          slices: N of them; for gmm all slices of one volume.
          strength: lambda of every slice, [N].
          priors: for gmm, of its K classes at the n pixels inside the mask, [K, n]; None: all are equally likely.
        """
        return self._volume(slices, priors) if self.whole else self._batches(slices, strength)

    def _volume(self, slices: Slices, priors: np.ndarray | None) -> Iterator[tuple[np.ndarray, None]]:
        """Yields the slices of one volume minus their distance to the nearest tissue, once."""
        inside = slices.mask > 0
        n = int(inside.sum())
        if priors is None:
            priors = np.ones((self.mixture.classes, n), np.float32)
        pad = (0, -n % VOLUME_STEP)
        values, mask = np.pad(slices.y[inside], pad), np.pad(np.ones(n, np.float32), pad)
        distance = jax.device_get(self.function(values, mask, np.pad(priors, ((0, 0), pad), constant_values=1)))
        x = slices.y.copy()
        x[inside] -= distance[:n]
        yield x, None

    def _batches(self, slices: Slices, strength: np.ndarray) -> Iterator[tuple[np.ndarray, Traces]]:
        start, total = 0, len(slices.number)
        while start < total:
            part = [a[start : start + self.size] for a in (*slices, strength)]
            n = len(part[0])
            padded = [np.pad(a, [(0, self.size - n)] + [(0, 0)] * (a.ndim - 1)) for a in part]
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
        """Counts the iterations that slices took until they stopped, [N]."""
        return loop.taken(np.asarray(traces.change), self.tolerance)

    def seconds_per_iteration(self) -> float | None:
        """Returns the median over the batches since the last call; None for methods without a loop.

        Compilation is not counted.
        """
        rates = [seconds / done for seconds, done in zip(self.seconds, self.done, strict=False)]
        self.seconds, self.done = [], []
        return float(np.median(rates)) if rates else None

    def _halve(self, error: Exception) -> None:
        """Halves the batch after an out-of-memory error; raises any other error, and this one when it cannot."""
        if not devices.is_out_of_memory(error) or self.size <= self.mesh.size:
            raise error
        self.size = -(-self.size // (2 * self.mesh.size)) * self.mesh.size
        self.compiled, self.seconds, self.done = None, [], []
        LOG.warning("out of device memory: going on with batches of %d", self.size)


class Restored(NamedTuple):
    """One subject, restored."""

    subject: Prepared  # with the slices that were looked at, and the brain mask in those
    change: np.ndarray  # Y - X on the scan's own grid, [X, Y, Z] float32, in the method's unit
    traces: Traces  # of its slices, each [N, iterations]; None for methods without a loop
    taken: np.ndarray | None  # iterations that each slice took, [N]; None for methods without a loop
    seconds_per_iteration: float | None  # of a batch, without compilation


def restore_scan(runner: Runner, subject: Prepared, strength: float, step: int = 1) -> Restored:
    """Restores every `step`-th slice of one subject with one lambda.

    Raises:
      InputError: the restoration diverged.
    """
    kept, placement = preparation_slices.every(subject.slices, subject.placement, step)
    slices = subject.slices if runner.whole else kept
    known: tuple[np.ndarray, ...] = ()
    if runner.whole and runner.mixture.atlas != "none":
        known = (atlas.tissue_priors(subject.placement, subject.image.affine),)
    batches = list(runner(slices, np.full(len(slices.number), strength, np.float32), *known))
    difference = slices.y - np.concatenate([x for x, _ in batches])
    if not np.isfinite(difference).all():
        bad = slices.number[~np.isfinite(difference).all(axis=(1, 2, 3))]
        raise InputError(
            subject.image.source,
            f"its restoration diverged in {len(bad)} slices",
            "Lower --config.restore.learning_rate, calibrate and restore again",
        )
    traces = None if batches[0][1] is None else jax.tree.map(lambda *t: np.concatenate(t), *(t for _, t in batches))
    taken = None if traces is None else runner.taken(traces)
    change = preparation_slices.from_slices(difference[slices.number % step == 0], placement)
    looked_at = subject._replace(slices=kept, placement=placement)
    return Restored(looked_at, change, traces, taken, runner.seconds_per_iteration())
