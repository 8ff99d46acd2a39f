"""Restoration of whole volumes: networks see slices, the data term sees the volume."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.methods import local
from lgjax.methods.local import Settings
from lgjax.methods.names import Method
from lgjax.models import precision
from lgjax.models.base import BoundModel, Model
from lgjax.preparation.midplane import Mirror
from lgjax.preparation.pipeline import Prepared
from lgjax.restoration import data_terms, loop, priors, solvers
from lgjax.restoration.data_terms import DataTerm
from lgjax.restoration.loop import Trace
from lgjax.restoration.priors import LocalPrior, Prior
from lgjax.runtime.counting import counted
from lgjax.scans import orientation

SLICES = 32  # volumes are padded to a multiple of so many slices, whatever the devices: few programs are compiled
WHOLE = 8  # slices with brain; on fewer, thresholds of whole volumes may not hold (docs/method.md)
UNSEEN_VARIANCE = 1e3  # where there is no mirror image: the neighbours alone decide
INTENSITY_VARIANCE = 1.0  # of a z-score about 0, by definition


class Volume(NamedTuple):
    """The slices of one volume, and what joins them: arrays of NumPy or of JAX."""

    y: Any  # [N, H, W, 1], z-scored
    mask: Any  # [N, H, W, 1], 1 inside the brain
    number: Any  # [N], of the slices
    across: Any  # [N - 1], weight of the difference of two slices that follow each other
    mirror: Mirror | None  # None for methods without


def volume(subject: Prepared, mirror: Mirror | None) -> Volume:
    """Puts together what a restoration of all slices of a scan needs.

    A difference between slices weighs the spacing of pixels over that of the two slices, so that a step of an anomaly
    costs its height per mm.

    Args:
      subject: the scan.
      mirror: of its slices.
    """
    through, rows, _ = orientation.zooms(subject.image.affine)
    across = subject.placement.rows.step * rows / (through * np.diff(subject.slices.number))
    return Volume(*subject.slices, across.astype(np.float32), mirror)


def warnings(method: Method, subject: Prepared) -> tuple[str, ...]:
    """Says that a scan has fewer slices with brain than a method of volumes wants, for its thresholds to hold."""
    count = len(subject.slices.number)
    if not method.volume or count >= WHOLE:
        return ()
    return (f"{counted(count, 'slice')} with brain: thresholds of whole volumes may not hold on fewer than {WHOLE}",)


def padded(whole: Volume) -> Volume:
    """Adds empty slices, joined to none, to a multiple of `SLICES`."""
    count = len(whole.number)
    more = -count % SLICES

    def pad(part: np.ndarray, value: float = 0) -> np.ndarray:
        return np.pad(part, [(0, more)] + [(0, 0)] * (part.ndim - 1), constant_values=value)

    mirror = whole.mirror and Mirror(pad(whole.mirror.mirrored), pad(whole.mirror.spread, np.inf))
    across = np.pad(whole.across, (0, count + more - 1 - len(whole.across)))
    return Volume(pad(whole.y), pad(whole.mask), pad(whole.number), across, mirror)


def restorer(method: Method, settings: Settings, model: Model | None, micro: int) -> Callable[..., Any]:
    """Returns the pure function that restores one volume with one method.

    The function runs under `devices.on_all`: devices share the networks' work out, and each makes the rest alone.

    Args:
      method: of volumes.
      settings: of the restoration.
      model: that the method needs; None for methods without a network.
      micro: slices that networks are asked about at a time on each device.

    Returns:
      (params, volume, lambda) -> (x, [N, H, W, 1], trace of the volume, each [1, iterations]; None for closed methods).
    """

    def restore(params: Any, whole: Volume, strength: jax.Array) -> tuple[jax.Array, Trace | None]:
        with precision.matmul_precision(settings.precision):
            networks = model.bind(params) if model else None
            term = data_terms.joined(whole.across)
            x, trace = loop.restore(
                whole.y,
                jnp.asarray(whole.mask),
                loop.slice_keys(settings.seed, whole.number),
                prior=_prior(method, settings, networks, whole, micro),
                data_term=term,
                solver=_solver(method, settings, term),
                strength=strength,
                iterations=1 if method.closed else local.iterations(method, settings),
                tolerance=settings.tolerance,
                traced=settings.traced and not method.closed,
            )
        return x, None if method.closed else jax.tree.map(lambda values: values[None], trace)

    return restore


def _solver(method: Method, settings: Settings, term: DataTerm) -> solvers.Solver:
    """Returns the solver of a method: for a Gaussian that does not depend on X, the step to the mode."""
    if method.closed:
        return solvers.proximal(term, float("inf"), 1, settings.closed_steps)
    return local.solver(settings, term)


def _prior(method: Method, settings: Settings, networks: BoundModel | None, whole: Volume, micro: int) -> Prior:
    """Returns the prior of a volume; in a product with the mirror, the brain's own brightness is an expert too."""
    if method.prior == "mirror":
        assert whole.mirror
        mirrored, spread = map(jnp.asarray, whole.mirror)
        known = jnp.isfinite(spread)
        variance = jnp.where(known, settings.mirror_variance * jnp.where(known, spread, 1), UNSEEN_VARIANCE)
        return priors.gaussian(jnp.where(known, mirrored, whole.y), variance)
    if method.prior == "intensity":
        return _intensity(whole.y)
    assert networks
    if method.prior == "reconstruction":
        (mean,) = by_slices(lambda y: (networks.reconstruct(y),), micro)(whole.y)
        own = priors.gaussian(mean, jnp.full_like(mean, settings.reconstruction_variance))
    else:
        own = _of_networks(method, settings, networks, whole.y, micro)
    if not method.mirror:
        return own
    assert whole.mirror
    mirrored, spread = map(jnp.asarray, whole.mirror)
    both = priors.beside(own, mirrored, settings.mirror_variance * spread)
    return priors.product(both, _intensity(whole.y))


