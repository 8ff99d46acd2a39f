"""Training as pure functions: a state, a step that maps it to the next, and the order in which slices are seen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lgjax import models
from lgjax.models import vae, variance


class TrainState(NamedTuple):
    """All that a resumed run needs to go on as if it had not stopped."""

    step: jax.Array  # number of steps taken
    params: Any  # {"autoencoder": ..., "variance": ...}
    batch_stats: Any  # running statistics of the auto-encoder's normalisation
    optimizer: optax.OptState


def optimizer(config) -> optax.GradientTransformation:
    """Adam with the learning rate and schedule of `config.train`."""
    schedules = {
        "constant": optax.constant_schedule(config.learning_rate),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, config.steps),
    }
    return optax.adam(schedules[config.schedule])


def initial_state(config) -> TrainState:
    """The state before the first step, from `config.seed`."""
    return jax.jit(lambda: _initial_state(config))()


def state_shapes(config) -> TrainState:
    """Shapes and dtypes of the state, without computing it."""
    return jax.eval_shape(lambda: _initial_state(config))


def _initial_state(config) -> TrainState:
    autoencoder, variance_net = models.build(config.model)
    image = jnp.zeros((1, config.data.height, config.data.width, 1))
    first, second, draw = jax.random.split(jax.random.key(config.seed), 3)
    variables = autoencoder.init(first, image, draw)
    params = {"autoencoder": variables["params"], "variance": variance_net.init(second, image)["params"]}
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer(config.train).init(params))


def losses(config, params, batch_stats, x, mask, key) -> tuple[jax.Array, tuple[Any, dict]]:
    """The sum of both networks' losses for one batch; neither sends gradients into the other.

    Args:
      params, batch_stats: as in TrainState.
      x, mask: [N, H, W, 1].
      key: for the draw of z.

    Returns:
      The loss, and (new running statistics, the terms by name).
    """
    autoencoder, variance_net = models.build(config.model)
    variables = {"params": params["autoencoder"], "batch_stats": batch_stats}
    (reconstruction, posterior), updates = autoencoder.apply(variables, x, key, True, mutable=["batch_stats"])
    elbo_loss, terms = vae.negative_elbo(x, reconstruction, posterior, config.train.reconstruction_weight)
    log_variance = variance_net.apply({"params": params["variance"]}, x)
    nll = variance.negative_log_likelihood(x - reconstruction, log_variance, mask, config.model.variance_floor)
    terms = {"loss": elbo_loss, **terms, "variance_nll": nll}
    return elbo_loss + nll, (updates["batch_stats"], terms)


def make_step(config) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict]]:
    """Returns step(state, x, mask) -> (next state, loss terms), pure; its draws depend on the seed and step alone."""
    transform = optimizer(config.train)
    seed = config.seed

    def step(state, x, mask):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient = jax.grad(lambda p: losses(config, p, state.batch_stats, x, mask, key), has_aux=True)
        gradients, (batch_stats, terms) = gradient(state.params)
        updates, optimizer_state = transform.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, optimizer_state), terms

    return step


def batch_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Which of n slices step `step` sees, [batch_size] int: epochs are permutations, a function of the step alone.

    The permutations are laid end to end and cut into batches, so every slice is seen equally often and a resumed run
    sees what the uninterrupted one would have.
    """
    positions = step * batch_size + np.arange(batch_size)
    result = np.empty(batch_size, np.int64)
    for epoch in np.unique(positions // n):
        here = positions // n == epoch
        order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(epoch)]))).permutation(n)
        result[here] = order[positions[here] % n]
    return result
