"""Data terms R(Y, X), which keep a restoration X near its observation Y; log P(Y|X) = -lambda R(Y, X).

A data term holds its cost, a plain function of one slice or of one volume, and its proximal operator. Gradients of a
cost come from `jax.grad` with the subgradient sign(0) = 0.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lgjax.restoration import operators
from lgjax.restoration.operators import Operator, differences


class DataTerm(NamedTuple):
    """A data term, which is called as its cost."""

    cost: Callable[[jax.Array, jax.Array], jax.Array]  # (x, y), both [..., H, W, 1] -> R(Y, X), scalar
    prox: Callable[[int], Operator]  # steps of the dual -> proximal operator

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the cost of two slices [H, W, 1], or of two volumes [N, H, W, 1], a scalar."""
        return self.cost(x, y)


Cost = Callable[[jax.Array, jax.Array], jax.Array] | DataTerm  # (x, y), both [..., H, W, 1] -> R(Y, X), scalar


def tv_cost(x: jax.Array, y: jax.Array, across: jax.Array | float = 1.0) -> jax.Array:
    """Computes the anisotropic total variation of X - Y: the L1 norm of its forward differences.

    Args:
      x, y: slices, [H, W, 1], or volumes, [N, H, W, 1], z-scored.
      across: weight of the difference of slices k and k + 1 of a volume, [N - 1], or of all of them.

    Returns:
      A scalar. Differences across the last row, column and slice are zero (no wrap-around).
    """
    rows, columns, *slices = differences(x - y, across)
    within = _absolute(rows).sum() + _absolute(columns).sum()
    return within + _absolute(slices[0]).sum() if slices else within


def l1_cost(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes sum |X - Y| of two slices [H, W, 1], or of two volumes [N, H, W, 1], a scalar."""
    return _absolute(x - y).sum()


def _absolute(t: jax.Array) -> jax.Array:
    """Returns |t| with derivative sign(t), 0 at 0: that of `jnp.abs` is 1 there, which would push a pixel off X = Y."""
    return t * jax.lax.stop_gradient(jnp.sign(t))


def joined(across: jax.Array | float) -> DataTerm:
    """Makes the total variation of volumes whose slices are joined by weights.

    Args:
      across: weight of the difference of slices k and k + 1, not negative, [N - 1], or of all of them; 0: the slices
        are restored as if each were alone. Pixel over slice spacing weighs both by the length of a step.
    """
    return DataTerm(
        functools.partial(tv_cost, across=across), functools.partial(operators.of_total_variation, across=across)
    )


tv = DataTerm(tv_cost, operators.of_total_variation)  # of a slice; of a volume of cubic voxels
l1 = DataTerm(l1_cost, operators.of_absolute)
DATA_TERMS = {"tv": tv, "l1": l1, "tv3d": tv}  # `joined` gives tv3d the weights of a volume
