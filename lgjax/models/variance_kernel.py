"""The convolutions of the variance network as one kernel for NVIDIA GPUs: nothing between image and output is stored.

A program of the kernel takes a strip of columns down its rows, one row of every layer a step. Column c of a strip is
lane c // PHASES of the array of phase c % PHASES: so a column's neighbours are in the same lane of other phases, and
only at the ends of the phases one lane away. A product with a matrix of zeros and ones moves an array by one lane,
exactly, since Triton cannot slice what is in registers. Of a layer, two rows of unfinished sums are kept.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

LANES, PHASES, ROWS, WARPS = 32, 4, 16, 2  # of a program; chosen by registers and instructions that compile, see docs
COLUMNS = LANES * PHASES
SLOPE = 0.2  # of blocks.activation
TAPS = 3
PLACES = tuple(itertools.product(range(TAPS), range(TAPS)))  # of a kernel's taps

Layers = Sequence[tuple[jax.Array, jax.Array]]  # kernel, [3, 3, C, features], and bias of each convolution; C = 1 first


def output(layers: Layers, x: jax.Array, interpret: bool = False) -> jax.Array:
    """Convolves images, [N, H, W, 1], layer by layer with LeakyReLU between, to one feature, [N, H, W, 1], float32.

    Products of hidden layers are of the kernels' type, or TensorFloat-32 where that is float32; sums are float32.

    Args:
      layers: of 3x3 convolutions with zeros beyond the image; the last has one feature.
      x: images, of any height and width.
      interpret: whether to compute as the kernel does, but on any device, slowly.
    """
    return jax.vmap(lambda one: _convolve(layers, one[..., 0], interpret)[..., None])(x)


def _convolve(layers: Layers, x: jax.Array, interpret: bool) -> jax.Array:
    """Convolves one image, [H, W]."""
    height, width = x.shape
    halo = 0 if width <= COLUMNS else len(layers)  # columns at both ends of a strip that are not its own
    own = COLUMNS - 2 * halo
    strips, segments = pl.cdiv(width, own), pl.cdiv(height, ROWS)
    y = pl.pallas_call(
        functools.partial(_kernel, height=height, width=width, halo=halo, strips=strips),
        out_shape=jax.ShapeDtypeStruct((segments * ROWS, strips * COLUMNS), jnp.float32),
        grid=(strips * segments,),
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="variance_network",
    )(x, *(array for layer in layers for array in layer))
    y = y.reshape(-1, strips, COLUMNS)[:, :, halo : halo + own]
    return y.reshape(-1, strips * own)[:height, :width]


def _kernel(x, *refs, height: int, width: int, halo: int, strips: int) -> None:
    """Computes ROWS rows of a strip; step t takes layer l at row start - last + t - l, with row start the first."""
    *parameters, out = refs
    kernels, biases = _padded(parameters[::2], parameters[1::2])
    strip, start = pl.program_id(0) % strips, pl.program_id(0) // strips * ROWS
    lane, last = jax.lax.iota(jnp.int32, LANES), len(kernels) - 1
    place = PHASES * lane - halo + strip * (COLUMNS - 2 * halo)
    columns = [place + phase for phase in range(-1, PHASES + 1)]
    read = functools.partial(_read, x, height=height, width=width)
    beside = _beside(kernels[-1][0].dtype)

    def step(t, sums):
        row, kept = start - last + t, []
        y = _first([[read(row + i - 1, column) for column in columns] for i in range(TAPS)], kernels[0])
        for layer in range(last):
            at = row - layer
            real = [(at >= 0) & (at < height) & (column >= 0) & (column < width) for column in columns[1:-1]]
            seen = beside([_activation(one + biases[layer], inside) for one, inside in zip(y, real, strict=True)])
            y, rest = _add(seen, kernels[layer + 1], sums[layer])
            kept.append(rest)
        for phase, one in enumerate(y):  # rows before the first are overwritten
            place = strip * COLUMNS + PHASES * lane + phase
            triton.store(out.at[jnp.maximum(row - last, start), place], jnp.sum(one + biases[-1], axis=1))
        return kept

    zeros = [[(jnp.zeros((LANES, bias.size), jnp.float32),) * 2] * PHASES for bias in biases[1:]]
    jax.lax.fori_loop(0, ROWS + 2 * last, step, zeros)


def _padded(kernels, biases) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """Reads kernels, each tap [C, features], and biases, [1, features], with zeros up to full tiles.

    An activation of padding is LeakyReLU(0) = 0, and its kernel is zero, so that padding adds nothing.
    """
    tile = 32 // kernels[-1].dtype.itemsize  # channels of a tensor core's product
    sizes = [max(tile, pl.next_power_of_2(ref.shape[3])) for ref in kernels[:-1]] + [8]
    taps = [[_entries(kernels[0], (*place, 0), (sizes[0],)).astype(jnp.float32)[None] for place in PLACES]]
    for ref, size in zip(kernels[1:], itertools.pairwise(sizes), strict=True):
        taps.append([_entries(ref, place, size) for place in PLACES])
    return taps, [_entries(ref, (), (size,))[None] for ref, size in zip(biases, sizes, strict=True)]


def _entries(ref, at: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """Reads what lies at the first indices of an array, padded with zeros to a shape."""
    places = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(len(shape))]
    ends = ref.shape[len(at) :]
    real = functools.reduce(jnp.logical_and, [place < end for place, end in zip(places, ends, strict=True)])
    inside = (jnp.minimum(place, end - 1) for place, end in zip(places, ends, strict=True))
    return jnp.where(real, ref[(*at, *inside)], 0)


def _read(x, row, column, *, height: int, width: int) -> jax.Array:
    """Reads pixels of a row, [LANES], zeros beyond the image."""
    real = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return jnp.where(real, x[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)], 0.0)


def _first(pixels, kernels) -> list[jax.Array]:
    """Convolves three rows of pixels by multiplication, a row to [LANES, features] for each phase."""
    return [
        sum(pixels[i][phase + j][:, None] * tap for (i, j), tap in zip(PLACES, kernels, strict=True))
        for phase in range(PHASES)
    ]


def _activation(y: jax.Array, real: jax.Array) -> jax.Array:
    """Applies LeakyReLU, zero beyond the image, as the next convolution pads."""
    return jnp.where(real[:, None], jnp.maximum(y, SLOPE * y), 0.0)


def _beside(dtype) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Returns what adds to the phases of a row, cast, the columns to the left of the first and right of the last."""
    here, there = (jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1))
    left, right = ((there == here + step).astype(dtype) for step in (-1, 1))

    def beside(row: list[jax.Array]) -> list[jax.Array]:
        row = [one.astype(dtype) for one in row]
        return [_product(left, row[-1]).astype(dtype), *row, _product(right, row[0]).astype(dtype)]

    return beside


def _add(seen, kernels, sums):
    """Adds a row's part to the three rows of sums that see the row: -> the first, which is whole now, and the rest."""
    whole, rest = [], []
    for phase, (above, same) in enumerate(sums):
        rows = [jnp.zeros_like(same), same, above]  # by row of the kernel: the first row of a kernel sees the row above
        for (i, j), tap in zip(PLACES, kernels, strict=True):
            rows[i] += _product(seen[phase + j], tap)
        whole.append(rows[2])
        rest.append((rows[1], rows[0]))
    return whole, rest


_product = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
