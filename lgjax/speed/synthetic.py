"""Networks and slices for a benchmark: random ones, since every iteration does the same work whatever they hold."""

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models.base import Model
from lgjax.preparation.slices import BACKGROUND, Slices
from lgjax.training import step
from lgjax.training.settings import Settings
from lgjax.training.step import TrainState

AXES = (0.85, 0.65)  # of the ellipse that stands for a brain, as parts of half a slice


def brain_like(seed: int, count: int, height: int, width: int) -> Slices:
    """Draws `count` slices of noise in an ellipse, [count, height, width, 1], z-scored as brains are."""
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    mask = np.broadcast_to(np.hypot(rows / AXES[0], columns / AXES[1]) < 1, (count, height, width))[..., None]
    noise = np.random.default_rng(seed).standard_normal(mask.shape, np.float32)
    y = np.where(mask, noise, np.float32(BACKGROUND))
    return Slices(y, mask.astype(np.float32), np.arange(count, dtype=np.int32))


def random_state(model: Model, settings: Settings) -> TrainState:
    """Draws a state before the first step, with random kernels from the seed; nothing has to be compiled for it."""
    rng = np.random.default_rng(settings.seed)

    def draw(path, leaf):
        if (name := path[-1].key) == "kernel":
            values = rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = np.full(leaf.shape, name in ("scale", "var"))
        return values.astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, step.state_shapes(model, settings).variables)
    return TrainState(jnp.zeros((), jnp.int32), variables, step.optimizer(settings).init(variables["params"]))
