"""The denoising auto-encoder of Kascenas et al. 2022: a U-Net that removes coarse noise.

    python -m lgjax.train --config=configs/dae.py             # or :smoke

What is not said here is as in configs/common.py.
"""

from configs import common


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default; its size, the paper has no such method) or smoke."""
    common.check_variant(variant, ("paper", "smoke"))
    config = common.experiment("dae", "dae", "dae_reconstruction")  # nothing is iterated
    config.calibrate = common.calibrate()  # of dae_reconstruction_tv3d
    config.model.channels = (32, 64, 128, 256)  # of the U-Net, from full resolution down
    config.train.learning_rate = 1e-4
    config.train.noise_cells = 16  # of coarse noise across a slice
    config.train.noise_std = 0.7  # in standard deviations of the brain; Kascenas et al.: 0.2 of the brain's range
    if variant == "smoke":
        common.shorten(config)
        config.model.channels = (8, 16, 32, 64, 128)
    return config
