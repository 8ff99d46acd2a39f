"""What every trained model is to the methods: pure functions of one slice, parameters bound, normalisation frozen."""

from collections.abc import Callable
from typing import Any, NamedTuple


class BoundModel(NamedTuple):
    """The parts of a trained model; a part it does not have is None. x is one slice, [H, W, 1], z-scored."""

    reconstruct: Any = None  # x -> [H, W, 1], without noise
    samples: Any = None  # (x, key, L) -> g(z_l), [L, H, W, 1]
    variance: Any = None  # x -> sigma2 of the prior at x, [H, W, 1], floor included
    elbo: Any = None  # (x, key) -> bound on log P(x), scalar, from one draw
    generate: Any = None  # z, [D] -> [H, W, 1]
    features: Any = None  # x -> what a discriminator sees in it, any shape


class Model(NamedTuple):
    """A model that can be trained and bound."""

    init: Callable[..., Any]  # key -> {"params": ..., "batch_stats": ...}, by network
    loss: Callable[..., Any]  # (variables, x, mask, key) -> (loss, (new batch_stats, terms by name))
    bind: Callable[..., BoundModel]  # frozen parameters -> the trained model
    supports: tuple[str, ...]  # priors, see `methods`
