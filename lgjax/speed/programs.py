"""A compiled program: its work, its memory, how long compiling takes, and what it takes beside the least it needs."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from lgjax.models import convolutions
from lgjax.speed import counts, times, traffic
from lgjax.speed.counts import Count
from lgjax.speed.peaks import Peaks, floor

CACHE = "jax_enable_compilation_cache"  # of JAX's configuration
KERNELS, OPERATIONS = "kernels of the compiled program", "every operation, none fused: an upper count"


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Lets a block compile programs even where an earlier process left them on disk."""
    before = getattr(jax.config, CACHE)
    _enable_cache(False)
    try:
        yield
    finally:
        _enable_cache(before)


def _enable_cache(value: bool) -> None:
    jax.config.update(CACHE, value)
    compilation_cache.reset_cache()  # it remembers what it was told before


class Compiled(NamedTuple):
    """A jitted function, compiled for some arguments."""

    work: Count  # on all devices together
    bytes_of: str  # KERNELS or OPERATIONS: what its bytes were counted of
    plain: Count  # the same with plain convolutions: without the zeros that put them into blocks of pixels
    program: Any
    seconds: float  # that tracing, lowering and compiling took


def compiled(function: Any, *arguments: Any, devices: int = 1) -> Compiled:
    """Compiles a jitted function for some arguments and devices, and counts its work."""
    program, seconds = timed(lambda: function.lower(*arguments).compile())
    return counted(function, *arguments, program=program, seconds=seconds, devices=devices)


def timed(compile: Callable[[], Any]) -> tuple[Any, float]:
    """Returns a program, compiled anew, and the seconds that tracing, lowering and compiling took."""
    with uncached():
        began = time.perf_counter()
        return compile(), time.perf_counter() - began


def counted(function: Any, *arguments: Any, program: Any, seconds: float, devices: int) -> Compiled:
    """Counts the work of a jitted function that is compiled for some arguments and devices."""
    with convolutions.forms("plain"), convolutions.fusion(()):
        plain = counts.of(function, *arguments)
    work, moved = counts.of(function, *arguments), traffic.of(program)
    if moved is None:
        return Compiled(work, OPERATIONS, plain, program, seconds)
    return Compiled(work._replace(bytes=float(devices * moved)), KERNELS, plain, program, seconds)


def memory(compiled: Any) -> int | None:
    """Returns a compiled program's bytes on each device: arguments, results and what lies between; None if unknown."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    shared = found.alias_size_in_bytes  # by an argument and a result
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - shared


class Work(NamedTuple):
    """What is compared with a device's peaks."""

    work: Count
    plain: Count  # see `Compiled`


def scaled(found: Compiled | Work, factor: float) -> Work:
    """Multiplies the work of a program."""
    return Work(counts.scaled(found.work, factor), counts.scaled(found.plain, factor))


def against_floor(compiled: Compiled, work: Work, peaks: Peaks, seconds: float) -> dict[str, Any]:
    """Returns what some work of a compiled program takes, and beside its `seconds` the least time that it needs."""
    least = floor(work.work, peaks)
    return {
        "program_bytes": memory(compiled.program),
        "flops": work.work.flops,
        "bytes": work.work.bytes,
        "bytes_of": compiled.bytes_of,
        "flops_of_plain_convolutions": work.plain.flops,
        "flops_per_second": times.ratio(work.work.flops, seconds),
        "floor_seconds": least.seconds,
        "floor_seconds_compute": least.compute,
        "fraction_of_floor": times.ratio(least.seconds, seconds),
        "fraction_of_compute_floor": times.ratio(least.compute, seconds),
    }
