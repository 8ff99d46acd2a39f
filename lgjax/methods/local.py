"""What the restoration of a slice and that of a volume share: settings, the prior of a slice, the solver."""

from typing import NamedTuple

import jax

from lgjax.methods import gmm
from lgjax.methods.names import Method
from lgjax.models.base import BoundModel
from lgjax.restoration import priors, solvers
from lgjax.restoration.data_terms import DataTerm
from lgjax.restoration.priors import Prior


class Settings(NamedTuple):
    """All that a restoration reads; what a model has no use for keeps its default."""

    seed: int
    precision: str  # of products of matrices, see models.precision
    batch_size: int  # slices of a batch, see `Runner`; 0: as suits the device
    mixture: gmm.Settings
    learning_rate: float = 0.0
    iterations: int = 0
    optimizer: str = "adam"  # see restoration.solvers.solver
    refreshes: int = 0
    dual_steps: int = 0
    closed_steps: int = 0  # of the dual, in the one proximal step of closed methods
    tolerance: float = 0.0  # standard deviations of the brain, see restoration.restore
    traced: bool = True  # see restoration.restore
    cuda_graphs: bool = False  # see `programs`
    variance_form: str = "plain"  # of the variance network: XLA's; or auto, see `own_kernels`
    decoder_form: str = "plain"  # of the end of the decoder, likewise
    samples_est: int = 1  # an exact code (aae) has nothing to draw
    samples_neural: int = 1
    variance_at: str = "restored"  # or observed
    deviation_limit: float = 0.0
    variance_floor: float = 0.0  # squared standard deviations of the brain
    reconstruction_weight: float = 1.0
    reconstruction_variance: float = 1.0  # of Y - D(Y) in `<model>_reconstruction_tv3d`, squared standard deviations
    mirror_variance: float = 1.0  # V_m, which calibration finds: E[(X - mX)^2], squared standard deviations
    latent_size: int = 0
    feature_weight: float = 0.0  # of the search of anogan


def solver(settings: Settings, term: DataTerm) -> solvers.Solver:
    """Returns the solver that the settings name, for a data term."""
    return solvers.solver(
        settings.optimizer,
        term,
        learning_rate=settings.learning_rate,
        iterations=settings.iterations,
        refreshes=settings.refreshes,
        dual_steps=settings.dual_steps,
    )


def iterations(method: Method, settings: Settings) -> int:
    """Returns how many iterations a method makes at most."""
    return getattr(settings, length(method, settings))


def length(method: Method, settings: Settings) -> str:
    """Names the field of `Settings` that says how many iterations a method makes at most."""
    return "refreshes" if method.restores and settings.optimizer == "proximal" else "iterations"


def prior(method: Method, settings: Settings, networks: BoundModel, y: jax.Array) -> Prior:
    """Returns the prior that a method's restoration of the slice y climbs."""
    if method.prior == "elbo":
        return priors.elbo(networks, settings.reconstruction_weight)
    if method.prior == "lg_est":
        return priors.local_gaussian_estimated(networks, settings.samples_est, settings.variance_floor)
    observed = {"restored": None, "observed": y}[settings.variance_at]
    return priors.local_gaussian_neural(networks, settings.samples_neural, observed, settings.deviation_limit)
