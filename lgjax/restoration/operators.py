"""Proximal operators of the data terms: argmin_D sum (D - b)^2 / (2 sigma2) + lambda R(D) inside the mask, D = X - Y.

This is Eq. 4 of Chen et al. 2019 with the prior held at N(b + Y, diag(sigma2)): convex, so it needs no step size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lgjax.models import convolutions

UNROLLED = 20  # steps of the dual that a GPU makes before a loop turns: its copies and scalars are kernels of their own


class Operator(NamedTuple):
    """The proximal operator of one data term."""

    init: Callable[[jax.Array], Any]  # image -> state of the first call
    # (b, sigma2, strength, state) -> (D, state), where what one call finds is where the next one starts.
    apply: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


Dual = tuple[jax.Array, ...]  # of the total variation, an array an axis: a flow across every pair of neighbours


def soft_threshold(b: jax.Array, sigma2: jax.Array, strength: jax.Array) -> jax.Array:
    """Returns argmin_D sum (D - b)^2 / (2 sigma2) + lambda |D|, [H, W, 1].

    This is b moved towards 0 by at most lambda sigma2.
    """
    reach = strength * sigma2
    return b - jnp.clip(b, -reach, reach)


def total_variation(
    b: jax.Array,  # [H, W, 1] or [N, H, W, 1], 0 outside the mask
    sigma2: jax.Array,  # as b, 0 outside the mask
    strength: jax.Array,
    dual: Dual,
    steps: int,
    across: jax.Array | float = 1.0,
) -> tuple[jax.Array, Dual]:
    """Finds argmin_D sum (D - b)^2 / (2 sigma2) + lambda TV(D), with D = 0 where sigma2 = 0.

    Accelerated projected gradient (Beck and Teboulle 2009) on the dual, min sum sigma2 (b / sigma2 - G^T p)^2 / 2 over
    |p| <= lambda with G the forward `differences`. Each p has a step of its own, the inverse of its row sum of
    |G| sigma2 |G^T| (Pock and Chambolle 2011), so that pixels of any variance converge alike.

    Args:
      strength: lambda, scalar.
      dual: where to start, |p| <= lambda.
      steps: of the dual, a Python int.
      across: of `differences`.

    Returns:
      D, shaped as b, and the dual it came from.
    """
    step = _dual_steps(sigma2, across)

    def ascend(_, carry):
        found, ahead, t = carry
        slope = differences(b - sigma2 * transposed_differences(ahead, across), across)
        new = jax.tree.map(lambda p, s, g: jnp.clip(p + s * g, -strength, strength), ahead, step, slope)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        momentum = (t - 1) / t_new
        return new, jax.tree.map(lambda p, q: p + momentum * (p - q), new, found), t_new

    unroll = min(steps, UNROLLED) if convolutions.launches() else 1
    dual, _, _ = jax.lax.fori_loop(0, steps, ascend, (dual, dual, jnp.ones((), b.dtype)), unroll=unroll)
    return b - sigma2 * transposed_differences(dual, across), dual


def differences(image: jax.Array, across: jax.Array | float = 1.0) -> Dual:
    """Takes the forward differences G of a slice or of a volume; the last pixel of an axis has none.

    Args:
      image: a slice, [H, W, 1], or a volume, [N, H, W, 1].
      across: weight of the difference of slices k and k + 1 of a volume, [N - 1], or of all of them.

    Returns:
      The differences along rows, [..., H - 1, W, 1], along columns, [..., H, W - 1, 1], and for a volume those of its
      slices, [N - 1, H, W, 1], times their weights.
    """
    rows, columns = image[..., 1:, :, :] - image[..., :-1, :, :], image[..., 1:, :] - image[..., :-1, :]
    return (rows, columns) if image.ndim == 3 else (rows, columns, _weights(across) * (image[1:] - image[:-1]))


def transposed_differences(dual: Dual, across: jax.Array | float = 1.0) -> jax.Array:
    """Returns G^T p, [H, W, 1] or [N, H, W, 1]: the negative divergence of a flow, whose third part is weighted."""
    rows, columns, *slices = dual
    inward = _ends(rows, -3, add=False) + _ends(columns, -2, add=False)
    return inward + _ends(_weights(across) * slices[0], 0, add=False) if slices else inward


def _ends(flow: jax.Array, axis: int, add: bool) -> jax.Array:
    """Returns what arrives at each pixel minus, or plus, what leaves it, for a flow along one axis."""
    before, after = ([(0, 0)] * flow.ndim for _ in range(2))
    before[axis], after[axis] = (1, 0), (0, 1)
    arrives, leaves = jnp.pad(flow, before), jnp.pad(flow, after)
    return arrives + leaves if add else arrives - leaves


def _dual_steps(sigma2: jax.Array, across: jax.Array | float) -> Dual:
    """Returns the step of every dual: 1 / (|G| sigma2 |G^T| 1), 0 where no pixel moves.

    |G^T| 1 is 4 for a pixel of a slice, of which each axis has at most two neighbours; in a volume, the weights of the
    two neighbouring slices are added. A difference with the weight w sums w times the two pixels' sigma2 |G^T| 1.
    """
    if sigma2.ndim == 3:
        reach, weights = 4 * sigma2, None
    else:
        weights = jnp.broadcast_to(_weights(across), (len(sigma2) - 1, 1, 1, 1))
        reach = (4 + _ends(weights, 0, add=True)) * sigma2
    rows, columns = reach[..., 1:, :, :] + reach[..., :-1, :, :], reach[..., 1:, :] + reach[..., :-1, :]
    if weights is None:
        return _inverse(rows), _inverse(columns)
    return _inverse(rows), _inverse(columns), _inverse(weights * (reach[1:] + reach[:-1]))


def _weights(across: jax.Array | float) -> jax.Array:
    """Returns weights of differences between slices in the shape [N - 1, 1, 1, 1], or [1, 1, 1, 1] for a number."""
    return jnp.reshape(jnp.asarray(across, jnp.float32), (-1, 1, 1, 1))


def of_total_variation(dual_steps: int, across: jax.Array | float = 1.0) -> Operator:
    """Returns the operator of the total variation, which takes `dual_steps` steps of the dual at every call.

    Args:
      dual_steps: of `total_variation`.
      across: of `differences`.
    """
    return Operator(
        lambda image: jax.tree.map(jnp.zeros_like, differences(image, across)),
        lambda b, sigma2, strength, dual: total_variation(b, sigma2, strength, dual, dual_steps, across),
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
