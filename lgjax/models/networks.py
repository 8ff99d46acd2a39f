"""What every trained model is to the methods: pure functions of one slice, parameters bound, normalisation frozen."""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Networks(NamedTuple):
    """The parts of a trained model; a part it does not have is None. x is one slice, [H, W, 1], z-scored."""

    reconstruct: Callable[[jax.Array], jax.Array] | None = None  # x -> [H, W, 1], without noise
    samples: Callable[[jax.Array, jax.Array, int], jax.Array] | None = None  # (x, key, L) -> g(z_l), [L, H, W, 1]
    variance: Callable[[jax.Array], jax.Array] | None = None  # x -> sigma2 of the prior at x, [H, W, 1], with floor
    elbo: Callable[[jax.Array, jax.Array], jax.Array] | None = None  # (x, key) -> bound on log P(x), scalar, one draw
    generate: Callable[[jax.Array], jax.Array] | None = None  # z, [D] -> [H, W, 1]
    features: Callable[[jax.Array], jax.Array] | None = None  # x -> what a discriminator sees in it, any shape
