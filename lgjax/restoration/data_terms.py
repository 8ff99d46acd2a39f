"""Costs R(Y, X) that keep a restoration X near its observation Y; log P(Y|X) = -lambda R(Y, X).

Both are plain functions of one slice; their gradients come from `jax.grad` with the subgradient sign(0) = 0.
"""

import jax
import jax.numpy as jnp


def _absolute(t: jax.Array) -> jax.Array:
    """|t| with derivative sign(t), 0 at 0: that of `jnp.abs` is 1 there, which would push a pixel off X = Y."""
    return t * jax.lax.stop_gradient(jnp.sign(t))


def differences(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Forward differences of [H, W, 1] along rows, [H - 1, W, 1], and columns, [H, W - 1, 1]: none across the last."""
    return image[1:] - image[:-1], image[:, 1:] - image[:, :-1]


def tv(x: jax.Array, y: jax.Array) -> jax.Array:
    """Anisotropic total variation of X - Y: the L1 norm of its forward differences.

    Args:
      x, y: [H, W, 1], z-scored.

    Returns:
      A scalar. Differences across the last row and column are zero (no wrap-around).
    """
    rows, columns = differences(x - y)
    return _absolute(rows).sum() + _absolute(columns).sum()


def l1(x: jax.Array, y: jax.Array) -> jax.Array:
    """sum |X - Y| of two slices [H, W, 1]; a scalar."""
    return _absolute(x - y).sum()


DATA_TERMS = {"tv": tv, "l1": l1}
