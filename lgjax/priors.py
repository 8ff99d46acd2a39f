"""Gradients of the log prior log P(X), each a function (x, key) -> gradient at x, for one slice [H, W, 1].

The local Gaussian approximation (Chen et al. 2019, Sec. 2.1) replaces P near X^i by N(mu, diag(sigma2)); mu and sigma2
are constants of the step, so nothing is back-propagated through a network and a step costs forward passes only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lgjax.models.networks import Networks

Prior = Callable[[jax.Array, jax.Array], jax.Array]


def gaussian_gradient(x: jax.Array, mu: jax.Array, sigma2: jax.Array) -> jax.Array:
    """Gradient of log N(x; mu, diag(sigma2)) at x (Eq. 1): -(x - mu) / sigma2."""
    return -(x - mu) / sigma2


def local_gaussian_estimated(networks: Networks, samples: int, floor: float) -> Prior:
    """`lg_est`: mean and variance from the same L decoder samples.

    Args:
      networks: the trained model.
      samples: L, at least 2.
      floor: added to the unbiased sample variance, in squared intensity units.

    Raises:
      ValueError: fewer than two samples, whose variance is undefined.
    """
    if samples < 2:
        raise ValueError(f"lg_est needs at least 2 samples for a variance, got {samples}")

    def gradient(x, key):
        draws = networks.samples(x, key, samples)
        return gaussian_gradient(x, draws.mean(axis=0), draws.var(axis=0, ddof=1) + floor)

    return gradient


def local_gaussian_neural(
    networks: Networks, samples: int, observed: jax.Array | None = None, deviation_limit: float = 0.0
) -> Prior:
    """`lg_neural`: mean from L decoder samples, variance from the variance network.

    Args:
      networks: the trained model.
      samples: L.
      observed: the slice at which the variance is evaluated, once (the authors' code); None: at every X^i (the paper).
      deviation_limit: pixels with |mu - x| / sigma above it feel no prior (the authors' code: 70.7); 0: no limit.
    """
    kept = None if observed is None else networks.variance(observed)

    def gradient(x, key):
        mu = networks.samples(x, key, samples).mean(axis=0)
        sigma2 = networks.variance(x) if kept is None else kept
        pull = gaussian_gradient(x, mu, sigma2)
        if deviation_limit:
            pull = jnp.where(jnp.abs(mu - x) <= deviation_limit * jnp.sqrt(sigma2), pull, 0.0)
        return pull

    return gradient


def elbo(networks: Networks) -> Prior:
    """`elbo`: gradient of the evidence lower bound through encoder and decoder, one draw of the latents (MAP rows)."""
    return jax.grad(networks.elbo)
