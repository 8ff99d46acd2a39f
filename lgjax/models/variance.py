"""The variance network: from an image, how far its reconstruction will miss at every pixel (paper, Sec. 2.1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Settings(NamedTuple):
    """The variance network of a model and what its output means."""

    channels: tuple[int, ...]  # of the hidden layers
    target: str  # `likelihood`: log variance; `absolute`: absolute residual, as in the authors' code
    floor: float  # squared intensity units (z-scores), added to every variance

    @property
    def network(self) -> VarianceNet:
        """Makes the network."""
        return VarianceNet(self.channels)


def init(settings: Settings, key: jax.Array) -> Any:
    """Draws untrained parameters."""
    return settings.network.init(key, jnp.zeros((1, 8, 8, 1)))["params"]


def predict(settings: Settings, params: Any, x: jax.Array) -> jax.Array:
    """Predicts sigma2 at images x, [N, H, W, 1], floor included.

    With the target `absolute`, the variance is the square of the network's output.
    """
    output: Any = settings.network.apply({"params": params}, x)
    spread = {"likelihood": jnp.exp, "absolute": jnp.square}[settings.target](output)
    return spread + settings.floor


def loss(settings: Settings, params: Any, x: jax.Array, reconstruction: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the network's loss on a batch, a mean over the brain; no gradient flows into the reconstruction.

    Args:
      settings: of the network; the target chooses the loss.
      params: of the network.
      x: images, [N, H, W, 1].
      reconstruction: g(z), [N, H, W, 1].
      mask: 1 inside the brain, [N, H, W, 1].
    """
    residual = x - jax.lax.stop_gradient(reconstruction)
    if settings.target == "likelihood":
        terms = negative_log_likelihood(residual, predict(settings, params, x))
    else:
        predicted: Any = settings.network.apply({"params": params}, x)
        terms = (predicted - jnp.abs(residual)) ** 2
    return (terms * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def negative_log_likelihood(residual: jax.Array, sigma2: jax.Array) -> jax.Array:
    """Computes the Gaussian negative log-likelihood of a residual at every pixel, without its constant.

    Its optimum in the variance is E_z[(g(z) - X)^2], the target that the paper names.
    """
    return 0.5 * (jnp.log(sigma2) + residual**2 / sigma2)
