"""The best rates that a device reaches, in products of matrices and in memory, and the least time that work then takes.

The floor of a program is max(operations / peak rate, bytes / peak bandwidth); both peaks are measured here, on the
device that the program runs on.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models import precision as precisions
from lgjax.runtime.devices import batch_sharding
from lgjax.speed import times
from lgjax.speed.counts import Count

PRODUCTS, SUMS = 4, 16  # in a run, so that starting it does not count
PRODUCT_SECONDS = 0.3  # no larger matrices are tried once a run takes longer
TRIES = 2  # runs of each kind in a turn
SUM = "float32 sum a + b -> a"


class Peaks(NamedTuple):
    """The best rates that were measured on all devices together."""

    flops: float  # per second
    bytes: float  # per second
    samples: dict[str, list[float]]  # all tries, per second, by what was run


class Floor(NamedTuple):
    """The least seconds that the operations and the bytes of a program need."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """Both at the same time: the larger one."""
        return max(self.compute, self.memory)


def floor(work: Count, peaks: Peaks) -> Floor:
    """Returns the least time that some work takes a device."""
    return Floor(work.flops / peaks.flops, work.bytes / peaks.bytes)


class Trial(NamedTuple):
    """Something that a device does at its best rate."""

    name: str
    work: float  # of a run: operations, or bytes read and written
    run: Callable[[], Any]  # compiled


class Rates:
    """The rates of matrix products of some sizes and of a sum of two large arrays, by programs compiled once."""

    def __init__(self, mesh: jax.sharding.Mesh, precision: str, sizes: Sequence[int], length: int):
        """Compiles the programs and runs each of them.

        Args:
          mesh: all its devices work at the same time.
          precision: of the products, see `models.precision`.
          sizes: rows of the square matrices, ascending; large ones are left out where they take long.
          length: elements of each array, on each device; more than a cache holds.
        """
        self.products = _quick(_product(mesh, precision, n) for n in sizes)
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        self.sum = _host_sum(length) if on_cpu else _sum(mesh, length)
        times.seconds(self.sum.run)
        self.samples: dict[str, list[float]] = {trial.name: [] for trial in (*self.products, self.sum)}

    def sample(self) -> None:
        """Times some runs of every program."""
        for trial in (*self.products, self.sum):
            self.samples[trial.name] += [trial.work / times.seconds(trial.run) for _ in range(TRIES)]

    def peaks(self) -> Peaks:
        """Returns the best rates of all runs that were timed."""
        flops = max(rate for trial in self.products for rate in self.samples[trial.name])
        return Peaks(flops, max(self.samples[self.sum.name]), self.samples)


def _quick(trials: Iterable[Trial]) -> list[Trial]:
    """Runs trials until one takes long; returns them, that one included."""
    found = []
    for trial in trials:
        found.append(trial)
        times.seconds(trial.run)  # which may load a library
        if times.seconds(trial.run) > PRODUCT_SECONDS:
            break
    return found


def _product(mesh: jax.sharding.Mesh, precision: str, n: int) -> Trial:
    """Multiplies n x n matrices PRODUCTS times, one pair on each device, one product after the other."""
    split, shape = batch_sharding(mesh), (mesh.size, n, n)
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    draw = jax.jit(lambda key: (jax.random.normal(key, shape) / n**0.5).astype(dtype), out_shardings=split)
    w = draw(jax.random.key(0))  # of which products neither grow nor vanish
    multiply = jax.jit(lambda x, w: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ w, x), out_shardings=split)
    with precisions.matmul_precision(precision):
        program = multiply.lower(w, w).compile()
    return Trial(f"{precision} matrix product {n}", PRODUCTS * mesh.size * 2 * n**3, lambda: program(w, w))


def _sum(mesh: jax.sharding.Mesh, length: int) -> Trial:
    """Adds b to a SUMS times on each device, arrays too large for a cache."""
    split = batch_sharding(mesh)
    ones = jax.jit(lambda: jnp.ones((mesh.size, length), jnp.float32), out_shardings=split)
    a, b = ones(), ones()
    add = jax.jit(lambda a, b: jax.lax.fori_loop(0, SUMS, lambda _, a: a + b, a), donate_argnums=0, out_shardings=split)
    program = add.lower(a, b).compile()

    def run():
        nonlocal a
        a = program(a, b)
        return a

    return Trial(SUM, SUMS * mesh.size * 3 * 4 * length, run)


def _host_sum(length: int) -> Trial:
    """Does the same on CPU by NumPy, split over the cores: XLA's sum keeps to one of them."""
    cores = os.cpu_count() or 1
    parts = [np.ones((2, n), np.float32) for n in np.diff(np.linspace(0, length, cores + 1).astype(int))]
    pool = ThreadPoolExecutor(cores)

    def add(part: np.ndarray) -> None:
        for _ in range(SUMS):
            np.add(part[0], part[1], out=part[0])

    return Trial(SUM, SUMS * 3 * 4 * length, lambda: list(pool.map(add, parts)))
