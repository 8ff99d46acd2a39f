"""The adversarial auto-encoder (Makhzani et al. 2016): the paper's networks with a deterministic code.

There is no posterior: a discriminator makes the codes of all slices together look like draws of N(0, I).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, precision, vae, variance
from lgjax.models.base import BoundModel

PRIORS = ("reconstruction", "lg_neural")


class AAE(vae.VAE):
    """The encoder and decoder of the VAE; the code is the mean head, the log variance head is never made."""

    def code(self, x: jax.Array, train: bool = False) -> jax.Array:
        """z = f(x), [N, H / 2^B, W / 2^B, latent_channels], of images x, [N, H, W, 1], z-scored."""
        return self.mean_head(self.trunk(x, train))

    def autoencode(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """g(f(x)), [N, H, W, 1], and f(x)."""
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
    """Logistic loss in nats, 2 log 2 for a discriminator that sees no difference.

    Args:
      drawn, coded: logits, [N], of draws from N(0, I) and of codes.
    """
    return (jax.nn.softplus(-drawn) + jax.nn.softplus(coded)).mean()


def adversarial_loss(coded: jax.Array) -> jax.Array:
    """The encoder's non-saturating logistic loss, in nats, of the logits of its codes, [N]."""
    return jax.nn.softplus(-coded).mean()


def gradient_penalty(judge: Callable[[jax.Array], jax.Array], drawn: jax.Array) -> jax.Array:
    """Mean squared gradient of the logits at the draws: R1 of Mescheder et al. 2018, without which the game circles.

    Args:
      judge: logits [N] of latents [N, ...], each of its own latents alone.
      drawn: draws from N(0, I), [N, ...].
    """
    return (jax.grad(lambda z: judge(z).sum())(drawn) ** 2).sum() / len(drawn)


def initialise(config, key: jax.Array) -> dict:
    """Untrained variables of the auto-encoder, the discriminator and the variance network (see `models`)."""
    first, second, third = jax.random.split(key, 3)
    x = jnp.zeros((1, config.data.height, config.data.width, 1))
    (_, z), variables = _network(config).init_with_output(first, x, method="autoencode")
    return {
        "params": {
            "autoencoder": variables["params"],
            "discriminator": _discriminator(config).init(second, z)["params"],
            "variance": variance.initialise(config, third),
        },
        "batch_stats": {"autoencoder": variables["batch_stats"]},
    }


def losses(config, variables: dict, x: jax.Array, mask: jax.Array, key: jax.Array):
    """The sum of the three networks' losses for one batch; none sends gradients into another (see `models`).

    The auto-encoder's is w * sum_pixels (X - g(f(X)))^2 + adversarial_weight * dim(z) * adversarial loss. One logit
    judges a whole code, whereas the squared error is a sum over pixels: dim(z), the number of latents of a slice, makes
    the pull on each of them independent of their number. The discriminator's is its logistic loss plus half the
    gradient penalty.
    """
    params, stats = precision.cast(variables["params"], config.train.precision), variables["batch_stats"]
    (reconstruction, z), updates = _network(config).apply(
        {"params": params["autoencoder"], "batch_stats": stats["autoencoder"]},
        x,
        True,
        method="autoencode",
        mutable=["batch_stats"],
    )
    stop = jax.lax.stop_gradient
    drawn = jax.random.normal(key, z.shape)

    def judge(z, weights=params["discriminator"]):
        return _discriminator(config).apply({"params": weights}, z)

    error = config.model.reconstruction_weight * ((x - reconstruction) ** 2).sum(axis=(1, 2, 3)).mean()
    adversarial = adversarial_loss(judge(z, stop(params["discriminator"])))
    discriminator = discriminator_loss(judge(drawn), judge(stop(z)))
    penalty = 0.5 * config.model.gradient_penalty * gradient_penalty(judge, drawn)
    spread = variance.loss(config, params["variance"], x, reconstruction, mask)
    terms = {
        "loss": error + config.model.adversarial_weight * z[0].size * adversarial,
        "reconstruction": error,
        "adversarial": adversarial,
        "discriminator": discriminator,
        "variance": spread,
    }
    return terms["loss"] + discriminator + penalty + spread, ({"autoencoder": updates["batch_stats"]}, terms)


def bind(config, params: dict) -> BoundModel:
    """The trained model as functions of one slice; the code is exact, so one sample says all (see `models`)."""
    params = precision.cast(params, config.restore.precision)
    network = _network(config, normalise=False)

    def reconstruct(x):
        return network.apply({"params": params["autoencoder"]}, x[None], method="autoencode")[0][0]

    return BoundModel(
        reconstruct=reconstruct,
        samples=lambda x, key, count: reconstruct(x)[None],
        variance=lambda x: variance.predict(config, params["variance"], x[None])[0],
    )


def _network(config, normalise: bool = True) -> AAE:
    return AAE(tuple(config.model.channels), config.model.latent_channels, normalise)


def _discriminator(config) -> Discriminator:
    return Discriminator(tuple(config.model.discriminator_features))
