"""The variance network: from an image, how far its reconstruction will miss at every pixel (paper, Sec. 2.1)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks


class VarianceNet(nn.Module):
    """Convolutions 3x3 at full resolution; the last is the log variance: [N, H, W, 1] -> [N, H, W, 1]."""

    channels: Sequence[int]  # of the hidden layers; the paper: 8, 16, 8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in self.channels:
            x = blocks.activation(nn.Conv(features, (3, 3))(x))
        return nn.Conv(1, (3, 3))(x)


def variance(log_variance: jax.Array, floor: float) -> jax.Array:
    """The variance that a predicted log variance stands for; the floor keeps 1 / variance bounded."""
    return jnp.exp(log_variance) + floor


def negative_log_likelihood(residual, log_variance, mask, floor: float) -> jax.Array:
    """Gaussian negative log-likelihood of the residual, a mean over the brain, without its constant.

    Its optimum in the variance is E_z[(g(z) - X)^2], the target that the paper names.

    Args:
      residual: X - g(z), [N, H, W, 1]; no gradient flows into it.
      log_variance: the network's output at X, [N, H, W, 1].
      mask: 1 inside the brain, [N, H, W, 1].
      floor: least variance, in squared intensity units.
    """
    sigma2 = variance(log_variance, floor)
    terms = 0.5 * (jnp.log(sigma2) + jax.lax.stop_gradient(residual) ** 2 / sigma2)
    return (terms * mask).sum() / jnp.maximum(mask.sum(), 1.0)
