"""Restoration of a slice by MAP ascent (Chen et al. 2019, Eq. 4): the heart of the program, as pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lgjax.priors import Prior


class Trace(NamedTuple):
    """What happened at each iteration of a slice's restoration, each [iterations]."""

    prior_gradient: jax.Array  # root mean square of the log prior's gradient inside the mask
    data_term: jax.Array  # R(Y, X) before the step, without lambda
    change: jax.Array  # mean |X^{i+1} - X^i| inside the mask, in standard deviations of the brain


class State(NamedTuple):
    """The carry of the restoration loop."""

    x: jax.Array  # [H, W, 1]
    optimizer: optax.OptState
    trace: Trace


def restore(
    y: jax.Array,  # [H, W, 1], z-scored
    mask: jax.Array,  # [H, W, 1], 1 where the slice may change
    key: jax.Array,
    *,
    prior: Prior,
    data_term: Callable[[jax.Array, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    strength: jax.Array,
    iterations: int,
) -> tuple[jax.Array, Trace]:
    """Restores one slice by MAP ascent (Chen et al. 2019, Eq. 4).

    Args:
      y: observed slice, [H, W, 1], z-scored.
      mask: 1 where the slice may change, [H, W, 1]; elsewhere the result equals y.
      key: the slice's own random key; iteration i draws from fold_in(key, i).
      prior: (x, key) -> gradient of log P(X) at x, [H, W, 1].
      data_term: (x, y) -> cost R(Y, X), scalar.
      optimizer: turns the ascent direction into a step: Adam (the paper) or plain `gradient` (Eq. 4 as printed).
      strength: lambda, scalar array.
      iterations: number of steps, a Python int, so that the loop has a known trip count.

    Returns:
      The restored slice, [H, W, 1], and the trace of all iterations.
    """
    pixels = jnp.maximum(mask.sum(), 1.0)
    value_and_grad = jax.value_and_grad(data_term)

    def step(i, state: State) -> State:
        prior_gradient = prior(state.x, jax.random.fold_in(key, i)) * mask
        cost, cost_gradient = value_and_grad(state.x, y)
        ascent = prior_gradient - strength * cost_gradient * mask
        # Optax descends, so it is given the negated ascent direction.
        update, optimizer_state = optimizer.update(-ascent, state.optimizer, state.x)
        trace = Trace(
            state.trace.prior_gradient.at[i].set(jnp.sqrt((prior_gradient**2).sum() / pixels)),
            state.trace.data_term.at[i].set(cost),
            state.trace.change.at[i].set(jnp.abs(update).sum() / pixels),
        )
        return State(state.x + update, optimizer_state, trace)

    empty = jnp.zeros(iterations, y.dtype)
    initial = State(y, optimizer.init(y), Trace(empty, empty, empty))
    final = jax.lax.fori_loop(0, iterations, step, initial)
    return final.x, final.trace


def optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
    """`adam` (the paper: 5e-3) or `gradient`, plain ascent with step eta (Eq. 4 as printed).

    Adam moves a pixel by about `learning_rate` a step, so a restoration moves it by at most about
    iterations * learning_rate (4 intensity units at the paper's values).
    """
    return {"adam": optax.adam, "gradient": optax.sgd}[name](learning_rate)


def slice_keys(seed: int, index: jax.Array) -> jax.Array:
    """Keys of slices, [N], from their indices within the volume, [N]: the same whatever batch they are in."""
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(seed), s))(index)
