"""Predicts how long a program for CUDA takes from its kernels: laws, each with two numbers fitted to measurements.

r is the least time of a kernel: its bytes over the memory's bandwidth, or its operations over the rate of products of
matrices, whichever is longer; both rates are measured on the device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from benchmarks.cuda_kernels import Kernel

# Rates of products of matrices beside that of TensorFloat-32, by NVIDIA's data sheet of the H100 and H200 (without
# sparsity): 67, 495 and 990 TFLOP/s.
RATES = {"float32": 67 / 495, "tensorfloat32": 1.0, "bfloat16": 2.0}
_GRID = (slice(0.0, 15e-6, 0.5e-6), slice(1.0, 3.0, 0.1))  # of seconds, and of a factor: where a fit begins


class Peaks(NamedTuple):
    """The best rates of a device."""

    bytes: float  # a second
    flops: float  # a second, in TensorFloat-32


class Times(NamedTuple):
    """The kernels of a program, each array [K]."""

    count: np.ndarray  # how often each kernel is launched
    least: np.ndarray  # r of each, s

    @property
    def launches(self) -> float:
        """How many kernels are launched."""
        return float(self.count.sum())

    @property
    def floor(self) -> float:
        """The sum of r, s."""
        return float(self.count @ self.least)


Law = Callable[[Times, float, float], float]  # (kernels, fixed, factor) -> s

LAWS: dict[str, Law] = {
    # Every kernel pays its launch, and then takes as long as it reads and writes.
    "sum": lambda times, fixed, factor: fixed * times.launches + factor * times.floor,
    # A kernel takes as long as it reads and writes, but no less than a fixed time.
    "each": lambda times, fixed, factor: float(times.count @ np.maximum(fixed, factor * times.least)),
    # The host launches one kernel after the other, and the device waits for the host, or the host for the device.
    "host": lambda times, fixed, factor: max(fixed * times.launches, factor * times.floor),
}


class Fit(NamedTuple):
    """A law's two numbers."""

    fixed: float  # s a kernel
    factor: float  # how many times the least time a kernel takes
    errors: list[float]  # of each program that was measured, relative
    unseen: list[float]  # the same, by a fit to the other programs alone


def times(kernels: Sequence[Kernel], peaks: Peaks, precision: str) -> Times:
    """Returns how often kernels come, and the least time of each.

    Args:
      kernels: of one iteration.
      peaks: of the device.
      precision: of products of matrices, a key of `RATES`.
    """
    rows = np.array([[one.times, one.bytes / peaks.bytes, one.flops / peaks.flops] for one in kernels], float)
    return Times(rows[:, 0], np.maximum(rows[:, 1], rows[:, 2] / RATES[precision]))


def fit(law: Law, programs: Mapping[str, Times], seconds: Mapping[str, float]) -> Fit:
    """Fits a law's two numbers by least squares of relative errors.

    Args:
      law: one of `LAWS`.
      programs: those that were measured, by name.
      seconds: that each took.
    """

    def errors(numbers, names):
        return [law(programs[name], *numbers) / seconds[name] - 1 for name in names]

    def solved(names):
        return optimize.brute(lambda numbers: np.square(errors(numbers, names)).sum(), _GRID, finish=_refined)

    best = solved(programs)
    unseen = [errors(solved([other for other in programs if other != name]), [name])[0] for name in programs]
    return Fit(*map(float, best), errors(best, programs), unseen)


def _refined(function, start, **_):
    """Goes on from the best place of the grid, where both numbers have the same scale; neither becomes negative."""
    scale = np.array([1e-6, 1.0])
    found = optimize.minimize(lambda x: function(np.abs(x) * scale), start / scale, method="Nelder-Mead")
    return np.abs(found.x) * scale, found.fun, 0
