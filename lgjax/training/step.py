"""Training as pure functions: a state, a step that maps it to the next, and the order in which slices are seen."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lgjax.models.base import Model
from lgjax.models.precision import matmul_precision
from lgjax.training import packing
from lgjax.training.settings import Settings

# Folded into the seed's key in place of a step's number, which never comes so far.
_AUGMENTATION, _VALIDATION = 2**32 - 1, 2**32 - 2


class TrainState(NamedTuple):
    """All that a resumed run needs to go on as if it had not stopped."""

    step: jax.Array  # number of steps taken
    variables: Any  # {"params": ..., "batch_stats": running statistics of normalisation}, by network
    optimizer: optax.OptState


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """Makes Adam with the learning rate, momentum (its b1) and schedule of the settings."""
    return optax.adam(schedule(settings), b1=settings.momentum)


def schedule(settings: Settings) -> optax.Schedule:
    """Returns the learning rate as a function of the steps taken before."""
    schedules = {
        "constant": optax.constant_schedule(settings.learning_rate),
        "cosine": optax.cosine_decay_schedule(settings.learning_rate, settings.steps),
    }
    return schedules[settings.schedule]


def initial_state(model: Model, settings: Settings) -> TrainState:
    """Draws the state before the first step, from the seed."""
    return _beginning(model, settings)()


def state_shapes(model: Model, settings: Settings) -> TrainState:
    """Returns shapes and dtypes of the state, without computing it."""
    return _beginning(model, settings).eval_shape()


@functools.lru_cache(1)
def _beginning(model: Model, settings: Settings) -> Any:
    """Makes the jitted function () -> state before the first step, which is traced once for shapes and values."""

    def begin():
        variables = model.init(jax.random.key(settings.seed))
        return TrainState(jnp.zeros((), jnp.int32), variables, optimizer(settings).init(variables["params"]))

    return jax.jit(begin)


def relaid(state: TrainState, change: Callable[[Any], Any]) -> TrainState:
    """Changes how the parameters of a state lie in memory, and with them what the optimiser has of each."""
    params = state.variables["params"]
    optimizer_state = packing.within(state.optimizer, params, change)
    return TrainState(state.step, {**state.variables, "params": change(params)}, optimizer_state)


def make_step(
    model: Model, settings: Settings, unpack: Callable[[Any], Any] = packing.none
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict]]:
    """Returns step(state, x, mask) -> (next state, loss terms), pure; its draws depend on the seed and step alone.

    Args:
      model: to be trained.
      settings: of the training.
      unpack: makes the model's parameters of those of the state, see `packing`.
    """
    transform, changed = optimizer(settings), settings.flip or settings.intensity

    def step(state, x, mask):
        seed = jax.random.key(settings.seed)
        key = jax.random.fold_in(seed, state.step)
        if changed:
            draw = jax.random.fold_in(jax.random.fold_in(seed, _AUGMENTATION), state.step)
            x, mask = augment(draw, x, mask, settings.flip, settings.intensity)
        params, stats = state.variables["params"], state.variables["batch_stats"]

        def loss(params):
            return model.loss({"params": unpack(params), "batch_stats": stats}, x, mask, key)

        with matmul_precision(settings.precision):
            gradients, (stats, terms) = jax.grad(loss, has_aux=True)(params)
        updates, optimizer_state = transform.update(gradients, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        return TrainState(state.step + 1, {"params": params, "batch_stats": stats}, optimizer_state), terms

    return step


def augment(
    key: jax.Array, x: jax.Array, mask: jax.Array, flip: float, intensity: float
) -> tuple[jax.Array, jax.Array]:
    """Changes every slice of a batch at random, each by draws of its own; outside the mask intensities stay.

    Args:
      key: of the batch's draws.
      x: images, [N, H, W, 1], z-scored; columns go from the patient's right to the left.
      mask: 1 inside the brain, [N, H, W, 1].
      flip: probability that image and mask are mirrored, left to right.
      intensity: s; inside the mask, x becomes (1 + a) x + b with a and b ~ N(0, s^2), in standard deviations.

    Returns:
      The images and their masks.
    """
    flipping, scaling = jax.random.split(key)
    mirrored = jax.random.bernoulli(flipping, flip, (len(x), 1, 1, 1))
    x, mask = (jnp.where(mirrored, part[:, :, ::-1], part) for part in (x, mask))
    a, b = intensity * jax.random.normal(scaling, (2, len(x), 1, 1, 1), x.dtype)
    return jnp.where(mask > 0, (1 + a) * x + b, x), mask


def make_validation(model: Model, settings: Settings) -> Callable[..., dict]:
    """Returns validate(variables, x, mask, *pairs) -> loss terms of held-out slices, pure; with frozen statistics.

    The terms are those of a training step, with two differences: normalisation is by the running statistics, as it is
    frozen for restoration, and the draws (of latents, of noise) are the same at every call. A model with a `judge` has
    its terms too, of pairs (observed, healthy, mask), see `twins`.
    """

    def validate(variables, x, mask, *pairs):
        key = jax.random.fold_in(jax.random.key(settings.seed), _VALIDATION)
        with matmul_precision(settings.precision):
            terms = model.loss(variables, x, mask, key, train=False)[1][1]
            return terms | model.judge(variables, *pairs) if model.judge else terms

    return validate


def batch_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Returns which of n slices a step sees, [batch_size] int: epochs are permutations that the seed decides.

    The permutations are laid end to end and cut into batches, so every slice is seen equally often and a resumed run
    sees what the uninterrupted one would have.
    """
    positions = step * batch_size + np.arange(batch_size)
    result = np.empty(batch_size, np.int64)
    for epoch in np.unique(positions // n):
        here = positions // n == epoch
        result[here] = _order(seed, int(epoch), n)[positions[here] % n]
    return result


@functools.lru_cache(4)  # as many epochs as batches read ahead can touch, unless an epoch is only a few batches
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the order of n slices in one epoch, [n] int, not to be written to."""
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(n)
    order.flags.writeable = False
    return order
