"""A restorer: a U-Net that takes synthetic anomalies out of healthy slices, and says how far it may miss.

The network learns E[X | corrupted X], so that near an image mu_local(X) = D(X) (docs/method.md, "A restorer"). The
network is not told how strong a corruption is: a healthy slice is to stay as it is.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import anomalies, convolutions, dae, variance
from lgjax.models.base import BoundModel, Model
from lgjax.models.precision import cast

SUPPORTS = ("reconstruction", "lg_neural")


class Restorer(nn.Module):
    """U-Net with two outputs: the healthy slice, and the log variance of what the slice misses.

    No gradient of the variance reaches the U-Net.
    """

    channels: Sequence[int]  # see `dae.UNet`
    normalise: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Maps slices, [N, H, W, 1], to restored slices and log variances, each [N, H, W, 1]."""
        found = dae.UNet(self.channels, self.normalise, features=True, name="trunk")(x, train)
        restored = x + convolutions.Conv(1, (1, 1), name="change")(found)
        spread = convolutions.Conv(1, (1, 1), name="log_variance")(jax.lax.stop_gradient(found))
        return restored, variance.Bounded(variance.up_to_the_mean, self.normalise, name="range")(spread, train, mask)


def correlation(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns Pearson's correlation of two images inside the mask, all of one shape: blind to scale and offset."""
    count = jnp.maximum(mask.sum(), 1.0)
    x, y = ((part - (part * mask).sum() / count) * mask for part in (x, y))
    return (x * y).sum() / jnp.sqrt((x**2).sum() * (y**2).sum())


def model(
    *,
    height: int,
    width: int,
    channels: tuple[int, ...],
    variance_floor: float,
    saturation: tuple[float, float] | tuple[()],
    precision: str,
) -> Model:
    """Makes the restorer; its loss is the mean squared plus the mean absolute error inside brains that it restored.

    Args:
      height, width: of a slice, in pixels.
      channels: of the U-Net, from full resolution down.
      variance_floor: squared standard deviations of the brain, added to every variance.
      saturation: what slices are clipped to, in standard deviations; (): nothing.
      precision: of the network, see `precision`.
    """
    network, folded = Restorer(channels), Restorer(channels, normalise=False)

    def saturate(x):
        return jnp.clip(x, *saturation) if saturation else x

    def init(key):
        return dict(network.init(key, jnp.zeros((1, height, width, 1))))

    def with_cast(variables):
        return {**variables, "params": cast(variables["params"], precision)}

    def loss(variables, x, mask, key, train=True):
        x = saturate(x)  # again, since training may have changed the contrast
        keys = jax.random.split(key, len(x))
        seen = saturate(jax.vmap(anomalies.corrupt)(keys, x, jnp.roll(x, 1, axis=0), mask))
        (restored, spread), updates = network.apply(with_cast(variables), seen, train, mask, mutable=["batch_stats"])
        residual, count = (x - restored) * mask, jnp.maximum(mask.sum(), 1.0)
        sigma2 = jnp.exp(spread) + variance_floor
        unlikely = variance.negative_log_likelihood(jax.lax.stop_gradient(residual), sigma2)
        terms = {
            "squared": (residual**2).sum() / count,
            "absolute": jnp.abs(residual).sum() / count,
            "variance": (unlikely * mask).sum() / count,
        }
        terms["loss"] = terms["squared"] + terms["absolute"]
        return terms["loss"] + terms["variance"], (updates["batch_stats"], terms)

    def judge(variables, observed, healthy, mask):
        restored, _ = network.apply(with_cast(variables), observed, False)
        return {"restoration": 1 - correlation(observed - restored, observed - healthy, mask)}

    def bind(params):
        params = cast(params, precision)

        def apply(x):
            found: Any = folded.apply({"params": params}, x[None])
            restored, spread = found
            return restored[0], jnp.exp(spread[0]) + variance_floor

        return BoundModel(
            reconstruct=lambda x: apply(x)[0],
            samples=lambda x, key, count: jnp.broadcast_to(apply(x)[0], (count, *x.shape)),
            variance=lambda x: apply(x)[1],
        )

    return Model(init, loss, bind, SUPPORTS, "restoration", judge)
