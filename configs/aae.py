"""The adversarial auto-encoder: the paper's networks without a posterior (AAE rows of its Table 1).

python -m lgjax.train --config=configs/aae.py             # or :smoke
"""

from configs import common


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default) or smoke, as in configs/vae.py where nothing else is said."""
    common.check_variant(variant, ("paper", "smoke"))
    config = common.experiment("aae", "aae", "aae_lg_neural_tv")  # a code is exact: there is nothing to draw
    common.add_autoencoder(config.model)
    common.add_ascent(config)
    common.add_forms(config.restore)
    if variant == "smoke":
        common.shorten(config)
        common.shorten_autoencoder(config)
    config.model.discriminator_features = (256, 256)  # its hidden layers
    config.model.adversarial_weight = 1.0  # per latent, see lgjax/models/aae.py
    config.model.gradient_penalty = 1.0  # R1 of the discriminator
    config.train.momentum = 0.5  # usual where networks play against each other
    return config
