"""The generative adversarial network of AnoGAN (Schlegl et al. 2017): a DCGAN for slices, and its losses.

The generator upsamples by nearest neighbours and then convolves, where DCGAN has strided transposed convolutions:
those cover pixels unevenly and leave a checkerboard, which an anomaly score would show as lesions.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions
from lgjax.models.base import BoundModel, Model
from lgjax.models.precision import cast

SUPPORTS = ("search",)


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
        """Makes the halving convolutions and the last, dense layer."""
        self.down = [convolutions.Conv(features, (3, 3), strides=2, padding="SAME") for features in self.channels]
        self.last = nn.Dense(1)

    def features(self, x: jax.Array) -> jax.Array:
        """Returns the last hidden layer, [N, H / 2^B, W / 2^B, channels[-1]] with B convolutions."""
        for conv in self.down:
            x = blocks.activation(conv(x))
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.features(x).reshape(len(x), -1))[:, 0]


def generator_loss(generated: jax.Array) -> jax.Array:
    """Returns the mean non-saturating loss -log D(G(z)) (Goodfellow et al. 2014) of logits [N] of generated images."""
    return nn.softplus(-generated).mean()


def discriminator_loss(real: jax.Array, generated: jax.Array) -> jax.Array:
    """Returns -log D(x) - log(1 - D(G(z))), means over the logits [N] of real and of generated images.

    The loss is 2 log 2 by guessing.
    """
    return nn.softplus(-real).mean() + nn.softplus(generated).mean()


def model(*, height: int, width: int, channels: tuple[int, ...], latent_size: int, precision: str) -> Model:
    """Makes the generator and the discriminator; one step updates both, each by its own loss alone.

    The mask plays no part in the losses: the background belongs to the picture.

    Args:
      height, width: of a slice, in pixels, divisible by 2 ** len(channels).
      channels: of the discriminator, from full resolution down; of the generator in reverse.
      latent_size: D.
      precision: of the generator; in training, the discriminator is float32 in any precision, since its gradient is
        all that the generator learns from.
    """
    network, folded = (Generator(channels, height, width, normalise) for normalise in (True, False))
    judge = Discriminator(channels)

    def init(key):
        first, second = jax.random.split(key)
        generator = network.init(first, jnp.zeros((1, latent_size)))
        discriminator = judge.init(second, jnp.zeros((1, height, width, 1)))
        return {
            "params": {"generator": generator["params"], "discriminator": discriminator["params"]},
            "batch_stats": {"generator": generator["batch_stats"]},
        }

    def loss(variables, x, mask, key, train=True):
        params, stats = variables["params"], variables["batch_stats"]
        given = {"params": cast(params["generator"], precision), "batch_stats": stats["generator"]}
        z = jax.random.normal(key, (len(x), latent_size), x.dtype)
        generated, updates = network.apply(given, z, train, mutable=["batch_stats"])

        def logits(images, weights):
            return judge.apply({"params": weights}, images)

        fixed, weights = jax.lax.stop_gradient, params["discriminator"]
        fooled = generator_loss(logits(generated, fixed(weights)))
        discriminator = discriminator_loss(logits(x, weights), logits(fixed(generated), weights))
        total = fooled + discriminator
        terms = {"loss": total, "generator": fooled, "discriminator": discriminator}
        return total, ({"generator": updates["batch_stats"]}, terms)

    def bind(params):
        params = cast(params, precision)
        return BoundModel(
            generate=lambda z: folded.apply({"params": params["generator"]}, z[None])[0],
            features=lambda x: judge.apply({"params": params["discriminator"]}, x[None], method="features")[0],
        )

    # Neither loss says which of two states is better: each is relative to the other network.
    return Model(init, loss, bind, SUPPORTS, criterion="")
