"""The adversarial auto-encoder (Makhzani et al. 2016): the paper's networks with a deterministic code.

There is no posterior: a discriminator makes the codes of all slices together look like draws of N(0, I).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, vae, variance
from lgjax.models.base import BoundModel, Model
from lgjax.models.precision import cast

SUPPORTS = ("reconstruction", "lg_neural")


class AAE(vae.VAE):
    """The encoder and decoder of the VAE; the code is the mean head, the log variance head is never made."""

    def code(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns z = f(x), [N, H / 2^B, W / 2^B, latent_channels], of images x, [N, H, W, 1], z-scored."""
        return self.mean_head(self.trunk(x, train))

    def autoencode(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Returns g(f(x)), [N, H, W, 1], and f(x)."""
        z = self.code(x, train)
        return self.decode(z, train), z


class Discriminator(nn.Module):
    """The logit that whole codes are draws of N(0, I): [N, ...] -> [N].

    It is given z and z^2, in which the log ratio of two Gaussians is linear: it sees a wrong mean or spread at once.
    """

    features: Sequence[int]  # widths of the hidden layers

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        z = z.reshape(len(z), -1)
        z = jnp.concatenate([z, z**2], axis=-1)
        for features in self.features:
            z = blocks.activation(nn.Dense(features)(z))
        return nn.Dense(1)(z)[:, 0]


def discriminator_loss(drawn: jax.Array, coded: jax.Array) -> jax.Array:
    """Returns the logistic loss in nats, 2 log 2 for a discriminator that sees no difference.

    Args:
      drawn, coded: logits, [N], of draws from N(0, I) and of codes.
    """
    return (jax.nn.softplus(-drawn) + jax.nn.softplus(coded)).mean()


def adversarial_loss(coded: jax.Array) -> jax.Array:
    """Returns the encoder's non-saturating logistic loss, in nats, of the logits of its codes, [N]."""
    return jax.nn.softplus(-coded).mean()


def gradient_penalty(judge: Callable[[jax.Array], jax.Array], drawn: jax.Array) -> jax.Array:
    """Returns the mean squared gradient of the logits at the draws.

    This is R1 of Mescheder et al. 2018, without which the game circles.

    Args:
      judge: logits [N] of latents [N, ...], each of its own latents alone.
      drawn: draws from N(0, I), [N, ...].
    """
    return (jax.grad(lambda z: judge(z).sum())(drawn) ** 2).sum() / len(drawn)


class _Losses(NamedTuple):
    """The weights of the losses, see `model`."""

    reconstruction: float
    adversarial: float
    penalty: float


def model(
    *,
    height: int,
    width: int,
    channels: tuple[int, ...],
    latent_channels: int,
    reconstruction_weight: float,
    variances: variance.Settings,
    discriminator_features: tuple[int, ...],
    adversarial_weight: float,
    gradient_penalty: float,
    precision: str,
) -> Model:
    """Makes the auto-encoder, the discriminator and the variance network; none sends gradients into another.

    Args:
      height, width, channels, latent_channels, reconstruction_weight, variances, precision: see `vae.model`.
      discriminator_features: see `Discriminator`.
      adversarial_weight: of the encoder's adversarial loss, per latent.
      gradient_penalty: twice the weight of `gradient_penalty`.
    """
    network, folded = (AAE(channels, latent_channels, normalise) for normalise in (True, False))
    discriminator = Discriminator(discriminator_features)
    weights = _Losses(reconstruction_weight, adversarial_weight, gradient_penalty)

    def init(key):
        first, second, third = jax.random.split(key, 3)
        x = jnp.zeros((1, height, width, 1))
        (_, z), variables = network.init_with_output(first, x, method="autoencode")
        spread = variance.init(variances, third)
        return {
            "params": {
                "autoencoder": variables["params"],
                "discriminator": discriminator.init(second, z)["params"],
                "variance": spread["params"],
            },
            "batch_stats": {"autoencoder": variables["batch_stats"], "variance": spread["batch_stats"]},
        }

    def loss(variables, x, mask, key, train=True):
        given = {**variables, "params": cast(variables["params"], precision)}
        return _loss(network, discriminator, weights, variances, given, x, mask, key, train)

    def bind(params):
        return _bind(folded, variances, cast(blocks.merge(params), precision))

    # The adversarial loss does not compare two states: each has a discriminator of its own.
    return Model(init, loss, bind, SUPPORTS, criterion="reconstruction")


def _loss(network: AAE, discriminator: Discriminator, weights: _Losses, variances, variables, x, mask, key, train):
    """Sums the losses of the three networks for one batch.

    The auto-encoder's is w * sum_pixels (X - g(f(X)))^2 + adversarial_weight * dim(z) * adversarial loss. One logit
    judges a whole code, whereas the squared error is a sum over pixels: dim(z), the number of latents of a slice, makes
    the pull on each of them independent of their number. The discriminator's is its logistic loss plus half the
    gradient penalty.
    """
    params, stats = variables["params"], variables["batch_stats"]
    given = {"params": params["autoencoder"], "batch_stats": stats["autoencoder"]}
    (reconstruction, z), updates = network.apply(given, x, train, method="autoencode", mutable=["batch_stats"])
    stop = jax.lax.stop_gradient
    drawn = jax.random.normal(key, z.shape)

    def judge(z, weights=params["discriminator"]):
        return discriminator.apply({"params": weights}, z)

    error = weights.reconstruction * ((x - reconstruction) ** 2).sum(axis=(1, 2, 3)).mean()
    adversarial = adversarial_loss(judge(z, stop(params["discriminator"])))
    judged = discriminator_loss(judge(drawn), judge(stop(z)))
    penalty = 0.5 * weights.penalty * gradient_penalty(judge, drawn)
    given = {"params": params["variance"], "batch_stats": stats["variance"]}
    spread, ranges = variance.loss(variances, given, x, reconstruction, mask, train)
    terms = {
        "loss": error + weights.adversarial * z[0].size * adversarial,
        "reconstruction": error,
        "adversarial": adversarial,
        "discriminator": judged,
        "variance": spread,
    }
    new = {"autoencoder": updates["batch_stats"], "variance": ranges}
    return terms["loss"] + judged + penalty + spread, (new, terms)


def _bind(network: AAE, variances: variance.Settings, params: dict) -> BoundModel:
    """Binds the trained model; the code is exact, so one sample says all."""
    weights = params["autoencoder"]

    def reconstruct(x):
        z: Any = network.apply({"params": weights}, x[None], method="code")
        return vae.decode(network, weights, z)[0]

    return BoundModel(
        reconstruct=reconstruct,
        samples=lambda x, key, count: reconstruct(x)[None],
        variance=lambda x: variance.predict(variances, params["variance"], x[None])[0],
    )
