"""The Gaussian mixture VAE of You et al. 2019 (row GMVAE-MAP of the paper's Table 1).

python -m lgjax.train --config=configs/gmvae.py             # or :smoke
"""

from configs import common


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default) or smoke, as in configs/vae.py where nothing else is said."""
    common.check_variant(variant, ("paper", "smoke"))
    config = common.experiment("gmvae", "gmvae", "gmvae_elbo_tv")
    common.add_autoencoder(config.model)
    common.add_ascent(config)
    common.add_forms(config.restore)
    common.add_draws(config.restore)
    if variant == "smoke":
        common.shorten(config)
        common.shorten_autoencoder(config)
        config.restore.samples_est = 4
    config.model.clusters = 6  # of the mixture
    config.model.w_channels = config.model.latent_channels // 8  # of w, at each of its places
    config.model.prior_channels = 64  # hidden channels of P(z|w, c)
    config.model.cluster_free_nats = 0.5  # below which the cost of a cluster does not count
    return config
