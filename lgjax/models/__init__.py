"""Networks as Linen modules with their losses, and the way from a config to functions. `MODELS` names them."""

from typing import Any

from lgjax.models import blocks, vae, variance
from lgjax.priors import Networks

MODELS = {"vae": vae.VAE}


def build(config, normalise: bool = True):
    """The modules that `config.model` describes: the auto-encoder and the variance network."""
    autoencoder = MODELS[config.name](tuple(config.channels), config.latent_channels, normalise)
    return autoencoder, variance.VarianceNet(tuple(config.variance_channels))


def freeze(params: dict[str, Any], batch_stats: dict[str, Any]) -> dict[str, Any]:
    """The parameters for restoration: normalisation is folded into the convolutions.

    Args:
      params: {"autoencoder": ..., "variance": ...} as trained.
      batch_stats: running statistics of the auto-encoder.
    """
    return {"autoencoder": blocks.fold(params["autoencoder"], batch_stats), "variance": params["variance"]}


def bind(config, params: dict[str, Any]) -> Networks:
    """The networks as pure functions with frozen parameters bound (see `freeze`)."""
    autoencoder, variance_net = build(config, normalise=False)
    weights = {"params": params["autoencoder"]}
    return Networks(
        encode=lambda x: autoencoder.apply(weights, x, method="encode"),
        decode=lambda z: autoencoder.apply(weights, z, method="decode"),
        variance=lambda x: variance.variance(
            variance_net.apply({"params": params["variance"]}, x), config.variance_floor
        ),
    )
