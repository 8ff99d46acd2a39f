"""Gaussian mixture of tissue intensities by robust EM, one mixture per volume (Van Leemput et al. 2001).

Every function takes one volume, whose intensities are z-scored inside the brain; `jax.vmap` gives several. An atlas
says how likely each class is at each voxel (see lgjax.methods.atlas); without an atlas, all are equally likely.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

VARIANCE_FLOOR = 1e-4  # of a class, in squared standard deviations of the brain


class Settings(NamedTuple):
    """How a mixture is fitted, see `fit`."""

    classes: int = 3
    kappa: float = 3.0
    iterations: int = 100
    atlas: str = "none"  # or mni152: where the priors of the classes come from, see lgjax.methods.atlas


class Mixture(NamedTuple):
    """A Gaussian mixture, each [K]."""

    weights: jax.Array  # shares of the classes, sum 1; with an atlas, what the atlas's priors are multiplied by
    means: jax.Array
    variances: jax.Array


def initial(values: jax.Array, mask: jax.Array, classes: int) -> Mixture:
    """Makes the mixture that EM starts from: equal weights, means at the (k + 1/2) / K quantiles, one variance for all.

    Args:
      values: intensities, [n].
      mask: 1 where a value counts, 0 elsewhere, [n].
      classes: K.

    Returns:
      The mixture; its variance is that of the values divided by K^2, as in a cut into K equal parts.
    """
    count = mask.sum()
    ordered = jnp.sort(jnp.where(mask > 0, values, jnp.inf))
    ranks = (jnp.arange(classes) + 0.5) / classes * count
    means = jnp.where(count > 0, ordered[ranks.astype(jnp.int32)], 0.0)
    centre = (mask * values).sum() / jnp.maximum(count, 1.0)
    variance = (mask * (values - centre) ** 2).sum() / jnp.maximum(count, 1.0) / classes**2
    return Mixture(
        jnp.full_like(means, 1 / classes),
        means,
        jnp.full_like(means, jnp.maximum(variance, VARIANCE_FLOOR)),
    )


def fit(
    values: jax.Array,  # [n], z-scored
    mask: jax.Array,  # [n], 1 inside the brain
    priors: jax.Array,  # [K, n]
    *,
    kappa: float = 3.0,
    iterations: int = 100,
) -> Mixture:
    """Fits a mixture to one volume by EM that is robust to voxels of no class.

    A voxel counts for class k in the M step with its responsibility times its typicality
    t_k = N(y|k) / (N(y|k) + lambda_k), where lambda_k is N(y|k) at Mahalanobis distance kappa (Van Leemput et al.
    2001). That cuts the tails off: at kappa = 3 the standard deviation of a normal class comes out 0.964 times what
    it is (0.81 at 2). A voxel belongs to class k a priori with weight_k * prior_k, and the weights are fitted too
    (Ashburner and Friston 2005), so that priors that are equal everywhere are no priors at all.

    Args:
      values: intensities, [n].
      mask: 1 inside the brain, [n]; padding and what lies outside are 0 and count nowhere.
      priors: how likely each class is at each voxel, on any scale, [K, n]; at least one is above 0. The classes stand
        in the order of their brightness, dark first.
      kappa: in standard deviations of a class; `math.inf` is the plain EM.
      iterations: number of EM steps.

    Returns:
      The mixture, by intensity at the start and as a rule at the end. A class that no voxel belongs to keeps its mean
      and variance, at weight 0.
    """
    log_priors = jnp.log(priors)

    def step(_, mixture: Mixture) -> Mixture:
        squared = _standardised(values, mixture) ** 2
        log_joint = jnp.log(mixture.weights)[:, None] - 0.5 * (squared + jnp.log(mixture.variances)[:, None])
        responsibility = jax.nn.softmax(log_joint + log_priors, axis=0)
        # N / (N + lambda) = 1 / (1 + exp((d^2 - kappa^2) / 2)) at Mahalanobis distance d.
        typicality = jax.nn.sigmoid(0.5 * (kappa**2 - squared))
        return _maximise(values, priors, mask[None] * responsibility * typicality, mixture)

    return jax.lax.fori_loop(0, iterations, step, initial(values, mask, len(priors)))


def _maximise(values: jax.Array, priors: jax.Array, counts: jax.Array, mixture: Mixture) -> Mixture:
    """Takes the M step: moments of the values [n] under the counts [K, n]; empty classes stay as in `mixture`."""
    mass = counts.sum(axis=1)
    occupied, divisor = mass > 0, jnp.where(mass > 0, mass, 1.0)
    means = jnp.where(occupied, (counts * values[None]).sum(axis=1) / divisor, mixture.means)
    variances = (counts * (values[None] - means[:, None]) ** 2).sum(axis=1) / divisor
    variances = jnp.where(occupied, jnp.maximum(variances, VARIANCE_FLOOR), mixture.variances)
    # weight_k = sum_i count_ik / sum_i prior_ik (sum_j count_ij) / (sum_j weight_j prior_ij)
    evidence = (mixture.weights[:, None] * priors).sum(axis=0)
    offered = (priors * (counts.sum(axis=0) / evidence)[None]).sum(axis=1)
    taken = mass / jnp.where(occupied, offered, 1.0)
    weights = jnp.where(occupied.any(), taken / jnp.where(occupied.any(), taken.sum(), 1.0), mixture.weights)
    return Mixture(weights, means, variances)


def distance(values: jax.Array, priors: jax.Array, mixture: Mixture) -> jax.Array:
    """Returns the distance of values [n] from all classes, in standard deviations of the nearest, [n].

    The distance from class k is sqrt(d_k^2 - 2 log(prior_k / largest prior)), where d_k is Mahalanobis's: to be of an
    unlikely class costs as much as to be far from the likely one. Classes of weight 0 are nobody's.

    Args:
      values: intensities, [n].
      priors: as in `fit`, [K, n].
      mixture: from `fit`.
    """
    cost = -2 * jnp.log(priors / priors.max(axis=0, keepdims=True))
    squared = jnp.where(mixture.weights[:, None] > 0, _standardised(values, mixture) ** 2 + cost, jnp.inf)
    return jnp.sqrt(squared.min(axis=0))


def _standardised(values: jax.Array, mixture: Mixture) -> jax.Array:
    """Returns (y - mean_k) / sd_k, [K, n], of values [n]."""
    return (values[None] - mixture.means[:, None]) * jax.lax.rsqrt(mixture.variances)[:, None]


def score(values: jax.Array, mask: jax.Array, priors: jax.Array, *, kappa: float, iterations: int) -> jax.Array:
    """Fits a mixture to the voxels of one volume and returns their `distance` from its classes, [n].

    Args:
      values, mask, priors, kappa, iterations: of `fit`.
    """
    return distance(values, priors, fit(values, mask, priors, kappa=kappa, iterations=iterations))
