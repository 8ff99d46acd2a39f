"""Generative models of healthy slices, by name. Each module has `SUPPORTS` and `model(...)`, which makes a `Model`."""

from types import ModuleType
from typing import Any

from lgjax.models import aae, blocks, dae, gan, gmvae, restorer, vae, variance
from lgjax.models.base import Model

MODELS: dict[str, ModuleType] = {
    "vae": vae,
    "aae": aae,
    "gmvae": gmvae,
    "anogan": gan,
    "dae": dae,
    "restorer": restorer,
}


def from_config(config, precision: str) -> Model:
    """Makes the model that the config of an experiment describes.

    Args:
      config: the whole config.
      precision: of the networks, one of `precision.CHOICES`; training and restoration have one each.

    Raises:
      KeyError: there is no such model.
    """
    model, make = config.model, MODELS[config.model.name].model
    values = {"height": config.data.height, "width": config.data.width, "precision": precision}
    values["channels"] = tuple(model.channels)
    if model.name == "dae":
        return make(**values, noise_cells=config.train.noise_cells, noise_std=config.train.noise_std)
    if model.name == "restorer":
        return make(**values, variance_floor=model.variance_floor, saturation=tuple(config.data.saturation))
    if model.name == "anogan":
        return make(**values, latent_size=model.latent_size)
    settings = (tuple(model.variance_channels), model.variance_target, model.variance_floor)
    values["variances"] = variance.Settings(*settings)
    values |= {"latent_channels": model.latent_channels, "reconstruction_weight": model.reconstruction_weight}
    if model.name == "aae":
        values["discriminator_features"] = tuple(model.discriminator_features)
        values |= {name: model[name] for name in ("adversarial_weight", "gradient_penalty")}
    elif model.name == "gmvae":
        values |= {name: model[name] for name in ("clusters", "w_channels", "prior_channels", "cluster_free_nats")}
    return make(**values)


def freeze(variables: dict[str, Any]) -> dict[str, Any]:
    """Folds normalisation into the convolutions: the parameters for restoration.

    Args:
      variables: {"params", "batch_stats"} as trained.
    """
    return blocks.fold(variables["params"], variables["batch_stats"])
