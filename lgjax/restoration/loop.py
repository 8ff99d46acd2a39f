"""Restoration of a slice by MAP ascent (Chen et al. 2019, Eq. 4): the heart of the program, as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lgjax.restoration.data_terms import DATA_TERMS
from lgjax.restoration.priors import LocalPrior, Prior
from lgjax.restoration.proximal import Operator, operator


class Trace(NamedTuple):
    """What happened at each iteration of a slice's restoration, each [iterations]; once it stopped, its last values."""

    prior_gradient: jax.Array  # root mean square of the log prior's gradient inside the mask
    data_term: jax.Array  # R(Y, X) before the step, without lambda
    change: jax.Array  # mean |X^{i+1} - X^i| inside the mask, in standard deviations of the brain; 0 once it stopped


class Problem(NamedTuple):
    """What stays the same during the restoration of a slice."""

    y: jax.Array  # [H, W, 1], z-scored
    mask: jax.Array  # [H, W, 1], 1 where the slice may change
    strength: jax.Array  # lambda, scalar


class Solver(NamedTuple):
    """A way to go from X^i to X^{i+1}."""

    init: Callable[[jax.Array], Any]  # y -> its state
    # (i, X^i, prior near it, problem, state) -> (X^{i+1}, [H, W, 1], state)
    step: Callable[[jax.Array, jax.Array, LocalPrior, Problem, Any], tuple[jax.Array, Any]]


class State(NamedTuple):
    """The carry of the restoration loop."""

    x: jax.Array  # [H, W, 1]
    solver: Any
    trace: Trace


def restore(
    y: jax.Array,  # [H, W, 1], z-scored
    mask: jax.Array,  # [H, W, 1], 1 where the slice may change
    key: jax.Array,
    *,
    prior: Prior,
    data_term: Callable[[jax.Array, jax.Array], jax.Array],
    solver: Solver,
    strength: jax.Array,
    iterations: int,
    tolerance: float = 0.0,
) -> tuple[jax.Array, Trace]:
    """Restores one slice by MAP ascent (Chen et al. 2019, Eq. 4).

    Args:
      y: observed slice, [H, W, 1], z-scored.
      mask: 1 where the slice may change, [H, W, 1]; elsewhere the result equals y.
      key: the slice's own random key; iteration i draws from fold_in(key, i).
      prior: (x, key) -> log P near x.
      data_term: (x, y) -> cost R(Y, X), scalar.
      solver: how X moves, for this data term: `ascent` (the paper) or `proximal`.
      strength: lambda, scalar array.
      iterations: number of steps at most, a Python int.
      tolerance: the slice stops after the first iteration whose `Trace.change` is below it, a Python float. 0: it never
        does, and the loop has a known trip count.

    Returns:
      The restored slice, [H, W, 1], and the trace of all iterations.
    """
    problem = Problem(y, mask, strength)
    pixels = jnp.maximum(mask.sum(), 1.0)

    def step(i, state: State) -> State:
        near = prior(state.x, jax.random.fold_in(key, i))
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


def _carried_on(trace: Trace, done: jax.Array) -> Trace:
    """The trace with the last of the `done` values in place of those that were never reached; its change stays 0."""
    reached = jnp.minimum(jnp.arange(len(trace.change)), done - 1)
    return trace._replace(prior_gradient=trace.prior_gradient[reached], data_term=trace.data_term[reached])


def taken(change: np.ndarray, tolerance: float) -> np.ndarray:
    """Iterations that slices took, [N], from their `Trace.change`, [N, iterations]: to the first below tolerance."""
    going_on = np.cumprod(change >= tolerance, axis=-1).sum(axis=-1)
    return np.minimum(going_on + 1, change.shape[-1])


def solver(name: str, term: str, *, learning_rate: float, iterations: int, refreshes: int, dual_steps: int) -> Solver:
    """A solver by its name in the config (`restore.optimizer`), for a data term by its name.

    Adam moves a pixel by about `learning_rate` a step, so a restoration moves it by at most about
    iterations * learning_rate (4 intensity units at the paper's values).

    Args:
      name: `adam` (the paper: 5e-3), `gradient`, plain ascent with step eta (Eq. 4 as printed), or `proximal`.
      term: of `DATA_TERMS`.
      learning_rate: of Adam and of plain ascent.
      iterations: of Adam; `proximal` goes as far as they do.
      refreshes: of the prior, the iterations of `proximal`.
      dual_steps: of `proximal` with total variation, at each refresh.
    """
    if name == "proximal":
        return proximal(operator(term, dual_steps), iterations * learning_rate, refreshes)
    return ascent({"adam": optax.adam, "gradient": optax.sgd}[name](learning_rate), DATA_TERMS[term])


def ascent(optimizer: optax.GradientTransformation, data_term: Callable[[jax.Array, jax.Array], jax.Array]) -> Solver:
    """Climbs the gradient of Eq. 4, of which an optimiser makes a step."""

    def step(i, x, near: LocalPrior, problem: Problem, state):
        cost_gradient = jax.grad(data_term)(x, problem.y)
        climb = near.gradient - problem.strength * cost_gradient * problem.mask
        # Optax descends, so it is given the negated ascent direction.
        update, state = optimizer.update(-climb, state, x)
        return x + update, state

    return Solver(optimizer.init, step)


def proximal(term: Operator, reach: float, refreshes: int) -> Solver:
    """Follows the ascent that Adam follows, for as long, in a few implicit steps.

    Under total variation, most pixels lie at a kink, where the data term's gradient jumps between its values for four
    neighbours: its root mean square is 2 lambda. Adam divides by that, so that N steps of size eta are plain ascent for
    the time N eta / (2 lambda), which ends long before the mode of Eq. 4: that is part of the method (and of lambda).
    Here that time is cut into `refreshes` equal steps tau, each to the mode of
    log N(X; mu, diag(sigma2)) - lambda R(Y, X) - ||X - X^i||^2 / (2 tau), however stiff the prior or the data term is.

    Args:
      term: proximal operator of the data term.
      reach: N eta, in intensity units; infinite: every step goes to the mode of Eq. 4 under the local Gaussian.
      refreshes: how many steps there will be.
    """

    def step(i, x, near: LocalPrior, problem: Problem, state):
        inverse_tau = 2 * problem.strength * refreshes / reach
        precision = 1 / near.variance + inverse_tau
        # The Gaussian's mean is x + sigma2 * gradient, so that its product with the one around x has the mean
        mean = x + near.gradient / precision
        change, state = term.apply((mean - problem.y) * problem.mask, problem.mask / precision, problem.strength, state)
        return problem.y + change, state

    return Solver(term.init, step)


def slice_keys(seed: int, index: jax.Array) -> jax.Array:
    """Keys of slices, [N], from their indices within the volume, [N]: the same whatever batch they are in."""
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(seed), s))(index)
