"""Solvers of Eq. 4 of Chen et al. 2019: how one slice, or one volume, goes from X^i to X^{i+1}."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lgjax.restoration.data_terms import Cost, DataTerm
from lgjax.restoration.priors import LocalPrior


class Problem(NamedTuple):
    """What stays the same during the restoration of a slice or a volume."""

    y: jax.Array  # [H, W, 1] or [N, H, W, 1], z-scored
    mask: jax.Array  # as y, 1 where it may change
    strength: jax.Array  # lambda, scalar


class Solver(NamedTuple):
    """A way to go from X^i to X^{i+1}."""

    init: Callable[[jax.Array], Any]  # y -> its state
    # (i, X^i, prior near it, problem, state) -> (X^{i+1}, state)
    step: Callable[[jax.Array, jax.Array, LocalPrior, Problem, Any], tuple[jax.Array, Any]]


def solver(
    name: str, term: DataTerm, *, learning_rate: float, iterations: int, refreshes: int, dual_steps: int
) -> Solver:
    """Returns a solver by its name, for a data term.

    Adam moves a pixel by about `learning_rate` a step, so a restoration moves it by at most about
    iterations * learning_rate (4 standard deviations of the brain at the paper's values).

    Args:
      name: `adam` (the paper: 5e-3), `gradient`, plain ascent with step eta (Eq. 4 as printed), or `proximal`.
      term: whose cost is climbed against.
      learning_rate: of Adam and of plain ascent.
      iterations: of Adam; `proximal` goes as far as they do.
      refreshes: of the prior, the iterations of `proximal`.
      dual_steps: of `proximal` with total variation, at each refresh.
    """
    if name == "proximal":
        return proximal(term, iterations * learning_rate, refreshes, dual_steps)
    if name == "adam":
        return adam(learning_rate, term)
    return ascent({"gradient": optax.sgd}[name](learning_rate), term)


def adam(learning_rate: float, data_term: Cost) -> Solver:
    """Climbs the gradient of Eq. 4 by Adam, as the paper does.

    Args:
      learning_rate: about the most that a pixel moves in a step, in standard deviations of the brain.
      data_term: (x, y) -> cost R(Y, X), scalar.
    """
    return ascent(optax.adam(learning_rate), data_term)


def ascent(optimizer: optax.GradientTransformation, data_term: Cost) -> Solver:
    """Climbs the gradient of Eq. 4, of which an optimiser makes a step."""

    def step(i, x, near: LocalPrior, problem: Problem, state):
        cost_gradient = jax.grad(lambda x: data_term(x, problem.y))(x)
        climb = near.gradient - problem.strength * cost_gradient * problem.mask
        # Optax descends, so it is given the negated ascent direction.
        update, state = optimizer.update(-climb, state, x)
        return x + update, state

    return Solver(optimizer.init, step)


def proximal(data_term: DataTerm, reach: float, refreshes: int, dual_steps: int) -> Solver:
    """Follows the ascent that Adam follows, for as long, in a few implicit steps.

    Under total variation, most pixels lie at a kink, where the data term's gradient jumps between its values for four
    neighbours: its root mean square is 2 lambda. Adam divides by that, so that N steps of size eta are plain ascent for
    the time N eta / (2 lambda), which ends long before the mode of Eq. 4: that is part of the method (and of lambda).
    Here that time is cut into `refreshes` equal steps tau, each to the mode of
    log N(X; mu, diag(sigma2)) - lambda R(Y, X) - ||X - X^i||^2 / (2 tau), however stiff the prior or the data term is.

    Args:
      data_term: whose proximal operator is applied at each step.
      reach: N eta, in standard deviations of the brain; infinite: every step goes to the mode of Eq. 4 under the local
        Gaussian.
      refreshes: how many steps there will be.
      dual_steps: of the total variation, within each of them.
    """
    term = data_term.prox(dual_steps)

    def step(i, x, near: LocalPrior, problem: Problem, state):
        inverse_tau = 2 * problem.strength * refreshes / reach
        precision = 1 / near.variance + inverse_tau
        # The Gaussian's mean is x + sigma2 * gradient, so that its product with the one around x has the mean
        mean = x + near.gradient / precision
        change, state = term.apply((mean - problem.y) * problem.mask, problem.mask / precision, problem.strength, state)
        return problem.y + change, state

    return Solver(term.init, step)
