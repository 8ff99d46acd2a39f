"""Gradients of the log prior log P(X), each a function (x, key) -> gradient at x, for one slice [H, W, 1].

The local Gaussian approximation (Chen et al. 2019, Sec. 2.1) replaces P near X^i by N(mu, diag(sigma2)); mu and sigma2
are constants of the step, so nothing is back-propagated through a network and a step costs forward passes only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from lgjax.models.vae import Posterior

Prior = Callable[[jax.Array, jax.Array], jax.Array]


class Networks(NamedTuple):
    """A trained model as pure functions of a batch, parameters bound, normalisation frozen."""

    encode: Callable[[jax.Array], Posterior]  # [N, H, W, 1] -> Q(z|X)
    decode: Callable[[jax.Array], jax.Array]  # latents -> [N, H, W, 1]
    variance: Callable[[jax.Array], jax.Array]  # [N, H, W, 1] -> sigma2, [N, H, W, 1], floor included


def decoder_samples(networks: Networks, x: jax.Array, key: jax.Array, samples: int) -> jax.Array:
    """g(z_l) for l = 1..L with z_l ~ Q(z|x), [L, H, W, 1], for one slice x, [H, W, 1]."""
    posterior = networks.encode(x[None])
    z = jax.vmap(posterior.sample)(jax.random.split(key, samples))
    return networks.decode(z[:, 0])


def reconstruct(networks: Networks, x: jax.Array) -> jax.Array:
    """g(mean of Q(z|x)), [H, W, 1]: the auto-encoder's reconstruction of one slice, without noise."""
    return networks.decode(networks.encode(x[None]).mean)[0]


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
        draws = decoder_samples(networks, x, key, samples)
        return gaussian_gradient(x, draws.mean(axis=0), draws.var(axis=0, ddof=1) + floor)

    return gradient


def local_gaussian_neural(networks: Networks, samples: int) -> Prior:
    """`lg_neural`: mean from L decoder samples, variance from the variance network at X^i."""

    def gradient(x, key):
        mu = decoder_samples(networks, x, key, samples).mean(axis=0)
        return gaussian_gradient(x, mu, networks.variance(x[None])[0])

    return gradient
