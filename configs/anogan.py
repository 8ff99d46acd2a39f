"""AnoGAN (Schlegl et al. 2017): a generative adversarial network whose latents are searched for each slice.

    python -m lgjax.train --config=configs/anogan.py             # or :smoke

What is not said here is as in configs/common.py.
"""

from configs import common


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default; its size, it states no schedule for AnoGAN) or smoke."""
    common.check_variant(variant, ("paper", "smoke"))
    config = common.experiment("anogan", "anogan", "anogan")
    config.model.channels = (16, 32, 64, 128, 256)  # of the discriminator; of the generator in reverse
    config.model.latent_size = 128  # numbers that make a slice
    config.train.learning_rate = 2e-4
    config.train.momentum = 0.5  # DCGAN's
    config.restore.iterations = 500  # of the search
    config.restore.learning_rate = 1e-2  # of the search
    config.restore.feature_weight = 0.1  # w of the search: (1 - w) sum |x - G(z)| + w sum |d(x) - d(G(z))|
    if variant == "smoke":
        common.shorten(config)
        config.model.channels = (16, 32, 64, 128)
        config.model.latent_size = 64
        config.train.learning_rate = 5e-4
        config.restore.iterations = 100
        config.restore.learning_rate = 5e-2
    return config
