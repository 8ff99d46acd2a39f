"""Restoration of one slice, or of one volume, by MAP ascent, as pure functions of JAX arrays.

prior = local_gaussian_neural(model.bind(params), samples=1)
restored, trace = restore(
    y, mask, key, prior=prior, data_term=tv, solver=adam(5e-3, tv), strength=jnp.float32(3.0), iterations=800
)
"""

from lgjax.restoration.data_terms import DATA_TERMS, DataTerm, joined, l1, tv
from lgjax.restoration.loop import restore
from lgjax.restoration.priors import beside, elbo, gaussian, local_gaussian_estimated, local_gaussian_neural, product
from lgjax.restoration.solvers import adam, proximal

__all__ = [
    "DATA_TERMS",
    "DataTerm",
    "adam",
    "beside",
    "elbo",
    "gaussian",
    "joined",
    "l1",
    "local_gaussian_estimated",
    "local_gaussian_neural",
    "product",
    "proximal",
    "restore",
    "tv",
]
