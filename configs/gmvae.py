"""The Gaussian mixture VAE of You et al. 2019 (row GMVAE-MAP of the paper's Table 1).

python -m lgjax.train --config=configs/gmvae.py             # or :smoke
"""

from configs import vae


def get_config(variant: str = "paper"):
    """Returns the config of a variant: paper (default) or smoke, as in configs/vae.py where nothing else is said."""
    config = {"paper": vae.paper, "smoke": vae.smoke}[variant]()
    config.name = config.name.replace("vae", "gmvae")
    config.model.name = "gmvae"
    config.model.clusters = 6
    config.model.w_channels = config.model.latent_channels // 8
    config.model.prior_channels = 64  # hidden channels of P(z|w, c)
    config.model.cluster_free_nats = 0.5
    config.restore.method = "gmvae_elbo_tv"
    return config
