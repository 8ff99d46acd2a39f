"""The log prior log P(X) near x: its gradient and a local variance, each a function (x, key), for one slice [H, W, 1].

Priors without a network are functions of a volume, [N, H, W, 1], as well.

The local Gaussian approximation (Chen et al. 2019, Sec. 2.1) replaces P near X^i by N(mu, diag(sigma2)); mu and sigma2
are constants of the step, so nothing is back-propagated through a network and a step costs forward passes only.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lgjax.models.base import BoundModel

APART = 2.0  # standard deviations of the mirror's Gaussian


class LocalPrior(NamedTuple):
    """log P near x: the Gaussian with this gradient at x and this variance; its mean is x + variance * gradient."""

    gradient: jax.Array  # of log P at x, shaped as x
    variance: jax.Array  # sigma2, shaped as x


Prior = Callable[[jax.Array, jax.Array], LocalPrior]


def gaussian_gradient(x: jax.Array, mu: jax.Array, sigma2: jax.Array) -> jax.Array:
    """Returns the gradient of log N(x; mu, diag(sigma2)) at x (Eq. 1): -(x - mu) / sigma2."""
    return -(x - mu) / sigma2


def local_gaussian_estimated(networks: BoundModel, samples: int, floor: float) -> Prior:
    """Makes the prior `lg_est`: mean and variance from the same L decoder samples.

    Args:
      networks: the trained model.
      samples: L, at least 2.
      floor: added to the unbiased sample variance, in squared intensity units.

    Raises:
      ValueError: fewer than two samples, whose variance is undefined.
    """
    if samples < 2:
        raise ValueError(f"lg_est needs at least 2 samples for a variance, got {samples}")

    def near(x, key):
        draws = networks.samples(x, key, samples)
        sigma2 = draws.var(axis=0, ddof=1) + floor
        return LocalPrior(gaussian_gradient(x, draws.mean(axis=0), sigma2), sigma2)

    return near


def local_gaussian_neural(
    networks: BoundModel, samples: int, observed: jax.Array | None = None, deviation_limit: float = 0.0
) -> Prior:
    """Makes the prior `lg_neural`: mean from L decoder samples, variance from the variance network.

    Args:
      networks: the trained model.
      samples: L.
      observed: the slice at which the variance is evaluated, once (the authors' code); None: at every X^i (the paper).
      deviation_limit: pixels with |mu - x| / sigma above it feel no prior (the authors' code: 70.7); 0: no limit.
    """
    kept = None if observed is None else networks.variance(observed)

    def near(x, key):
        mu = networks.samples(x, key, samples).mean(axis=0)
        sigma2 = networks.variance(x) if kept is None else kept
        pull = gaussian_gradient(x, mu, sigma2)
        if deviation_limit:
            pull = jnp.where(jnp.abs(mu - x) <= deviation_limit * jnp.sqrt(sigma2), pull, 0.0)
        return LocalPrior(pull, sigma2)

    return near


def elbo(networks: BoundModel, reconstruction_weight: float) -> Prior:
    """Makes the prior `elbo`: the gradient of the evidence lower bound through encoder and decoder (MAP rows).

    Each gradient takes one draw of the latents.

    Args:
      networks: the trained model.
      reconstruction_weight: w; the bound falls as w ||X - g||^2, so its local variance is 1 / (2 w).
    """
    gradient = jax.grad(networks.elbo)
    return lambda x, key: LocalPrior(gradient(x, key), jnp.full_like(x, 1 / (2 * reconstruction_weight)))


def gaussian(mu: jax.Array, variance: jax.Array) -> Prior:
    """Makes the prior of a fixed Gaussian, N(mu, diag(variance)), whatever x is.

    Args:
      mu: shaped as x.
      variance: above 0; infinite where the prior says nothing.
    """
    return lambda x, key: LocalPrior(gaussian_gradient(x, mu, variance), variance)


def product(*experts: Prior) -> Prior:
    """Makes the product of experts (Hinton 2002): log priors add, so gradients add, and so do inverse variances."""

    def near(x, key):
        found = [expert(x, key) for expert in experts]
        precision = functools.reduce(jnp.add, [1 / one.variance for one in found])
        return LocalPrior(functools.reduce(jnp.add, [one.gradient for one in found]), 1 / precision)

    return near


def beside(prior: Prior, mirrored: jax.Array, variance: jax.Array) -> Prior:
    """Makes the product of a prior and the mirror image's Gaussian, N(mirrored, diag(variance)).

    Where both sides of a head are ill, the mirror image is far from the prior's mean: beyond APART of the mirror's
    standard deviations, the variance grows so that the distance is APART of them.

    Args:
      prior: a local Gaussian.
      mirrored: the observed image, reflected, shaped as x.
      variance: of x - mirrored in healthy brain; infinite where nothing is mirrored.
    """

    def near(x, key):
        own = prior(x, key)
        mean = x + own.variance * own.gradient
        mirror = gaussian(mirrored, jnp.maximum(variance, ((mirrored - mean) / APART) ** 2))
        return product(lambda x, key: own, mirror)(x, key)

    return near
