"""The paper's experiment: a convolutional VAE with a variance network, restored by the local Gaussian approximation.

    python -m lgjax.train --config=configs/vae.py              # the paper's values; wants an accelerator
    python -m lgjax.train --config=configs/vae.py:smoke        # the same at half resolution; minutes on two CPU cores
    python -m lgjax.train --config=configs/vae.py:authors      # what the authors' published code did, where it differs
    python -m lgjax.train --config=configs/vae.py:smoke_authors

Any value can be overridden: --config.train.steps=1000. The values, with their meaning, stand in configs/common.py.
"""

import ml_collections

from configs import common


def paper() -> ml_collections.ConfigDict:
    """Makes the config of Chen et al. 2019 (docs/method.md)."""
    config = common.experiment("vae", "vae", "vae_lg_neural_tv")
    common.add_autoencoder(config.model)
    common.add_ascent(config)
    common.add_forms(config.restore)
    common.add_draws(config.restore)
    return config


def smoke() -> ml_collections.ConfigDict:
    """Halves the resolution, with one block less and a short schedule."""
    config = paper()
    common.shorten(config)
    common.shorten_autoencoder(config)
    config.restore.samples_est = 4
    return config


def authors(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Sets what the authors' published code does otherwise than their text (docs/method.md).

    Their BatchNorm ran in training mode during restoration, so that a slice's result depended on its batch; that is
    not reproduced.
    """
    config.name += "_authors"
    config.model.reconstruction_weight *= 5.0
    config.model.variance_target = "absolute"
    config.restore.variance_at = "observed"
    config.restore.deviation_limit = 70.7
    return config


VARIANTS = {
    "paper": paper,
    "smoke": smoke,
    "authors": lambda: authors(paper()),
    "smoke_authors": lambda: authors(smoke()),
}


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the config of a variant: paper (default), smoke, authors or smoke_authors."""
    common.check_variant(variant, VARIANTS)
    return VARIANTS[variant]()
