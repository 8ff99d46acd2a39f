"""The denoising auto-encoder of Kascenas et al. 2022: a U-Net that removes coarse noise.

    python -m lgjax.train --config=configs/dae.py             # or :smoke
"""

from configs import vae


def paper():
    """128x128 slices, as all other methods; noise as in Kascenas et al., in standard deviations of the brain."""
    config = vae.paper()
    config.name = "dae"
    vae.without_autoencoder(config)
    config.model.name = "dae"
    config.model.channels = (32, 64, 128, 256)
    config.train.learning_rate = 1e-4
    config.train.noise_cells = 16  # of coarse noise across a slice
    config.train.noise_std = 1.2  # standard deviations of the brain
    config.restore.method = "dae_reconstruction"
    del config.restore.iterations, config.restore.learning_rate  # nothing is iterated
    return config


def smoke():
    """Half the resolution, a short schedule."""
    config = paper()
    vae.shorten(config)
    config.model.channels = (16, 32, 64, 128)
    config.train.learning_rate = 1e-3
    return config


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default; its size, the paper has no such method) or smoke."""
    return {"paper": paper, "smoke": smoke}[variant]()
