"""The convolutions of the variance network as one kernel for NVIDIA GPUs, see `strips`."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lgjax.models import strips
from lgjax.models.strips import PHASES, PLACES, TAPS

Layers = Sequence[tuple[jax.Array, jax.Array]]  # kernel, [3, 3, C, features], and bias of each convolution; C = 1 first


def output(layers: Layers, x: jax.Array, interpret: bool = False) -> jax.Array:
    """Convolves images, [N, H, W, 1], layer by layer with LeakyReLU between, to one feature, [N, H, W, 1], float32.

    Args:
      layers: of 3x3 convolutions with zeros beyond the image; the last has one feature.
      x: images, of any height and width.
      interpret: whether to compute as the kernel does, but on any device, slowly.
    """
    grid = strips.Grid.of(x.shape[1], x.shape[2], halo=len(layers))
    parameters = [array for layer in layers for array in layer]
    name = "variance_network"
    return jax.vmap(lambda one: grid.call(_kernel, name, (one[..., 0], *parameters), interpret)[..., None])(x)


def _kernel(grid: strips.Grid, x, *refs) -> None:
    """Computes the rows of a strip; step t takes layer l at row start - last + t - l, with row start the first."""
    *parameters, out = refs
    kernels, biases = _padded(parameters[::2], parameters[1::2])
    place, last = grid.place(), len(kernels) - 1
    widened = strips.beside(kernels[-1][0].dtype)

    def step(t, sums):
        row, kept = place.start - last + t, []
        y = _first([_read(grid, x, row + i, place.column) for i in (-1, 0, 1)], kernels[0])
        for layer in range(last):
            seen = widened(grid.activation([one + biases[layer] for one in y], row - layer, place.column))
            y, rest = strips.add(seen, kernels[layer + 1], sums[layer])
            kept.append(rest)
        place.store(out, row - last, [one + biases[-1] for one in y])
        return kept

    jax.lax.fori_loop(0, strips.ROWS + 2 * last, step, [strips.zeros(bias.size) for bias in biases[1:]])


def _padded(kernels, biases) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """Reads kernels, each tap [C, features], and biases, [1, features], with zeros up to full tiles."""
    sizes = [strips.padded(ref.shape[3], kernels[-1].dtype) for ref in kernels[:-1]] + [strips.LEAST]
    taps = [[strips.entries(kernels[0], (*place, 0), (sizes[0],)).astype(jnp.float32)[None] for place in PLACES]]
    for ref, size in zip(kernels[1:], itertools.pairwise(sizes), strict=True):
        taps.append([strips.entries(ref, place, size) for place in PLACES])
    return taps, [strips.entries(ref, (), (size,))[None] for ref, size in zip(biases, sizes, strict=True)]


def _read(grid: strips.Grid, x, row, column) -> list[jax.Array]:
    """Reads the pixels of a row, from the left of the first phase to the right of the last, zeros beyond the image."""
    columns = [column + phase for phase in range(-1, PHASES + 1)]
    row_inside = jnp.clip(row, 0, grid.height - 1)
    return [jnp.where(grid.real(row, one), x[row_inside, jnp.clip(one, 0, grid.width - 1)], 0.0) for one in columns]


def _first(pixels: list[list[jax.Array]], kernel: list[jax.Array]) -> list[jax.Array]:
    """Convolves three rows of pixels by multiplication, a row to [LANES, features] for each phase."""

    def terms(phase):
        return [pixels[i][phase + j][:, None] * kernel[TAPS * i + j] for i, j in PLACES]

    return [functools.reduce(jnp.add, terms(phase)) for phase in range(PHASES)]
