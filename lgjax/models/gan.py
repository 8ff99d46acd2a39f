"""The generative adversarial network of AnoGAN (Schlegl et al. 2017): a DCGAN for slices, and its losses.

The generator upsamples by nearest neighbours and then convolves, where DCGAN has strided transposed convolutions:
those cover pixels unevenly and leave a checkerboard, which an anomaly score would show as lesions.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions, precision
from lgjax.models.base import BoundModel

PRIORS = ("search",)


class Generator(nn.Module):
    """G: latents [N, D] -> images [N, H, W, 1], z-scored, the background of the brain included.

    Height and width must be divisible by 2 ** len(channels).
    """

    channels: Sequence[int]  # of the discriminator, from full resolution down; used in reverse
    height: int
    width: int
    normalise: bool = True

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        rows, columns = (size >> len(self.channels) for size in (self.height, self.width))
        x = nn.Dense(rows * columns * self.channels[-1], name="first")(z)
        x = blocks.activation(x.reshape(-1, rows, columns, self.channels[-1]))
        for i, features in enumerate(reversed(self.channels)):
            conv = blocks.NormalisedConv(features, normalise=self.normalise, upsampled=True, name=f"up_{i}")
            x = blocks.activation(conv(x, train))
        return convolutions.Conv(1, (3, 3), name="last")(x)


class Discriminator(nn.Module):
    """D: images [N, H, W, 1] -> logits [N] of being real. Without BatchNorm: an image is judged by itself."""

    channels: Sequence[int]  # one halving convolution each

    def setup(self):
        self.down = [convolutions.Conv(features, (3, 3), strides=2, padding="SAME") for features in self.channels]
        self.last = nn.Dense(1)

    def features(self, x: jax.Array) -> jax.Array:
        """The last hidden layer, [N, H / 2^B, W / 2^B, channels[-1]] with B convolutions."""
        for conv in self.down:
            x = blocks.activation(conv(x))
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.features(x).reshape(len(x), -1))[:, 0]


def generator_loss(generated: jax.Array) -> jax.Array:
    """The non-saturating loss -log D(G(z)) (Goodfellow et al. 2014), a mean over logits [N] of generated images."""
    return nn.softplus(-generated).mean()


def discriminator_loss(real: jax.Array, generated: jax.Array) -> jax.Array:
    """-log D(x) - log(1 - D(G(z))), means over the logits [N] of real and of generated images; 2 log 2 by guessing."""
    return nn.softplus(-real).mean() + nn.softplus(generated).mean()


def initialise(config, key: jax.Array) -> dict:
    """Untrained variables of both networks (see `models`)."""
    first, second = jax.random.split(key)
    generator = _generator(config).init(first, jnp.zeros((1, config.model.latent_size)))
    discriminator = _discriminator(config).init(second, jnp.zeros((1, config.data.height, config.data.width, 1)))
    return {
        "params": {"generator": generator["params"], "discriminator": discriminator["params"]},
        "batch_stats": {"generator": generator["batch_stats"]},
    }


def losses(config, variables: dict, x: jax.Array, mask: jax.Array, key: jax.Array):
    """The sum of both networks' losses for one batch, so that one step updates both at once (see `models`).

    Each network gets gradients from its own loss alone. The mask is not used: the background belongs to the picture.
    The discriminator is float32 in any precision: all that the generator learns from is its gradient.
    """
    params, stats = variables["params"], variables["batch_stats"]
    generator = precision.cast(params["generator"], config.train.precision)
    z = jax.random.normal(key, (len(x), config.model.latent_size), x.dtype)
    generated, updates = _generator(config).apply(
        {"params": generator, "batch_stats": stats["generator"]}, z, True, mutable=["batch_stats"]
    )

    def logits(images, weights):
        return _discriminator(config).apply({"params": weights}, images)

    fixed = jax.lax.stop_gradient
    fooled = generator_loss(logits(generated, fixed(params["discriminator"])))
    discriminator = discriminator_loss(
        logits(x, params["discriminator"]), logits(fixed(generated), params["discriminator"])
    )
    total = fooled + discriminator
    terms = {"loss": total, "generator": fooled, "discriminator": discriminator}
    return total, ({"generator": updates["batch_stats"]}, terms)


def bind(config, params: dict) -> BoundModel:
    """The trained model as functions of one slice (see `models`)."""
    params = precision.cast(params, config.restore.precision)
    generator, discriminator = _generator(config, normalise=False), _discriminator(config)
    return BoundModel(
        generate=lambda z: generator.apply({"params": params["generator"]}, z[None])[0],
        features=lambda x: discriminator.apply({"params": params["discriminator"]}, x[None], method="features")[0],
    )


def _generator(config, normalise: bool = True) -> Generator:
    return Generator(tuple(config.model.channels), config.data.height, config.data.width, normalise)


def _discriminator(config) -> Discriminator:
    return Discriminator(tuple(config.model.channels))
