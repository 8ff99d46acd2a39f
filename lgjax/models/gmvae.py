"""The Gaussian mixture VAE: Dilokthanakul et al. 2016, for brain MRI You et al. 2019 (MIDL).

Generative model, at every latent position of a slice: w ~ N(0, I), c uniform over K clusters,
z ~ N(mean_c(w), variance_c(w)); the slice is g(z) with noise. Approximate posterior: Q(z|X) Q(w|X) P(c|z, w).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions, vae, variance
from lgjax.models import precision as precisions
from lgjax.models.base import BoundModel, Model
from lgjax.models.vae import Posterior

SUPPORTS = ("reconstruction", "elbo", "lg_est", "lg_neural")

LOG_VARIANCE_BOUND = 6.0


class Clusters(NamedTuple):
    """P(z|w, c) = N(mean, exp(log_variance)), both [N, h, w, K, latent_channels]."""

    mean: jax.Array
    log_variance: jax.Array


class MixturePrior(nn.Module):
    """The K components of P(z|w, c) from w, [N, h, w, w_channels], each latent position by itself.

    Log variances are bounded smoothly to +-`LOG_VARIANCE_BOUND`: a cluster can neither shrink onto one slice nor
    overflow the ratio of variances in the KL, and its gradient never vanishes altogether.
    """

    clusters: int
    latent_channels: int
    hidden_channels: int

    @nn.compact
    def __call__(self, w: jax.Array) -> Clusters:
        hidden = blocks.activation(convolutions.Conv(self.hidden_channels, (1, 1))(w))
        outputs = convolutions.Conv(2 * self.clusters * self.latent_channels, (1, 1))(hidden)
        mean, raw = jnp.split(outputs.reshape(*w.shape[:3], self.clusters, -1), 2, axis=-1)
        return Clusters(mean, LOG_VARIANCE_BOUND * jnp.tanh(raw / LOG_VARIANCE_BOUND))


class GMVAE(nn.Module):
    """The paper's encoder with heads for z and w, its decoder of z, and the mixture prior."""

    autoencoder: vae.VAE  # its latent channels are those of z, then those of w
    prior: MixturePrior

    def encode(self, x: jax.Array, train: bool = False) -> tuple[Posterior, Posterior]:
        """Returns Q(z|X) and Q(w|X) of images x, [N, H, W, 1], z-scored."""
        mean, log_variance = self.autoencoder.encode(x, train)
        split = self.prior.latent_channels
        return (
            Posterior(mean[..., :split], log_variance[..., :split]),
            Posterior(mean[..., split:], log_variance[..., split:]),
        )

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Returns g(z), [N, H, W, 1], of latents z, [N, h, w, latent_channels]."""
        return self.autoencoder.decode(z, train)

    def negative_elbo(
        self, x: jax.Array, key: jax.Array, reconstruction_weight: float, free_nats: float, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns one reconstruction g(z), [N, H, W, 1], and the terms whose sum is the loss, each [N], in nats.

        Args:
          x: images, [N, H, W, 1], z-scored.
          key: of the one draw of z and of w.
          reconstruction_weight: w of the squared error, that is 1 / (2 sigma^2) of the noise.
          free_nats: see `kl_clusters`.
          train: whether to normalise by the batch's statistics.
        """
        key_z, key_w = jax.random.split(key)
        posterior_z, posterior_w = self.encode(x, train)
        z = posterior_z.sample(key_z)
        clusters = self.prior(posterior_w.sample(key_w))
        log_c = log_responsibilities(z, clusters)
        reconstruction = self.decode(z, train)
        return reconstruction, {
            "reconstruction": reconstruction_weight * ((x - reconstruction) ** 2).sum(axis=(1, 2, 3)),
            "kl_z": kl_to_clusters(posterior_z, clusters, log_c),
            "kl_w": vae.kl_to_standard_normal(posterior_w),
            "kl_c": kl_clusters(log_c, free_nats),
        }


def log_responsibilities(z: jax.Array, clusters: Clusters) -> jax.Array:
    """Returns log P(c|z, w), [N, h, w, K]: Bayes' rule with a uniform P(c), exact at each latent position.

    Args:
      z: latents, [N, h, w, latent_channels].
      clusters: P(z|w, c) at the w that was drawn.
    """
    squared = (z[:, :, :, None] - clusters.mean) ** 2 * jnp.exp(-clusters.log_variance)
    return jax.nn.log_softmax(-0.5 * (squared + clusters.log_variance).sum(axis=-1), axis=-1)


