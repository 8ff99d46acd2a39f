"""What the times of repeated runs mean: seconds, seconds per iteration, and how many iterations fill a time."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float


class Runs(NamedTuple):
    """Repeated runs of a program that iterates."""

    iterations: int  # in each run
    seconds: list[float]  # of each run


def seconds(run: Callable[[], Any]) -> float:
    """Measures the wall time in seconds until the arrays that `run` returns are computed."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


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


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Divides two numbers; None where one of them is unknown, or the denominator is no time."""
    return None if numerator is None or denominator is None or denominator <= 0 else numerator / denominator
