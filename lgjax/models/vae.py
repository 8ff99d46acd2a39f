"""The paper's fully convolutional variational auto-encoder and its loss (method.md, "Networks")."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks


class Posterior(NamedTuple):
    """Q(z|X) = N(mean, exp(log_variance)), both [N, H / 2^B, W / 2^B, latent_channels] with B residual blocks."""

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw z = mean + sigma * noise, of the mean's shape."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


class VAE(nn.Module):
    """Encoder f and decoder g of the paper: one convolution and a residual block per entry of `channels`.

    Fully convolutional: any height and width divisible by 2 ** len(channels) works.
    """

    channels: Sequence[int]
    latent_channels: int
    normalise: bool = True

    def setup(self):
        conv, down, up = blocks.NormalisedConv, blocks.ResidualDown, blocks.ResidualUp
        self.first = conv(self.channels[0], normalise=self.normalise)
        self.down = [down(features, self.normalise) for features in self.channels]
        self.mean_head = nn.Conv(self.latent_channels, (3, 3))
        self.log_variance_head = nn.Conv(self.latent_channels, (3, 3))
        self.from_latent = conv(self.channels[-1], normalise=self.normalise)
        self.up = [up(features, self.normalise) for features in reversed(self.channels)]
        self.last = nn.Conv(1, (3, 3))

    def encode(self, x: jax.Array, train: bool = False) -> Posterior:
        """Q(z|X) of images x, [N, H, W, 1], z-scored."""
        x = blocks.activation(self.first(x, train))
        for block in self.down:
            x = block(x, train)
        return Posterior(self.mean_head(x), self.log_variance_head(x))

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """g(z), [N, H, W, 1], of latents z, [N, H / 2^B, W / 2^B, latent_channels]."""
        x = blocks.activation(self.from_latent(z, train))
        for block in self.up:
            x = block(x, train)
        return self.last(x)

    def __call__(self, x: jax.Array, key: jax.Array, train: bool = False) -> tuple[jax.Array, Posterior]:
        """One reconstruction g(z), z ~ Q(z|X), [N, H, W, 1], and the posterior it was drawn from."""
        posterior = self.encode(x, train)
        return self.decode(posterior.sample(key), train), posterior


def kl_to_standard_normal(posterior: Posterior) -> jax.Array:
    """KL(Q(z|X) || N(0, I)) of each image, [N], in nats."""
    mean, log_variance = posterior
    terms = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
    return terms.sum(axis=(1, 2, 3))


def negative_elbo(x, reconstruction, posterior: Posterior, reconstruction_weight: float) -> tuple[jax.Array, dict]:
    """The VAE's loss: batch mean of w * sum_pixels (X - g(z))^2 + KL(Q(z|X) || N(0, I)).

    Args:
      x, reconstruction: [N, H, W, 1], z-scored.
      posterior: Q(z|X) of x.
      reconstruction_weight: w, that is 1 / (2 sigma^2) of a decoder with constant noise sigma.

    Returns:
      The loss, a scalar, and its two terms as batch means, by name.
    """
    squared_error = ((x - reconstruction) ** 2).sum(axis=(1, 2, 3)).mean()
    kl = kl_to_standard_normal(posterior).mean()
    return reconstruction_weight * squared_error + kl, {"squared_error": squared_error, "kl": kl}
