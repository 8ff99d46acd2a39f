"""AnoGAN (Schlegl et al. 2017): the healthy slice that a generator can make and that comes closest to the observed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lgjax.models.base import BoundModel


class Trace(NamedTuple):
    """What happened at each iteration of a slice's search, each [iterations]."""

    residual: jax.Array  # sum |y - G(z)| inside the mask, before the step
    features: jax.Array  # sum |d(y) - d(G(z))|, before the step
    change: jax.Array  # mean |x - x of the iteration before| inside the mask, in standard deviations of the brain


class State(NamedTuple):
    """The carry of the search."""

    z: jax.Array  # [D]
    x: jax.Array  # [H, W, 1], of the z before; at first y
    optimizer: optax.OptState
    trace: Trace


def search(
    networks: BoundModel,
    y: jax.Array,  # [H, W, 1], z-scored
    mask: jax.Array,  # [H, W, 1], 1 inside the brain
    key: jax.Array,
    *,
    latent_size: int,
    iterations: int,
    learning_rate: float,
    feature_weight: float,
) -> tuple[jax.Array, Trace]:
    """Searches the latent of one slice by Adam, on (1 - w) sum |y - x| + w sum |d(y) - d(x)| (Schlegl et al. 2017).

    Long, since cost, step and loop are read as one.

    Here x is G(z) inside the mask and y outside: what the generator makes of the background is neither scored nor
    seen in the result, and the discriminator's features d see two whole pictures that differ in the brain alone.

    Args:
      networks: with `generate` and `features`.
      y: observed slice, [H, W, 1], z-scored.
      mask: 1 inside the brain, [H, W, 1].
      key: the slice's own random key; the search starts at z ~ N(0, I) drawn from it.
      latent_size: D.
      iterations: number of steps, a Python int, so that the loop has a known trip count.
      learning_rate: of Adam.
      feature_weight: w, between 0 and 1.

    Returns:
      x, [H, W, 1], and the trace of all iterations.
    """
    generate, features = networks.generate, networks.features
    optimizer = optax.adam(learning_rate)
    observed = features(y)

    def compose(z):
        return jnp.where(mask > 0, generate(z), y)

    def cost(z):
        x = compose(z)
        residual, mismatch = jnp.abs(y - x).sum(), jnp.abs(observed - features(x)).sum()
        return (1 - feature_weight) * residual + feature_weight * mismatch, (residual, mismatch, x)

    def step(i, state: State) -> State:
        gradient, (residual, mismatch, x) = jax.grad(cost, has_aux=True)(state.z)
        update, optimizer_state = optimizer.update(gradient, state.optimizer, state.z)
        trace = Trace(
            state.trace.residual.at[i].set(residual),
            state.trace.features.at[i].set(mismatch),
            state.trace.change.at[i].set(jnp.abs(x - state.x).sum() / jnp.maximum(mask.sum(), 1.0)),
        )
        return State(state.z + update, x, optimizer_state, trace)

    z = jax.random.normal(key, (latent_size,), y.dtype)
    empty = jnp.zeros(iterations, y.dtype)
    final = jax.lax.fori_loop(0, iterations, step, State(z, y, optimizer.init(z), Trace(empty, empty, empty)))
    return compose(final.z), final.trace
