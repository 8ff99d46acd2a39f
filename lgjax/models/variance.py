"""The variance network: from an image, how far its reconstruction will miss at every pixel (paper, Sec. 2.1)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions


class VarianceNet(nn.Module):
    """Convolutions 3x3 at full resolution; the last is the log variance: [N, H, W, 1] -> [N, H, W, 1]."""

    channels: Sequence[int]  # of the hidden layers; the paper: 8, 16, 8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in self.channels:
            x = blocks.activation(convolutions.Conv(features, (3, 3))(x))
        return convolutions.Conv(1, (3, 3))(x)


def initialise(config, key: jax.Array):
    """Untrained parameters of the network that `config.model` describes."""
    return network(config).init(key, jnp.zeros((1, 8, 8, 1)))["params"]


def predict(config, params, x: jax.Array) -> jax.Array:
    """sigma2 at images x, [N, H, W, 1], floor included.

    The network's output means log variance (target `likelihood`) or the absolute residual (target `absolute`, what
    the authors' code did), whose square is the variance.
    """
    output: Any = network(config).apply({"params": params}, x)
    spread = {"likelihood": jnp.exp, "absolute": jnp.square}[config.model.variance_target](output)
    return spread + config.model.variance_floor


def loss(config, params, x: jax.Array, reconstruction: jax.Array, mask: jax.Array) -> jax.Array:
    """The network's loss on a batch, a mean over the brain; no gradient flows into the reconstruction.

    Args:
      config: the whole config; `model.variance_target` chooses the loss.
      params: of the network.
      x: images, [N, H, W, 1].
      reconstruction: g(z), [N, H, W, 1].
      mask: 1 inside the brain, [N, H, W, 1].
    """
    residual = x - jax.lax.stop_gradient(reconstruction)
    if config.model.variance_target == "likelihood":
        terms = negative_log_likelihood(residual, predict(config, params, x))
    else:
        predicted: Any = network(config).apply({"params": params}, x)
        terms = (predicted - jnp.abs(residual)) ** 2
    return (terms * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def negative_log_likelihood(residual: jax.Array, sigma2: jax.Array) -> jax.Array:
    """Gaussian negative log-likelihood of a residual at every pixel, without its constant.

    Its optimum in the variance is E_z[(g(z) - X)^2], the target that the paper names.
    """
    return 0.5 * (jnp.log(sigma2) + residual**2 / sigma2)


def network(config) -> VarianceNet:
    """The network that `config.model` describes."""
    return VarianceNet(tuple(config.model.variance_channels))
