"""Restoration slice by slice: a method as a pure function of a batch of slices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lgjax.methods import anogan, intensity, local
from lgjax.methods.local import Settings
from lgjax.methods.names import Method
from lgjax.models import precision
from lgjax.models.base import BoundModel, Model
from lgjax.restoration import loop
from lgjax.restoration.data_terms import DATA_TERMS

Traces = loop.Trace | anogan.Trace | None  # None where nothing is iterated
# (params, y, mask, number, strength) -> (x, Traces); y, mask: [N, H, W, 1]; number, strength: [N]
Restorer = Callable[..., tuple[jax.Array, Traces]]


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
