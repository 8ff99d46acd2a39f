"""Restoration of a slice or a volume by MAP ascent (Chen et al. 2019, Eq. 4): the program's heart, pure functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.restoration.data_terms import Cost
from lgjax.restoration.priors import Prior
from lgjax.restoration.solvers import Problem, Solver


class Trace(NamedTuple):
    """What happened at each iteration of a slice or volume, each [iterations]; once it stopped, its last values."""

    prior_gradient: jax.Array  # root mean square of the log prior's gradient inside the mask
    data_term: jax.Array  # R(Y, X) before the step, without lambda
    change: jax.Array  # mean |X^{i+1} - X^i| inside the mask, in standard deviations of the brain; 0 once it stopped


class State(NamedTuple):
    """The carry of the restoration loop."""

    x: jax.Array  # [H, W, 1] or [N, H, W, 1]
    solver: Any
    trace: Trace


def restore(
    y: jax.Array,  # [H, W, 1] or [N, H, W, 1], z-scored
    mask: jax.Array,  # as y, 1 where the slice or volume may change
    key: jax.Array,
    *,
    prior: Prior,
    data_term: Cost,
    solver: Solver,
    strength: jax.Array,
    iterations: int,
    tolerance: float = 0.0,
) -> tuple[jax.Array, Trace]:
    """Restores one slice or volume by MAP ascent (Chen et al. 2019, Eq. 4); long, since step and loop are read as one.

    Args:
      y: observed slice, [H, W, 1], or volume, [N, H, W, 1], z-scored.
      mask: 1 where it may change, shaped as y; elsewhere the result equals y.
      key: the slice's own random key, or those of a volume's slices, [N]; iteration i draws from fold_in(key, i).
      prior: (x, key) -> log P near x; the same for all of a volume.
      data_term: (x, y) -> cost R(Y, X), scalar.
      solver: how X moves, for this data term: `adam` (the paper) or `proximal`.
      strength: lambda, scalar array.
      iterations: number of steps at most, a Python int.
      tolerance: the slice stops after the first iteration whose `Trace.change` is below it, a Python float. 0: it never
        does, and the loop has a known trip count.

    Returns:
      The restored slice or volume, shaped as y, and the trace of all iterations.
    """
    problem = Problem(y, mask, strength)
    pixels = jnp.maximum(mask.sum(), 1.0)

    def step(i, state: State) -> State:
        near = prior(state.x, _of_iteration(key, i))
        near = near._replace(gradient=near.gradient * mask)
        x, solver_state = solver.step(i, state.x, near, problem, state.solver)
        trace = Trace(
            state.trace.prior_gradient.at[i].set(jnp.sqrt((near.gradient**2).sum() / pixels)),
            state.trace.data_term.at[i].set(data_term(state.x, y)),
            state.trace.change.at[i].set(jnp.abs(x - state.x).sum() / pixels),
        )
        return State(x, solver_state, trace)

    empty = jnp.zeros(iterations, y.dtype)
    initial = State(y, solver.init(y), Trace(empty, empty, empty))
    if not tolerance:
        final = jax.lax.fori_loop(0, iterations, step, initial)
        return final.x, final.trace

    def goes_on(carry):
        i, state = carry
        return (i < iterations) & ((i == 0) | (state.trace.change[i - 1] >= tolerance))

    # Under vmap, a slice that has stopped is carried on unchanged until all have.
    done, final = jax.lax.while_loop(goes_on, lambda c: (c[0] + 1, step(*c)), (jnp.zeros((), jnp.int32), initial))
    return final.x, _carried_on(final.trace, done)


def _of_iteration(key: jax.Array, i: jax.Array) -> jax.Array:
    """Folds the iteration into the key of a slice, or into each of the keys of a volume's slices."""
    return jax.vmap(_of_iteration, (0, None))(key, i) if key.ndim else jax.random.fold_in(key, i)


def _carried_on(trace: Trace, done: jax.Array) -> Trace:
    """Fills the trace with the last of the `done` values where none was ever reached; its change stays 0 there."""
    reached = jnp.minimum(jnp.arange(len(trace.change)), done - 1)
    return trace._replace(prior_gradient=trace.prior_gradient[reached], data_term=trace.data_term[reached])


def taken(change: np.ndarray, tolerance: float) -> np.ndarray:
    """Counts iterations that slices took, [N], from `Trace.change`, [N, iterations]: to the first below tolerance."""
    going_on = np.cumprod(change >= tolerance, axis=-1).sum(axis=-1)
    return np.minimum(going_on + 1, change.shape[-1])


def slice_keys(seed: int, number: jax.Array) -> jax.Array:
    """Makes the key of each slice, [N], from its index in the volume, [N]: the same whatever batch the slice is in."""
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(seed), s))(number)
