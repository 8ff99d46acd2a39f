"""BatchNorm in training: Flax's on a CPU, and the same function in fewer kernels where each of them is a launch."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import convolutions


class BatchNorm(nn.BatchNorm):
    """Normalises the last axis as Flax does, with the same parameters and running statistics.

    In training, gradients come from two sums over all pixels, and not from five as by differentiation of the formula:
    on a GPU, a sum over many pixels is up to three kernels, and two sums at once are two.
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, use_running_average: bool, offset: jax.Array | None = None
    ) -> jax.Array:
        """Returns x, [..., C], normalised; by statistics of x itself unless running ones are used.

        Args:
          x: to be normalised.
          use_running_average: whether running statistics are used.
          offset: what x lacks of the mean that is to be kept, [C]; in training, where normalisation takes it away.
        """
        if use_running_average or not convolutions.launches():
            return super().__call__(x, use_running_average)
        shape = x.shape[-1:]
        kept = [self.variable("batch_stats", name, make, shape) for name, make in _STATISTICS.items()]
        scale, bias = self.param("scale", self.scale_init, shape), self.param("bias", self.bias_init, shape)
        y, mean, variance = normalised(x, scale, bias, self.epsilon)
        for statistic, now in zip(kept, (mean if offset is None else mean + offset, variance), strict=True):
            if not self.is_initializing():
                statistic.value = self.momentum * statistic.value + (1 - self.momentum) * now
        return y


_STATISTICS = {"mean": jnp.zeros, "var": jnp.ones}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises x to the mean `bias` and the standard deviation `scale` of every feature (Ioffe and Szegedy 2015).

    Args:
      x: [..., C].
      scale, bias: [C].
      epsilon: added to the variance.

    Returns:
      (x - mean) / sqrt(variance + epsilon) * scale + bias, shaped as x, in float32 at least, and the statistics of x,
      each [C], through which no gradient flows.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, square = _means(exact, exact**2)
    variance = jnp.maximum(square - mean**2, 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    scale, bias = jnp.expand_dims(scale, _pixels(x)), jnp.expand_dims(bias, _pixels(x))
    y = (exact - mean) * (inverse * scale) + bias
    return (y, mean.ravel(), variance.ravel()), (x, scale, mean, inverse)


def _backward(epsilon, saved, given):
    """Returns the gradients: what moves all pixels alike, or stretches them, normalisation takes away again."""
    x, scale, mean, inverse = saved
    slope, pixels = given[0], math.prod(x.shape[:-1])
    standard = (x - mean) * inverse
    shift, stretch = _means(slope, slope * standard)
    moved = (slope - shift - stretch * standard) * (inverse * scale)
    return moved.astype(x.dtype), (pixels * stretch).ravel(), (pixels * shift).ravel()


normalised.defvjp(_forward, _backward)


def _means(*arrays: jax.Array) -> list[jax.Array]:
    """Returns the mean of every feature of arrays of one shape, [1, ..., 1, C], in one reduction."""
    axes, zeros = _pixels(arrays[0]), [jnp.zeros((), array.dtype) for array in arrays]
    sums = jax.lax.reduce(list(arrays), zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], axes)
    return [jnp.expand_dims(total, axes) / math.prod(arrays[0].shape[:-1]) for total in sums]


def _pixels(x: jax.Array) -> tuple[int, ...]:
    """Returns all axes but the last."""
    return tuple(range(x.ndim - 1))
