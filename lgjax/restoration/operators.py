"""Proximal operators of the data terms: argmin_D sum (D - b)^2 / (2 sigma2) + lambda R(D) inside the mask, D = X - Y.

This is Eq. 4 of Chen et al. 2019 with the prior held at N(b + Y, diag(sigma2)): convex, so it needs no step size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Operator(NamedTuple):
    """The proximal operator of one data term."""

    init: Callable[[jax.Array], Any]  # image -> state of the first call
    # (b, sigma2, strength, state) -> (D, state), where what one call finds is where the next one starts.
    apply: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


class Dual(NamedTuple):
    """Dual variables of the total variation: a flow across every pair of neighbours, at most lambda."""

    rows: jax.Array  # [H - 1, W, 1]
    columns: jax.Array  # [H, W - 1, 1]


def soft_threshold(b: jax.Array, sigma2: jax.Array, strength: jax.Array) -> jax.Array:
    """Returns argmin_D sum (D - b)^2 / (2 sigma2) + lambda |D|, [H, W, 1].

    This is b moved towards 0 by at most lambda sigma2.
    """
    reach = strength * sigma2
    return b - jnp.clip(b, -reach, reach)


def total_variation(
    b: jax.Array,  # [H, W, 1], 0 outside the mask
    sigma2: jax.Array,  # [H, W, 1], 0 outside the mask
    strength: jax.Array,
    dual: Dual,
    steps: int,
) -> tuple[jax.Array, Dual]:
    """Finds argmin_D sum (D - b)^2 / (2 sigma2) + lambda TV(D), with D = 0 where sigma2 = 0.

    Accelerated projected gradient (Beck and Teboulle 2009) on the dual, min sum sigma2 (b / sigma2 - G^T p)^2 / 2 over
    |p| <= lambda with G the forward `differences`. Each p has a step of its own, the inverse of its row sum of
    |G| sigma2 |G^T| (Pock and Chambolle 2011), so that pixels of any variance converge alike.

    Args:
      strength: lambda, scalar.
      dual: where to start.
      steps: of the dual, a Python int.

    Returns:
      D, [H, W, 1], and the dual it came from.
    """
    row_sums = 4 * sigma2  # a pixel has at most four neighbours
    step = Dual(_inverse(row_sums[1:] + row_sums[:-1]), _inverse(row_sums[:, 1:] + row_sums[:, :-1]))

    def ascend(_, carry):
        found, ahead, t = carry
        slope = Dual(*differences(b - sigma2 * transposed_differences(ahead)))
        new = jax.tree.map(lambda p, s, g: jnp.clip(p + s * g, -strength, strength), ahead, step, slope)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        momentum = (t - 1) / t_new
        return new, jax.tree.map(lambda p, q: p + momentum * (p - q), new, found), t_new

    dual, _, _ = jax.lax.fori_loop(0, steps, ascend, (dual, dual, jnp.ones((), b.dtype)))
    return b - sigma2 * transposed_differences(dual), dual


def differences(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes the forward differences of [H, W, 1] along rows, [H - 1, W, 1], and columns, [H, W - 1, 1].

    The last row and the last column have none.
    """
    return image[1:] - image[:-1], image[:, 1:] - image[:, :-1]


def transposed_differences(dual: Dual) -> jax.Array:
    """Returns G^T p, [H, W, 1]: the negative divergence of a flow."""
    rows, columns = dual
    down = jnp.pad(rows, ((1, 0), (0, 0), (0, 0))) - jnp.pad(rows, ((0, 1), (0, 0), (0, 0)))
    right = jnp.pad(columns, ((0, 0), (1, 0), (0, 0))) - jnp.pad(columns, ((0, 0), (0, 1), (0, 0)))
    return down + right


def of_total_variation(dual_steps: int) -> Operator:
    """Returns the operator of the total variation, which takes `dual_steps` steps of the dual at every call."""
    return Operator(
        lambda image: jax.tree.map(jnp.zeros_like, Dual(*differences(image))),
        lambda b, sigma2, strength, dual: total_variation(b, sigma2, strength, dual, dual_steps),
    )


def of_absolute(dual_steps: int) -> Operator:
    """Returns the operator of the L1 norm, which is exact and takes no steps."""
    return Operator(
        lambda image: (),
        lambda b, sigma2, strength, state: (soft_threshold(b, sigma2, strength), state),
    )


def _inverse(t: jax.Array) -> jax.Array:
    """Returns 1 / t, 0 where t is 0: no flow there moves any pixel."""
    return jnp.where(t > 0, 1 / jnp.where(t > 0, t, 1), 0)
