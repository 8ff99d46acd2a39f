"""The denoising auto-encoder of Kascenas et al. 2022: a U-Net that removes coarse noise.

    python -m lgjax.train --config=configs/dae.py             # or :smoke

What is not said here is as in configs/vae.py.
"""

from configs import vae


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default; its size, the paper has no such method) or smoke."""
    config = vae.paper()
    vae.without_autoencoder(config)
    config.name = config.model.name = "dae"
    config.model.channels = (32, 64, 128, 256)
    config.train.learning_rate = 1e-4
    config.train.noise_cells = 16  # of coarse noise across a slice
    config.train.noise_std = 0.7  # in standard deviations of the brain; Kascenas et al.: 0.2 of the brain's range
    config.restore.method = "dae_reconstruction"
    if variant == "smoke":
        vae.shorten(config)
        config.model.channels = (8, 16, 32, 64, 128)
    elif variant != "paper":
        raise KeyError(variant)
    del config.restore.iterations, config.restore.learning_rate  # nothing is iterated
    return config
