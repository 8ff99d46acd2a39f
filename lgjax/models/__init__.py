"""Generative models of healthy slices. `MODELS` names them; each is a module with the same four parts:

PRIORS                                      what a method can do with it, see `methods`
initialise(config, key)                     -> {"params": ..., "batch_stats": ...}, by network
losses(config, variables, x, mask, key)     -> (loss, (new batch_stats, terms by name)); x, mask: [N, H, W, 1]
bind(config, params)                        -> `BoundModel`, from frozen parameters
"""

import functools
from types import ModuleType
from typing import Any

from lgjax.models import aae, blocks, dae, gan, gmvae, vae
from lgjax.models.base import Model

MODELS: dict[str, ModuleType] = {"vae": vae, "aae": aae, "gmvae": gmvae, "anogan": gan, "dae": dae}


def from_config(config, precision: str) -> Model:
    """Returns the model that a config describes, its convolutions in a precision."""
    config = config.copy_and_resolve_references()
    config.train.precision = config.restore.precision = precision
    module = MODELS[config.model.name]
    init, loss, bind = (functools.partial(part, config) for part in (module.initialise, module.losses, module.bind))
    return Model(init, loss, bind, module.PRIORS)


def freeze(variables: dict[str, Any]) -> dict[str, Any]:
    """The parameters for restoration: normalisation is folded into the convolutions.

    Args:
      variables: {"params", "batch_stats"} as trained.
    """
    return blocks.fold(variables["params"], variables["batch_stats"])
