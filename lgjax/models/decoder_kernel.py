"""The last block of a decoder and the convolution behind it as one kernel for NVIDIA GPUs, see `strips`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models import strips
from lgjax.models.strips import LANES, PHASES, PLACES, ROWS

PIXELS = 2  # that each pixel becomes, in rows and in columns


class Layer(NamedTuple):
    """A convolution."""

    kernel: jax.Array  # [3, 3, C, features]
    bias: jax.Array  # [features]


def output(merged: Layer, second: Layer, last: Layer, x: jax.Array, interpret: bool = False) -> jax.Array:
    """Upsamples images, [N, h, w, C], by a residual block and convolves to one feature, [N, 2h, 2w, 1], float32.

    Args:
      merged: of the block, as `blocks.merge` gives it: four new pixels' features, then the skip's.
      second: of the block.
      last: to one feature.
      x: what the block sees.
      interpret: whether to compute as the kernel does, but on any device, slowly.
    """
    grid = strips.Grid.of(PIXELS * x.shape[1], PIXELS * x.shape[2], halo=2)  # two layers see the columns beside
    parameters = (*merged, *second, *last)
    return jax.vmap(lambda one: grid.call(_kernel, "decoder_end", (one, *parameters), interpret)[..., None])(x)


def _kernel(grid: strips.Grid, x, kernel, bias, kernel_2, bias_2, kernel_3, bias_3, out) -> None:
    """Computes the rows of a strip, two a step; the second convolution is one row behind, the last one two."""
    dtype, features = kernel.dtype, bias_2.shape[0]
    channels, size = strips.padded(kernel.shape[2], dtype), strips.padded(features, dtype)
    parts = [number * features for number in range(PIXELS**2 + 1)]  # of the new pixels' features, and of the skip's
    new = [
        {at: strips.entries(kernel, at, (channels, size), part, features) for at in _seen(*pixel)}
        for pixel, part in zip(np.ndindex(PIXELS, PIXELS), parts, strict=False)
    ]
    skip = strips.entries(kernel, (1, 1), (channels, size), parts[-1], features)
    second = [strips.entries(kernel_2, place, (size, size)) for place in PLACES]
    last = [strips.entries(kernel_3, place, (size, strips.LEAST)) for place in PLACES]
    first_bias, skip_bias = (strips.entries(bias, (), (size,), part, features)[None] for part in (0, parts[-1]))
    second_bias = strips.entries(bias_2, (), (size,))[None] + skip_bias
    last_bias = strips.entries(bias_3, (), (strips.LEAST,))[None]
    place, widened = grid.place(), strips.beside(dtype)
    start, column = place.start, place.column

    def step(t, sums):
        low = (start >> 1) - 1 + t
        read = [_read(x, low + i, (column >> 1) - 1, channels, dtype) for i in (-1, 0, 1)]
        for a in range(PIXELS):
            row = PIXELS * low + a
            y = [_pixel(read, new[PIXELS * a + phase % PIXELS], phase // PIXELS) for phase in range(PHASES)]
            y = grid.activation([one + first_bias for one in y], row, column)
            y, of_second = strips.add(widened(y), second, sums[0])
            y = [one + strips.product(read[a][phase // PIXELS + 1], skip) for phase, one in enumerate(y)]
            y = grid.activation([one + second_bias for one in y], row - 1, column)
            y, of_last = strips.add(widened(y), last, sums[1])
            place.store(out, row - 2, [one + last_bias for one in y])
            sums = [of_second, of_last]
        return sums

    jax.lax.fori_loop(0, ROWS // PIXELS + 2, step, [strips.zeros(size), strips.zeros(strips.LEAST)])


def _seen(a: int, b: int) -> list[tuple[int, int]]:
    """Returns the taps that are not zero, of the 3x3 kernel of the new pixel in row a and column b."""
    return [(a + i, b + j) for i, j in np.ndindex(PIXELS, PIXELS)]


def _read(x, row, column, channels: int, dtype) -> list[jax.Array]:
    """Reads four neighbouring pixels for every lane, each [LANES, channels], zeros beyond the image."""
    height, width, count = x.shape
    at = jax.lax.broadcasted_iota(jnp.int32, (LANES, channels), 1)
    found = []
    for place in (column[:, None] + step for step in range(PHASES)):
        real = (row >= 0) & (row < height) & (place >= 0) & (place < width) & (at < count)
        inside = jnp.clip(row, 0, height - 1), jnp.clip(place, 0, width - 1), jnp.minimum(at, count - 1)
        found.append(jnp.where(real, x[inside], 0).astype(dtype))
    return found


def _pixel(read: list[list[jax.Array]], taps: dict[tuple[int, int], jax.Array], offset: int) -> jax.Array:
    """Convolves what was read, from some pixel on, to a new pixel."""
    return functools.reduce(jnp.add, [strips.product(read[i][offset + j], tap) for (i, j), tap in taps.items()])
