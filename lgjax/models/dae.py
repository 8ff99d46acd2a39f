"""A denoising auto-encoder: a U-Net that removes coarse noise, and with it lesions (Kascenas et al. 2022, MIDL)."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions
from lgjax.models.base import BoundModel, Model
from lgjax.models.precision import cast

SUPPORTS = ("reconstruction",)


class ConvPair(nn.Module):
    """Two convolutions 3x3, the first with strides s: [N, H, W, C] -> [N, H / s, W / s, features]."""

    features: int
    strides: int = 1
    normalise: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for strides in (self.strides, 1):
            x = blocks.activation(blocks.NormalisedConv(self.features, 3, strides, self.normalise)(x, train))
        return x


class UNet(nn.Module):
    """U-Net with a level per entry of `channels`, each at half the resolution of the one before it.

    Any height and width divisible by 2 ** (len(channels) - 1) works.
    """

    channels: Sequence[int]
    normalise: bool = True
    features: bool = False  # gives what the last convolution sees, [N, H, W, channels[0]]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [N, H, W, 1] to [N, H, W, 1], both z-scored."""
        skips = []
        for level, features in enumerate(self.channels):
            x = ConvPair(features, 2 if level else 1, self.normalise)(x, train)
            skips.append(x)
        for skip in reversed(skips[:-1]):
            x = jnp.concatenate([blocks.upsample(x), skip], axis=-1)
            x = ConvPair(skip.shape[-1], 1, self.normalise)(x, train)
        return x if self.features else convolutions.Conv(1, (1, 1))(x)


def coarse_noise(key: jax.Array, mask: jax.Array, cells: int, std: float) -> jax.Array:
    """Draws smooth noise inside one slice's brain, [H, W, 1], z-scored units (Kascenas et al. 2022, Sec. 2).

    Args:
      key: of the draw.
      mask: 1 inside the brain, [H, W, 1].
      cells: independent values along each side; they are interpolated bilinearly and shifted at random, cyclically.
      std: standard deviation (root mean square over the whole slice) after the interpolation.
    """
    draw, shift = jax.random.split(key)
    noise = jax.image.resize(jax.random.normal(draw, (cells, cells, 1)), mask.shape, "bilinear")
    noise = jnp.roll(noise, jax.random.randint(shift, (2,), 0, jnp.array(mask.shape[:2])), axis=(0, 1))
    return mask * noise * (std / jnp.sqrt((noise**2).mean()))


def model(
    *, height: int, width: int, channels: tuple[int, ...], noise_cells: int, noise_std: float, precision: str
) -> Model:
    """Makes the U-Net; its loss is the mean squared error inside the brains of clean slices denoised.

    Args:
      height, width: of a slice, in pixels.
      channels: see `UNet`.
      noise_cells, noise_std: see `coarse_noise`.
      precision: of the network, see `precision`.
    """
    network, folded = UNet(channels), UNet(channels, normalise=False)

    def init(key):
        return dict(network.init(key, jnp.zeros((1, height, width, 1))))

    def loss(variables, x, mask, key, train=True):
        draw = functools.partial(coarse_noise, cells=noise_cells, std=noise_std)
        noise = jax.vmap(draw)(jax.random.split(key, len(x)), mask)
        variables = {**variables, "params": cast(variables["params"], precision)}
        denoised, updates = network.apply(variables, x + noise, train, mutable=["batch_stats"])
        error = ((denoised - x) ** 2 * mask).sum() / jnp.maximum(mask.sum(), 1.0)
        return error, (updates["batch_stats"], {"loss": error})

    def bind(params):
        params = cast(params, precision)
        return BoundModel(reconstruct=lambda x: folded.apply({"params": params}, x[None])[0])

    return Model(init, loss, bind, SUPPORTS)