def kl_to_clusters(posterior: Posterior, clusters: Clusters, log_c: jax.Array) -> jax.Array:
    """Returns E_P(c|z, w)[KL(Q(z|X) || P(z|w, c))] of each image, [N], in nats.

    Args:
      posterior: Q(z|X).
      clusters: P(z|w, c) at the w that was drawn.
      log_c: log P(c|z, w) at the z and w that were drawn, [N, h, w, K].
    """
    mean, log_variance = (part[:, :, :, None] for part in posterior)
    log_ratio = log_variance - clusters.log_variance
    squared = (mean - clusters.mean) ** 2 * jnp.exp(-clusters.log_variance)
    kl = 0.5 * (jnp.exp(log_ratio) + squared - 1.0 - log_ratio).sum(axis=-1)
    return (jnp.exp(log_c) * kl).sum(axis=(1, 2, 3))


def kl_clusters(log_c: jax.Array, free_nats: float) -> jax.Array:
    """Returns max(KL(P(c|z, w) || uniform), free_nats) of each image, [N], in nats, KL summed over latent positions.

    Below the floor the term has no gradient: free bits that keep the clusters from collapsing.

    Args:
      log_c: log P(c|z, w), [N, h, w, K].
      free_nats: the floor.
    """
    kl = (jnp.exp(log_c) * log_c).sum(axis=-1) + jnp.log(log_c.shape[-1])
    return jnp.maximum(kl.sum(axis=(1, 2)), free_nats)


def model(
    *,
    height: int,
    width: int,
    channels: tuple[int, ...],
    latent_channels: int,
    reconstruction_weight: float,
    variances: variance.Settings,
    clusters: int,
    w_channels: int,
    prior_channels: int,
    cluster_free_nats: float,
    precision: str,
) -> Model:
    """Makes the auto-encoder with its mixture prior and the variance network; neither sends gradients into the other.

    Args:
      height, width, channels, latent_channels, reconstruction_weight, variances, precision: see `vae.model`.
      clusters: K.
      w_channels: channels of w.
      prior_channels: hidden channels of P(z|w, c).
      cluster_free_nats: see `kl_clusters`.
    """
    prior = MixturePrior(clusters, latent_channels, prior_channels)
    network, folded = (GMVAE(vae.VAE(channels, latent_channels + w_channels, on), prior) for on in (True, False))
    weights = reconstruction_weight, cluster_free_nats

    def init(key):
        first, second, draw = jax.random.split(key, 3)
        x = jnp.zeros((1, height, width, 1))
        variables = network.init(first, x, draw, *weights, method="negative_elbo")
        spread = variance.init(variances, second)
        return {part: {"gmvae": variables[part], "variance": spread[part]} for part in ("params", "batch_stats")}

    def loss(variables, x, mask, key, train=True):
        params, stats = _cast(variables["params"], precision), variables["batch_stats"]
        given = {"params": params["gmvae"], "batch_stats": stats["gmvae"]}
        (reconstruction, parts), updates = network.apply(
            given, x, key, *weights, train, method="negative_elbo", mutable=["batch_stats"]
        )
        parts = {name: part.mean() for name, part in parts.items()}
        total = sum(parts.values())
        given = {"params": params["variance"], "batch_stats": stats["variance"]}
        spread, ranges = variance.loss(variances, given, x, reconstruction, mask, train)
        new = {"gmvae": updates["batch_stats"], "variance": ranges}
        return total + spread, (new, {"loss": total, **parts, "variance": spread})

    return Model(
        init, loss, lambda params: _bind(folded, weights, variances, _cast(blocks.merge(params), precision)), SUPPORTS
    )


def _bind(network: GMVAE, weights: tuple[float, float], variances: variance.Settings, params: dict) -> BoundModel:
    variables = {"params": params["gmvae"]}

    def encode(x):
        return network.apply(variables, x[None], method="encode")[0]

    def decode(z):
        return vae.decode(network.autoencoder, params["gmvae"]["autoencoder"], z)

    def elbo(x, key):
        _, parts = network.apply(variables, x[None], key, *weights, method="negative_elbo")
        return -sum(parts.values())[0]

    return vae.bound(encode, decode, elbo, lambda x: variance.predict(variances, params["variance"], x[None])[0])


def _cast(params: dict, precision: str) -> dict:
    """Casts parameters as `precision.cast` does, but for the mixture: it is float32 in any precision."""
    cast = precisions.cast(params, precision)
    return {**cast, "gmvae": {**cast["gmvae"], "prior": params["gmvae"]["prior"]}}
