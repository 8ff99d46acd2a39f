"""Table 1 of the paper as data: what its authors measured, on their data. Never mixed with numbers measured here."""

from typing import NamedTuple

from lgjax.methods.names import parse

SOURCE = (
    'Chen, Pawlowski, Glocker, Konukoglu: "Unsupervised lesion detection with locally Gaussian approximation", 2019'
)
HEADING = "Published by the paper's authors: NOT measured here, NOT on these data"
CONDITIONS = (
    "Table 1 of Chen et al. 2019, measured by the authors on BraTS 2018 (T2) after training on Cam-CAN (T2): another "
    "experiment, which says nothing about the order of methods in the tables of this evaluation. s/iteration: Titan X, "
    "batch size not stated in the paper (the authors' code restores 64 slices of 128x128 at a time)."
)
RATES = ("0.001", "0.005", "0.01", "0.05")  # the false positive rates that the paper prints Dice at


class Entry(NamedTuple):
    """One row of the paper's Table 1."""

    method: str  # as we name it
    printed: str  # as the paper names it
    term: str | None  # norm of the data term
    dice: dict[str, tuple[float, float]] | None  # mean and standard deviation by false positive rate; None: "na"
    auc: float
    seconds: float | None  # per iteration


def _entry(method, printed, term, dice, auc, seconds=None) -> Entry:
    return Entry(method, printed, term, dict(zip(RATES, dice, strict=True)) if dice else None, auc, seconds)


# fmt: off
TABLE1 = (
    _entry("gmm", "GMM", None, None, 0.800),
    _entry("anogan", "AnoGAN", None, [(0.000, 0.000), (0.006, 0.006), (0.020, 0.020), (0.100, 0.060)], 0.670),
    _entry("vae_reconstruction", "VAE", None, [(0.000, 0.000), (0.030, 0.030), (0.090, 0.060), (0.200, 0.140)], 0.690),
    _entry("aae_reconstruction", "AAE", None, [(0.000, 0.000), (0.011, 0.011), (0.030, 0.030), (0.180, 0.140)], 0.700),
    _entry("vae_elbo_tv", "VAE-MAP", "TV",
           [(0.039, 0.076), (0.286, 0.222), (0.341, 0.221), (0.365, 0.187)], 0.805, 0.177),
    _entry("gmvae_elbo_tv", "GMVAE-MAP", "TV",
           [(0.069, 0.084), (0.195, 0.109), (0.218, 0.208), (0.455, 0.225)], 0.827, 0.170),
    _entry("vae_lg_est_l1", "VAE-LG(est)", "L1",
           [(0.063, 0.025), (0.213, 0.183), (0.269, 0.208), (0.347, 0.216)], 0.772, 0.127),
    _entry("vae_lg_neural_l1", "VAE-LG(neural)", "L1",
           [(0.133, 0.143), (0.309, 0.288), (0.360, 0.276), (0.315, 0.224)], 0.824, 0.096),
    _entry("vae_lg_est_tv", "VAE-LG(est)", "TV",
           [(0.117, 0.101), (0.236, 0.155), (0.296, 0.195), (0.362, 0.203)], 0.782, 0.125),
    _entry("vae_lg_neural_tv", "VAE-LG(neural)", "TV",
           [(0.259, 0.246), (0.407, 0.252), (0.448, 0.209), (0.303, 0.123)], 0.828, 0.098),
    _entry("aae_lg_neural_tv", "AAE-LG(neural)", "TV",
           [(0.220, 0.207), (0.395, 0.244), (0.418, 0.210), (0.302, 0.156)], 0.821, 0.097),
)
# fmt: on


def methods(model: str) -> list[str]:
    """Returns the methods of Table 1 that a model makes; those that train nothing go with the VAE."""
    return [entry.method for entry in TABLE1 if (parse(entry.method).model or "vae") == model]


def place(method: str) -> int:
    """Returns where a method stands in the paper's order; after all others where the paper does not have it."""
    names = [entry.method for entry in TABLE1]
    return names.index(method) if method in names else len(names)
