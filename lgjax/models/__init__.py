"""Generative models of healthy slices. `MODELS` names them; each is a module with the same four parts:

PRIORS                                      what a method can do with it, see `methods`
initialise(config, key)                     -> {"params": ..., "batch_stats": ...}, by network
losses(config, variables, x, mask, key)     -> (loss, (new batch_stats, terms by name)); x, mask: [N, H, W, 1]
bind(config, params)                        -> `BoundModel`, from frozen parameters
"""

from types import ModuleType
from typing import Any

from lgjax.models import aae, blocks, dae, gan, gmvae, vae

MODELS: dict[str, ModuleType] = {"vae": vae, "aae": aae, "gmvae": gmvae, "anogan": gan, "dae": dae}


def freeze(variables: dict[str, Any]) -> dict[str, Any]:
    """The parameters for restoration: normalisation is folded into the convolutions.

    Args:
      variables: {"params", "batch_stats"} as trained.
    """
    return blocks.fold(variables["params"], variables["batch_stats"])
