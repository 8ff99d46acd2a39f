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
    """The carry of the restoration loop."""

    x: jax.Array  # [H, W, 1] or [N, H, W, 1]
    solver: Any
    rows: jax.Array  # the trace, [iterations, parts]: one array, since a GPU writes each by a kernel of its own


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

    def step(i, state: State) -> State:
        near = prior(state.x, _of_iteration(key, i))
        near = near._replace(gradient=near.gradient * mask)
        x, solver_state = solver.step(i, state.x, near, problem, state.solver)
        now = [jnp.sqrt((near.gradient**2).sum() / pixels), data_term(state.x, y)] if traced else []
        if traced or tolerance:
            now.append(jnp.abs(x - state.x).sum() / pixels)
        rows = jax.lax.dynamic_update_index_in_dim(state.rows, jnp.asarray(now, y.dtype), i, 0) if now else state.rows
        return State(x, solver_state, rows)

    initial = State(y, solver.init(y), jnp.zeros((iterations, 3 if traced else int(tolerance > 0)), y.dtype))
    if not tolerance:
        final = jax.lax.fori_loop(0, iterations, step, initial)
        return final.x, _columns(final.rows)

    def goes_on(carry):
        i, state = carry
        return (i < iterations) & ((i == 0) | (state.rows[i - 1, -1] >= tolerance))

    # Under vmap, a slice that has stopped is carried on unchanged until all have.
    done, final = jax.lax.while_loop(goes_on, lambda c: (c[0] + 1, step(*c)), (jnp.zeros((), jnp.int32), initial))
    return final.x, _carried_on(_columns(final.rows), done)


def _columns(rows: jax.Array) -> Trace:
    """Returns the parts of a trace, of which the change is the last one."""
    parts = list(rows.T)
    return Trace(*[None] * (len(Trace._fields) - len(parts)), *parts)


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
