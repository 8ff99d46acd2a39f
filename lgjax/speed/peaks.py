"""What times mean: seconds per iteration from whole runs, the peak rates of a device, the least time a program needs.

The floor of a program is max(operations / peak rate, bytes / peak bandwidth); both peaks are measured here, on the
device that the program runs on.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models import precision as precisions
from lgjax.runtime.devices import batch_sharding
from lgjax.speed.counts import Count

PRODUCTS, SUMS = 4, 16  # in a run, so that starting it does not count
PRODUCT_SECONDS = 0.3  # no larger matrices are tried once a run takes longer


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float


class Runs(NamedTuple):
    """Repeated runs of a program that iterates."""

    iterations: int  # in each run
    seconds: list[float]  # of each run


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


def spread(samples: Sequence[float]) -> Spread:
    """Returns median and quartiles, interpolated linearly."""
    lower, median, upper = (float(value) for value in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Spread(median, lower, upper)


def per_iteration(short: Runs, long: Runs) -> list[float]:
    """Returns the seconds per iteration of each pair of runs: the slope between the runs.

    In the slope, all that a run does once cancels. Noise can make the slope negative where the difference is short.
    """
    pairs = zip(short.seconds, long.seconds, strict=True)
    return [(b - a) / (long.iterations - short.iterations) for a, b in pairs]


def run_seconds(long: Runs, slope: float, iterations: int) -> float:
    """Predicts the seconds of a run of any number of iterations, from the median of `long` and the slope in seconds."""
    return float(np.median(long.seconds)) + (iterations - long.iterations) * slope


def count_for(target: float, seconds: float, least: int, most: int) -> int:
    """Returns how many iterations of `seconds` fill `target` seconds, within limits; `least` is the stronger one."""
    return max(least, min(most, round(target / seconds)))


def floor(work: Count, peaks: Peaks) -> Floor:
    """Returns the least time that some work takes a device."""
    return Floor(work.flops / peaks.flops, work.bytes / peaks.bytes)


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Divides two numbers; None where one of them is unknown, or the denominator is no time."""
    return None if numerator is None or denominator is None or denominator <= 0 else numerator / denominator


def memory(compiled: Any) -> int | None:
    """Returns a compiled program's bytes on each device: arguments, results and what lies between; None if unknown."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    shared = found.alias_size_in_bytes  # by an argument and a result
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - shared


def peak_memory(mesh: jax.sharding.Mesh) -> int | None:
    """Returns the most bytes that this process has held on one device so far; None where devices do not count (CPU)."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in mesh.local_devices]
    return max((value for value in found if value is not None), default=None)


def seconds(run: Callable[[], Any]) -> float:
    """Measures the wall time in seconds until the arrays that `run` returns are computed."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def measure_peaks(mesh: jax.sharding.Mesh, precision: str, sizes: Sequence[int], length: int, tries: int = 2) -> Peaks:
    """Measures the rate of matrix products, the best over some sizes, and the bandwidth of a sum of two large arrays.

    Args:
      mesh: all its devices work at the same time.
      precision: of the products, see `models.precision`.
      sizes: rows of the square matrices, ascending; large ones are left out where they take long.
      length: elements of each array, on each device; more than a cache holds.
      tries: runs of each kind; the best one counts.
    """
    products: dict[str, list[float]] = {}
    for n in sizes:
        with precisions.matmul_precision(precision):
            taken = _product_seconds(mesh, "bfloat16" if precision == "bfloat16" else "float32", n, tries)
        products[f"{precision} matrix product {n}"] = [PRODUCTS * mesh.size * 2 * n**3 / t for t in taken]
        if min(taken) > PRODUCT_SECONDS:
            break
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    sums = _host_sum_rates(length, tries) if on_cpu else _sum_rates(mesh, length, tries)
    fastest = max(max(rates) for rates in products.values())
    return Peaks(fastest, max(sums), {**products, "float32 sum a + b -> a": sums})


def best(found: Sequence[Peaks]) -> Peaks:
    """Returns the peaks of several measurements on the same device, with the samples of all."""
    samples: dict[str, list[float]] = {}
    for name, rates in (item for peaks in found for item in peaks.samples.items()):
        samples.setdefault(name, []).extend(rates)
    return Peaks(max(peaks.flops for peaks in found), max(peaks.bytes for peaks in found), samples)


def _product_seconds(mesh: jax.sharding.Mesh, dtype: str, n: int, tries: int) -> list[float]:
    """Times PRODUCTS products of n x n matrices, one pair on each device, one product after the other, in seconds."""
    split = batch_sharding(mesh)
    shape = (mesh.size, n, n)
    draw = jax.jit(lambda key: (jax.random.normal(key, shape) / n**0.5).astype(dtype), out_shardings=split)
    w = draw(jax.random.key(0))  # of which products neither grow nor vanish
    run = jax.jit(lambda x, w: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ w, x), out_shardings=split)
    return _timed(lambda: run(w, w), tries)


def _sum_rates(mesh: jax.sharding.Mesh, length: int, tries: int) -> list[float]:
    """Measures the bytes per second of SUMS sums a + b -> a of arrays on each device, too large for a cache."""
    split = batch_sharding(mesh)
    ones = jax.jit(lambda: jnp.ones((mesh.size, length), jnp.float32), out_shardings=split)
    a, b = ones(), ones()
    add = jax.jit(lambda a, b: jax.lax.fori_loop(0, SUMS, lambda _, a: a + b, a), donate_argnums=0, out_shardings=split)

    def run():
        nonlocal a
        a = add(a, b)
        return a

    return [SUMS * mesh.size * 3 * 4 * length / t for t in _timed(run, tries)]


def _host_sum_rates(length: int, tries: int) -> list[float]:
    """Measures the same on CPU by NumPy, split over the cores: XLA's sum keeps to one of them."""
    cores = os.cpu_count() or 1
    parts = [np.ones((2, n), np.float32) for n in np.diff(np.linspace(0, length, cores + 1).astype(int))]

    def add(part: np.ndarray) -> None:
        for _ in range(SUMS):
            np.add(part[0], part[1], out=part[0])

    with ThreadPoolExecutor(cores) as pool:
        taken = _timed(lambda: list(pool.map(add, parts)), tries)
    return [SUMS * 3 * 4 * length / t for t in taken]


def _timed(run: Callable[[], Any], tries: int) -> list[float]:
    """Returns the seconds of some runs after a first one, which compiles."""
    seconds(run)
    return [seconds(run) for _ in range(tries)]
