"""Restoration of a slice or a volume by MAP ascent (Chen et al. 2019, Eq. 4): the program's heart, pure functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.restoration.data_terms import Cost
from lgjax.restoration.priors import Prior
from lgjax.restoration.solvers import Problem, Solver


class Trace(NamedTuple):
    """What happened at each iteration of a slice or volume, each [iterations]; once it stopped, its last values.

    Without a trace asked for, a part is None; a tolerance asks for the change.
    """

    prior_gradient: jax.Array | None  # root mean square of the log prior's gradient inside the mask
    data_term: jax.Array | None  # R(Y, X) before the step, without lambda
    # Mean |X^{i+1} - X^i| inside the mask, in standard deviations of the brain; 0 once it stopped
    change: jax.Array | None


class State(NamedTuple):
    """What one iteration leaves to the next."""

    x: jax.Array  # [H, W, 1] or [N, H, W, 1]
    solver: Any


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
    traced: bool = True,
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
      traced: whether a trace is asked for, a Python bool; X is the same with and without.

    Returns:
      The restored slice or volume, shaped as y, and the trace of all iterations.
    """
    problem = Problem(y, mask, strength)
    pixels = jnp.maximum(mask.sum(), 1.0)

    def step(state: State, i) -> tuple[State, Trace]:
        near = prior(state.x, _of_iteration(key, i))
        near = near._replace(gradient=near.gradient * mask)
        x, solver_state = solver.step(i, state.x, near, problem, state.solver)
        return State(x, solver_state), Trace(
            jnp.sqrt((near.gradient**2).sum() / pixels) if traced else None,
            data_term(state.x, y) if traced else None,
            jnp.abs(x - state.x).sum() / pixels if traced or tolerance else None,
        )

    def step_with_row(state: State, i) -> tuple[State, jax.Array | None]:
        state, now = step(state, i)
        # One array of all, since a GPU writes each array by a kernel of its own.
        return state, jnp.stack(jax.tree.leaves(now)) if traced else None

    initial = State(y, solver.init(y))
    if not tolerance:
        final, rows = jax.lax.scan(step_with_row, initial, jnp.arange(iterations))
        return final.x, Trace(None, None, None) if rows is None else Trace(*rows.T)

    def go_on(carry):
        i, state, trace = carry
        state, now = step(state, i)
        return i + 1, state, jax.tree.map(lambda values, value: values.at[i].set(value), trace, now)

    def goes_on(carry):
        i, _, trace = carry
        return (i < iterations) & ((i == 0) | (trace.change[i - 1] >= tolerance))

    empty = jnp.zeros(iterations, y.dtype)
    trace = Trace(empty, empty, empty) if traced else Trace(None, None, empty)
    # Under vmap, a slice that has stopped is carried on unchanged until all have.
    done, final, trace = jax.lax.while_loop(goes_on, go_on, (jnp.zeros((), jnp.int32), initial, trace))
    return final.x, _carried_on(trace, done)


def _of_iteration(key: jax.Array, i: jax.Array) -> jax.Array:
    """Folds the iteration into the key of a slice, or into each of the keys of a volume's slices."""
    return jax.vmap(_of_iteration, (0, None))(key, i) if key.ndim else jax.random.fold_in(key, i)


def _carried_on(trace: Trace, done: jax.Array) -> Trace:
    """Fills the trace with the last of the `done` values where none was ever reached; its change stays 0 there."""
    assert trace.change is not None  # a tolerance asks for it
    reached = jnp.minimum(jnp.arange(len(trace.change)), done - 1)
    return jax.tree.map(lambda values: values[reached], trace)._replace(change=trace.change)


def taken(change: np.ndarray, tolerance: float) -> np.ndarray:
    """Counts iterations that slices took, [N], from `Trace.change`, [N, iterations]: to the first below tolerance."""
    going_on = np.cumprod(change >= tolerance, axis=-1).sum(axis=-1)
    return np.minimum(going_on + 1, change.shape[-1])


def slice_keys(seed: int, number: jax.Array) -> jax.Array:
    """Makes the key of each slice, [N], from its index in the volume, [N]: the same whatever batch the slice is in."""
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(seed), s))(number)