def _intensity(y: jax.Array) -> Prior:
    """Returns the expert that knows of a healthy brain its mean and its variance alone."""
    return priors.gaussian(jnp.zeros_like(y), jnp.full_like(y, INTENSITY_VARIANCE))


def _of_networks(method: Method, settings: Settings, networks: BoundModel, y: jax.Array, micro: int) -> Prior:
    """Returns the prior of a volume whose slices are independent, each with the prior and the draws of its own."""

    def slice_near(x: jax.Array, key: jax.Array, y: jax.Array) -> LocalPrior:
        return local.prior(method, settings, networks, y)(x, jax.random.wrap_key_data(key))

    shared = by_slices(slice_near, micro)
    return lambda x, key: shared(x, jax.random.key_data(key), y)


def by_slices(function: Callable, micro: int, axis: str = "data") -> Callable:
    """Makes of a function of one slice a function of volumes, in micro-batches that the devices of a mesh share out.

    Each device takes as many whole micro-batches as the others, the last ones padded with zeros, and all gather the
    results. A micro-batch is a program of its own, whatever comes before and after, so that its bits depend on its
    slices alone; no more than a micro-batch is in the networks at a time.

    Args:
      function: of arrays of one slice; returns a tuple of them.
      micro: slices of a micro-batch.
      axis: of the mesh.
    """

    def chunk(arrays: Any) -> Any:
        return jax.lax.optimization_barrier(jax.vmap(function)(*jax.lax.optimization_barrier(arrays)))

    def whole(*arrays: jax.Array) -> Any:
        count, devices = len(arrays[0]), jax.lax.axis_size(axis)
        share = -(-count // (micro * devices)) * micro
        first = jax.lax.axis_index(axis) * share

        def mine(part: jax.Array) -> jax.Array:
            filled = jnp.pad(part, [(0, share * devices - count)] + [(0, 0)] * (part.ndim - 1))
            return jax.lax.dynamic_slice_in_dim(filled, first, share).reshape(-1, micro, *part.shape[1:])

        def together(part: jax.Array) -> jax.Array:
            flat = part.reshape(share, *part.shape[2:])
            return jax.lax.all_gather(flat, axis, tiled=True)[:count]

        return jax.tree.map(together, jax.lax.map(chunk, tuple(map(mine, arrays))))

    return whole
