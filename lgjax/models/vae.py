"""The paper's fully convolutional variational auto-encoder and its loss (docs/method.md, "Networks")."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions, variance
from lgjax.models.base import BoundModel, Model
from lgjax.models.precision import cast

SUPPORTS = ("reconstruction", "elbo", "lg_est", "lg_neural")
FUSED_CHANNELS = 24  # of the decoder's last two blocks, at most, for their layers' sums to fit in registers


class Posterior(NamedTuple):
    """Q(z|X) = N(mean, exp(log_variance)), both [N, H / 2^B, W / 2^B, latent_channels] with B residual blocks."""

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws one z = mean + sigma * noise, of the mean's shape."""
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
        """Makes the layers of encoder and decoder."""
        conv, down, up = blocks.NormalisedConv, blocks.ResidualDown, blocks.ResidualUp
        self.first = conv(self.channels[0], normalise=self.normalise)
        self.down = [down(features, self.normalise) for features in self.channels]
        self.mean_head = convolutions.Conv(self.latent_channels, (3, 3))
        self.log_variance_head = convolutions.Conv(self.latent_channels, (3, 3))
        self.merged = convolutions.Conv(2 * self.latent_channels, (3, 3))  # both heads, see `blocks.merge`
        self.log_variance_range = variance.Bounded(variance.extremes, self.normalise)
        self.from_latent = conv(self.channels[-1], normalise=self.normalise)
        self.up = [up(features, self.normalise) for features in reversed(self.channels)]
        self.last = convolutions.Conv(1, (3, 3))

    def trunk(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns what the heads see of images x: [N, H, W, 1] -> [N, H / 2^B, W / 2^B, channels[-1]]."""
        x = blocks.activation(self.first(x, train))
        for block in self.down:
            x = block(x, train)
        return x

    def encode(self, x: jax.Array, train: bool = False) -> Posterior:
        """Returns Q(z|X) of images x, [N, H, W, 1], z-scored; unless in training, its log variance is bound."""
        x = self.trunk(x, train)
        if self.has_variable("params", blocks.MERGED):
            mean, log_variance = jnp.split(self.merged(x), 2, axis=-1)
        else:
            mean, log_variance = self.mean_head(x), self.log_variance_head(x)
        return Posterior(mean, self.log_variance_range(log_variance, train))

    def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Returns g(z), [N, H, W, 1], of latents z, [N, H / 2^B, W / 2^B, latent_channels]."""
        return self.end(self.before_end(z, train), train)

    def before_end(self, z: jax.Array, train: bool = False) -> jax.Array:
        """Returns what the last block of the decoder sees, [N, H / 2, W / 2, C], of latents."""
        x = blocks.activation(self.from_latent(z, train))
        for block in self.up[:-1]:
            x = block(x, train)
        return x

    def end(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns g(z) of what the last block sees."""
        return self.last(self.up[-1](x, train))

    def __call__(self, x: jax.Array, key: jax.Array, train: bool = False) -> tuple[jax.Array, Posterior]:
        """Returns one reconstruction g(z), z ~ Q(z|X), [N, H, W, 1], and the posterior that z was drawn from."""
        posterior = self.encode(x, train)
        return self.decode(posterior.sample(key), train), posterior


def kl_to_standard_normal(posterior: Posterior) -> jax.Array:
    """Returns KL(Q(z|X) || N(0, I)) of each image, [N], in nats."""
    mean, log_variance = posterior
    terms = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
    return terms.sum(axis=(1, 2, 3))


def negative_elbo(x, reconstruction, posterior: Posterior, reconstruction_weight: float) -> tuple[jax.Array, jax.Array]:
    """Returns the two terms of the VAE's loss w * sum_pixels (X - g(z))^2 + KL(Q(z|X) || N(0, I)), each [N], in nats.

    Args:
      x, reconstruction: [N, H, W, 1], z-scored.
      posterior: Q(z|X) of x.
      reconstruction_weight: w, that is 1 / (2 sigma^2) of a decoder with constant noise sigma.
    """
    squared_error = ((x - reconstruction) ** 2).sum(axis=(1, 2, 3))
    return reconstruction_weight * squared_error, kl_to_standard_normal(posterior)


def model(
    *,
    height: int,
    width: int,
    channels: tuple[int, ...],
    latent_channels: int,
    reconstruction_weight: float,
    variances: variance.Settings,
    precision: str,
) -> Model:
    """Makes the auto-encoder and its variance network; neither sends gradients into the other.

    Args:
      height, width: of a slice, in pixels, divisible by 2 ** len(channels).
      channels, latent_channels: see `VAE`.
      reconstruction_weight: see `negative_elbo`.
      variances: of the variance network.
      precision: of the networks, see `precision`.
    """
    network = VAE(channels, latent_channels)

    def init(key):
        first, second, draw = jax.random.split(key, 3)
        variables = network.init(first, jnp.zeros((1, height, width, 1)), draw)
        spread = variance.init(variances, second)
        return {part: {"autoencoder": variables[part], "variance": spread[part]} for part in ("params", "batch_stats")}

    def loss(variables, x, mask, key, train=True):
        params, stats = cast(variables["params"], precision), variables["batch_stats"]
        given = {"params": params["autoencoder"], "batch_stats": stats["autoencoder"]}
        (reconstruction, posterior), updates = network.apply(given, x, key, train, mutable=["batch_stats"])
        error, kl = negative_elbo(x, reconstruction, posterior, reconstruction_weight)
        given = {"params": params["variance"], "batch_stats": stats["variance"]}
        spread, ranges = variance.loss(variances, given, x, reconstruction, mask, train)
        terms = {"loss": (error + kl).mean(), "reconstruction": error.mean(), "kl": kl.mean(), "variance": spread}
        return terms["loss"] + spread, ({"autoencoder": updates["batch_stats"], "variance": ranges}, terms)

    folded = VAE(channels, latent_channels, normalise=False)

    def bind(params):
        return _bind(folded, reconstruction_weight, variances, cast(blocks.merge(params), precision))

    return Model(init, loss, bind, SUPPORTS)


def _bind(network: VAE, reconstruction_weight: float, variances: variance.Settings, params: dict) -> BoundModel:
    weights = {"params": params["autoencoder"]}

    def encode(x):
        return network.apply(weights, x[None], method="encode")

    def elbo(x, key):  # of which gradients are taken: the plain form
        posterior = encode(x)
        reconstruction = network.apply(weights, posterior.sample(key), method="decode")
        error, kl = negative_elbo(x[None], reconstruction, posterior, reconstruction_weight)
        return -(error + kl)[0]

    quick = functools.partial(decode, network, params["autoencoder"])
    return bound(encode, quick, elbo, lambda x: variance.predict(variances, params["variance"], x[None])[0])


def decode(network: VAE, params: dict, z: jax.Array) -> jax.Array:
    """Returns g(z), [N, H, W, 1], by frozen parameters; the end may be one kernel, see `decoder_kernel`.

    Args:
      network: the auto-encoder, without normalisation.
      params: of the auto-encoder; the kernel needs merged ones, see `blocks.merge`.
      z: latents, [N, h, w, latent_channels].
    """
    one = blocks.MERGED in params[_last_block(network)] and sum(network.channels[:2]) <= FUSED_CHANNELS
    fused = one and convolutions.fuses(convolutions.DECODER)
    found: Any = network.apply({"params": params}, z, method="before_end" if fused else "decode")
    return _end(network, params, found) if fused else found


def _last_block(network: VAE) -> str:
    """Names the last block of the decoder among parameters."""
    return f"up_{len(network.channels) - 1}"


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _end(network: VAE, params: dict, x: jax.Array) -> jax.Array:
    """Computes the same as `VAE.end` by one kernel; gradients are those of `VAE.end`."""
    from lgjax.models import decoder_kernel  # here: Pallas takes a moment to import, and a CPU has no use for it

    block = params[_last_block(network)]
    convs = block[blocks.MERGED], block["second"]["conv"], params["last"]
    merged, second, last = (decoder_kernel.Layer(conv["kernel"], conv["bias"]) for conv in convs)
    return decoder_kernel.output(merged, second, last, x)


@_end.defjvp
def _end_jvp(network, primals, tangents):
    def plain(params, x):
        return network.apply({"params": params}, x, method="end")

    return _end(network, *primals), jax.jvp(plain, primals, tangents)[1]


def bound(encode: Callable, decode: Callable, elbo: Callable, variance: Callable) -> BoundModel:
    """Binds an auto-encoder with a posterior.

    Args:
      encode: x, [H, W, 1] -> Q(z|x), a batch of one.
      decode: z, [N, h, w, latent_channels] -> g(z), [N, H, W, 1].
      elbo, variance: see `BoundModel`.
    """

    def samples(x, key, count):
        return decode(jax.vmap(encode(x).sample)(jax.random.split(key, count))[:, 0])

    return BoundModel(lambda x: decode(encode(x).mean)[0], samples, variance, elbo)
