"""What every model is to training, and every trained model to the methods: pure functions as values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# (new batch_stats by network, terms by name): what a loss gives beside its value
Updates = tuple[dict[str, Any], dict[str, jax.Array]]


class BoundModel(NamedTuple):
    """The parts of a trained model; a part it does not have is None. x is one slice, [H, W, 1], z-scored."""

    reconstruct: Any = None  # x -> [H, W, 1], without noise
    samples: Any = None  # (x, key, L) -> g(z_l), [L, H, W, 1]
    variance: Any = None  # x -> sigma2 of the prior at x, [H, W, 1], floor included
    elbo: Any = None  # (x, key) -> bound on log P(x), scalar, from one draw
    generate: Any = None  # z, [D] -> [H, W, 1]
    features: Any = None  # x -> what a discriminator sees in it, any shape


class Model(NamedTuple):
    """A model of healthy slices; x and mask are batches, [N, H, W, 1], x z-scored, mask 1 inside the brain.

    With `train=False`, a loss normalises by the running statistics and leaves them as they are.
    """

    init: Callable[[jax.Array], dict[str, Any]]  # key -> untrained {"params", "batch_stats"}, each by network
    loss: Callable[..., tuple[jax.Array, Updates]]  # (variables, x, mask, key, train) -> (sum of all losses, updates)
    bind: Callable[[dict[str, Any]], BoundModel]  # params, frozen by `models.freeze` -> functions of one slice
    supports: tuple[str, ...]  # the priors that methods can make of it, see `methods`
    criterion: str = "loss"  # term by which two states of a training compare on held-out slices; "": there is none
    # How well known pairs are restored: (variables, observed, healthy, mask) -> terms by name; None: nobody asks.
    judge: Callable[..., dict[str, jax.Array]] | None = None
