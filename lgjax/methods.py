"""Methods by name, each a function from slices to restored slices: `<model>_<prior>_<term>`, or a baseline.

vae_lg_neural_tv = the VAE's local Gaussian with the variance network, and TV as the data term
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax import models, priors, restoration, runtime
from lgjax.baselines import intensity
from lgjax.data import preprocess
from lgjax.data.cohort import Prepared
from lgjax.data.preprocess import Slices
from lgjax.data_terms import DATA_TERMS
from lgjax.errors import InputError, UsageError

PRIORS = ("reconstruction", "lg_est", "lg_neural")
BASELINES = ("intensity",)


class Method(NamedTuple):
    """A method taken apart: model and prior, and the data term where there is a restoration loop."""

    name: str
    model: str  # "" for baselines
    prior: str  # "" for baselines
    term: str  # "" where nothing is iterated

    @property
    def restores(self) -> bool:
        """Whether the method iterates, and so has a lambda to calibrate."""
        return bool(self.term)

    @property
    def signed(self) -> bool:
        """Whether the score is Y - X with its sign (plain intensity) rather than a distance."""
        return self.name == "intensity"


def parse(name: str) -> Method:
    """Takes a method's name apart.

    Raises:
      UsageError: there is no such method; the message lists those that exist.
    """
    if name in BASELINES:
        return Method(name, "", "", "")
    found = [
        Method(f"{model}_{prior}" + (f"_{term}" if term else ""), model, prior, term)
        for model in models.MODELS
        for prior in PRIORS
        for term in ([""] if prior == "reconstruction" else DATA_TERMS)
    ]
    for method in found:
        if method.name == name:
            return method
    raise UsageError(f"there is no method {name!r}. Choose among {', '.join([*BASELINES, *(m.name for m in found)])}.")


# (params, y, mask, index, strength) -> (x, Trace or None); y, mask: [N, H, W, 1]; index, strength: [N]
Restorer = Callable[..., tuple[jax.Array, restoration.Trace | None]]


def restorer(method: Method, config) -> Restorer:
    """The pure function that restores a batch of slices with one method; each slice depends on itself alone.

    Args:
      method: from `parse`.
      config: the whole config.
    """
    if method.name == "intensity":
        return lambda params, y, mask, index, strength: (intensity.restore(y, mask), None)
    if method.prior == "reconstruction":
        return functools.partial(_reconstruct, config)
    return functools.partial(_restore, method, config)


def _reconstruct(config, params, y, mask, index, strength):
    networks = models.bind(config.model, params)
    x = jax.vmap(functools.partial(priors.reconstruct, networks))(y)
    return jnp.where(mask > 0, x, y), None


def _restore(method: Method, config, params, y, mask, index, strength):
    networks = models.bind(config.model, params)
    settings = config.restore
    prior = {
        "lg_est": lambda: priors.local_gaussian_estimated(networks, settings.samples_est, config.model.variance_floor),
        "lg_neural": lambda: priors.local_gaussian_neural(networks, settings.samples_neural),
    }[method.prior]()

    def one(y, mask, key, strength):
        return restoration.restore(
            y,
            mask,
            key,
            prior=prior,
            data_term=DATA_TERMS[method.term],
            optimizer=restoration.optimizer(settings.optimizer, settings.learning_rate),
            strength=strength,
            iterations=settings.iterations,
        )

    return jax.vmap(one)(y, mask, restoration.slice_keys(config.seed, index), strength)


class Runner:
    """A method compiled for one batch size on a mesh: any number of slices in, as many restored slices out.

    The last batch is padded with empty slices. Out of device memory, the batch is halved, which changes no result.
    """

    def __init__(self, method: Method, config, params, mesh: jax.sharding.Mesh):
        """Places the parameters on every device of the mesh."""
        self.mesh = mesh
        self.devices = mesh.devices.size
        self.batch_size = -(-config.restore.batch_size // self.devices) * self.devices
        self.params = jax.device_put(params, runtime.replicated(mesh))
        self.function = jax.jit(restorer(method, config))

    def __call__(self, slices: Slices, strength: np.ndarray) -> Iterator[tuple[np.ndarray, restoration.Trace | None]]:
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
                arrays = jax.device_put(padded, runtime.batch_sharding(self.mesh))
                x, trace = jax.device_get(self.function(self.params, *arrays))
            except jax.errors.JaxRuntimeError as error:
                self._halve(error)
                continue
            yield x[:n], jax.tree.map(lambda a, n=n: a[:n], trace)
            start += n

    def _halve(self, error: Exception) -> None:
        """Halves the batch after an out-of-memory error; raises any other error, and this one when it cannot."""
        if not runtime.is_out_of_memory(error) or self.batch_size <= self.devices:
            raise error
        self.batch_size = -(-self.batch_size // (2 * self.devices)) * self.devices
        print(f"out of device memory: going on with batches of {self.batch_size}", flush=True)


def change(runner: Runner, subject: Prepared, strength: float) -> tuple[np.ndarray, restoration.Trace | None]:
    """Restores one subject.

    Returns:
      Y - X on the scan's own grid, [X, Y, Z] float32, in standard deviations of the brain; and the traces of its
      slices, each [N, iterations] (None for methods without a loop).

    Raises:
      InputError: the restoration diverged.
    """
    slices = subject.slices
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
    return preprocess.from_slices(difference, subject.placement), traces
