"""Layers of 3x3 convolutions in one kernel for NVIDIA GPUs, in Pallas on Triton: no layer between is stored.

A program of a kernel takes a strip of columns down its rows. Column c of a strip is lane c // PHASES of the array of
phase c % PHASES: so a column's neighbours are in the same lane of other phases, and only at the ends of the phases one
lane away. A product with a matrix of zeros and ones moves an array by one lane, exactly, since Triton cannot slice what
is in registers. Of a layer, two rows of unfinished sums are kept. Products are of the kernels' type, or TensorFloat-32
where that is float32; sums are float32.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

LANES, PHASES, ROWS, WARPS = 32, 4, 16, 2  # of a program; chosen by registers and instructions that compile, see docs
COLUMNS = LANES * PHASES
SLOPE = 0.2  # of blocks.activation
TAPS = 3
PLACES = tuple(itertools.product(range(TAPS), range(TAPS)))  # of a kernel's taps
LEAST = 8  # features that a product gives

product = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


class Place(NamedTuple):
    """Where a program is."""

    start: jax.Array  # its first row
    column: jax.Array  # of each lane's first phase, in the image, [LANES]
    written: jax.Array  # the same in what programs write, halos included

    def store(self, out, row, phases: list[jax.Array]) -> None:
        """Writes the first feature of a row; rows before the program's first are overwritten by it, later."""
        for phase, y in enumerate(phases):
            triton.store(out.at[jnp.maximum(row, self.start), self.written + phase], jnp.sum(y, axis=1))


class Grid(NamedTuple):
    """How the programs of a kernel share out an image of one feature, [height, width]."""

    height: int
    width: int
    halo: int  # columns at both ends of a strip that are not its own

    @classmethod
    def of(cls, height: int, width: int, halo: int) -> "Grid":
        """Lays out programs; one strip needs no halo, since beyond its ends all is zero."""
        return cls(height, width, 0 if width <= COLUMNS else halo)

    @property
    def own(self) -> int:
        """Columns that are a strip's own."""
        return COLUMNS - 2 * self.halo

    @property
    def shape(self) -> tuple[int, int]:
        """Strips beside each other, and programs down each."""
        return pl.cdiv(self.width, self.own), pl.cdiv(self.height, ROWS)

    def call(self, kernel: Callable[..., None], name: str, inputs: Sequence[jax.Array], interpret: bool) -> jax.Array:
        """Computes the image by a kernel of (grid, *inputs, output), whose programs `store` their rows."""
        strips, segments = self.shape
        y = pl.pallas_call(
            functools.partial(kernel, self),
            out_shape=jax.ShapeDtypeStruct((segments * ROWS, strips * COLUMNS), jnp.float32),
            grid=(strips * segments,),
            compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
            interpret=interpret,
            name=name,
        )(*inputs)
        y = y.reshape(-1, strips, COLUMNS)[:, :, self.halo : self.halo + self.own]
        return y.reshape(-1, strips * self.own)[: self.height, : self.width]

    def place(self) -> "Place":
        """Returns this program's place."""
        strip, segment = pl.program_id(0) % self.shape[0], pl.program_id(0) // self.shape[0]
        lanes = PHASES * jax.lax.iota(jnp.int32, LANES)
        return Place(segment * ROWS, lanes + strip * self.own - self.halo, lanes + strip * COLUMNS)

    def real(self, row, column) -> jax.Array:
        """Returns which pixels are of the image, [LANES]."""
        return (row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)

    def activation(self, phases: list[jax.Array], row, column) -> list[jax.Array]:
        """Applies LeakyReLU to a row of each phase, zero beyond the image, as the next convolution pads."""
        real = [self.real(row, column + phase)[:, None] for phase in range(PHASES)]
        return [jnp.where(inside, jnp.maximum(y, SLOPE * y), 0.0) for y, inside in zip(phases, real, strict=True)]


def padded(features: int, dtype) -> int:
    """Returns the features of a hidden layer with those that fill up a tile of a tensor core's product.

    An activation of padding is LeakyReLU(0) = 0, and its kernel is zero, so that padding adds nothing.
    """
    return max(32 // dtype.itemsize, pl.next_power_of_2(features))


def entries(ref, at: tuple[int, ...], shape: tuple[int, ...], begin: int = 0, count: int | None = None) -> jax.Array:
    """Reads what lies at the first indices of an array, padded with zeros to a shape.

    Args:
      ref: the array.
      at: the first indices.
      shape: of the result: the axes that are left.
      begin, count: the part of the last axis that is read; None: all that follows.
    """
    places = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(len(shape))]
    ends = [*ref.shape[len(at) : -1], ref.shape[-1] - begin if count is None else count]
    real = functools.reduce(jnp.logical_and, [place < end for place, end in zip(places, ends, strict=True)])
    *inside, last = (jnp.minimum(place, end - 1) for place, end in zip(places, ends, strict=True))
    return jnp.where(real, ref[(*at, *inside, last + begin)], 0)


def beside(dtype) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Returns what adds to the phases of a row, cast, the columns to the left of the first and right of the last."""
    here, there = (jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1))
    left, right = ((there == here + step).astype(dtype) for step in (-1, 1))

    def widened(row: list[jax.Array]) -> list[jax.Array]:
        row = [one.astype(dtype) for one in row]
        return [product(left, row[-1]).astype(dtype), *row, product(right, row[0]).astype(dtype)]

    return widened


def zeros(features: int) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the sums of a layer before any row, for each phase."""
    return [(jnp.zeros((LANES, features), jnp.float32),) * 2] * PHASES


def add(seen: list[jax.Array], kernel: list[jax.Array], sums):
    """Adds a row's part to the three rows of sums that see the row: -> the first, which is whole now, and the rest.

    Args:
      seen: the row, as `beside` gives it.
      kernel: its taps, each [C, features].
      sums: of each phase, of the row above and of the same row.
    """
    whole, rest = [], []
    for phase, (above, same) in enumerate(sums):
        rows = [jnp.zeros_like(same), same, above]  # by row of the kernel: the first row of a kernel sees the row above
        for (i, j), tap in zip(PLACES, kernel, strict=True):
            rows[i] += product(seen[phase + j], tap)
        whole.append(rows[2])
        rest.append((rows[1], rows[0]))
    return whole, rest
