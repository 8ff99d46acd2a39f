"""What a benchmark times: the training steps of a model here, restorations in `restorations`; and what both need.

Weights are random and slices synthetic: every iteration does the same work whatever they hold.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from lgjax.models import convolutions
from lgjax.models.base import Model
from lgjax.preparation.slices import BACKGROUND, Slices
from lgjax.runtime.devices import replicate
from lgjax.speed import counts, profile, traffic
from lgjax.speed import peaks as speed_peaks
from lgjax.speed.counts import Count
from lgjax.speed.peaks import Peaks, Runs
from lgjax.speed.profile import Kernel
from lgjax.training import feeding, step, store
from lgjax.training.settings import Settings
from lgjax.training.step import TrainState

KERNELS, OPERATIONS = "kernels of the compiled program", "every operation, none fused: an upper count"
AXES = (0.85, 0.65)  # of the ellipse that stands for a brain, as parts of half a slice
ENDLESS = 1 << 30  # training steps


def brain_like(seed: int, count: int, height: int, width: int) -> Slices:
    """Draws `count` slices of noise in an ellipse, [count, height, width, 1], z-scored as brains are."""
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    mask = np.broadcast_to(np.hypot(rows / AXES[0], columns / AXES[1]) < 1, (count, height, width))[..., None]
    noise = np.random.default_rng(seed).standard_normal(mask.shape, np.float32)
    y = np.where(mask, noise, np.float32(BACKGROUND))
    return Slices(y, mask.astype(np.float32), np.arange(count, dtype=np.int32))


def random_state(model: Model, settings: Settings) -> TrainState:
    """Draws a state before the first step, with random kernels from the seed; nothing has to be compiled for it."""
    rng = np.random.default_rng(settings.seed)

    def draw(path, leaf):
        if (name := path[-1].key) == "kernel":
            values = rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = np.full(leaf.shape, name in ("scale", "var"))
        return values.astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, step.state_shapes(model, settings).variables)
    return TrainState(jnp.zeros((), jnp.int32), variables, step.optimizer(settings).init(variables["params"]))


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Lets a block compile programs even where an earlier process left them on disk."""
    _enable_cache(False)
    try:
        yield
    finally:
        _enable_cache(True)


def _enable_cache(value: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", value)
    compilation_cache.reset_cache()  # it remembers what it was told before


class Compiled(NamedTuple):
    """A jitted function, compiled for some arguments."""

    work: Count  # on all devices together
    bytes_of: str  # KERNELS or OPERATIONS: what its bytes were counted of
    plain: (
        Count  # the same with convolutions in their plain form: without the zeros that put them into blocks of pixels
    )
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
    with convolutions.forms("plain"), convolutions.fusion(False):
        plain = counts.of(function, *arguments)
    work, moved = counts.of(function, *arguments), traffic.of(program)
    if moved is None:
        return Compiled(work, OPERATIONS, plain, program, seconds)
    return Compiled(work._replace(bytes=float(devices * moved)), KERNELS, plain, program, seconds)


def endless(settings: Settings) -> Settings:
    """Makes a training of slices on the device that nothing interrupts: no end, no log, no checkpoint."""
    return settings._replace(resident="always", steps=ENDLESS, log_every=ENDLESS, checkpoint_every=ENDLESS)


class Training:
    """The training of a model, its slices on the device."""

    kind = "training"

    def __init__(
        self,
        name: str,
        model: Model,
        settings: Settings,
        grid: tuple[int, int],
        mesh: jax.sharding.Mesh,
        count: int,
        target: float,
    ):
        """Compiles the steps and takes some; a run then is as many as take about `target` seconds.

        Args:
          name: of the model.
          model: in the precision of training.
          settings: of its training, but for its length and for where slices are kept.
          grid: height and width of the slices, in pixels.
          mesh: that batches are split over.
          count: slices that batches are drawn from.
          target: seconds.
        """
        self.name, self.grid, self.mesh, self.count, self.batch_size = name, grid, mesh, count, settings.batch_size
        settings = endless(settings)
        found = brain_like(settings.seed, count, *grid)
        self.steps = feeding.steps(model, settings, store.InMemory(found.y, found.mask), mesh, 0)
        self.state = replicate(random_state(model, settings), mesh)
        self.together, program, arguments = next(self.steps)
        self.compiled = compiled(program, self.state, *arguments, devices=mesh.size)
        self._run(1)
        self.dispatches = speed_peaks.count_for(target, self._run(1), 1, 1000)
        self.runs = Runs(self.dispatches * self.together, [])

    def _run(self, dispatches: int) -> float:
        return speed_peaks.seconds(lambda: self._take(dispatches))

    def _take(self, dispatches: int) -> Any:
        """Takes some steps."""
        for _ in range(dispatches):
            self.state, terms = self.compiled.program(self.state, *next(self.steps).arguments)
        return self.state, terms

    def sample(self) -> None:
        """Times one run of some steps."""
        self.runs.seconds.append(self._run(self.dispatches))

    def profile(self) -> tuple[list[Kernel], int]:
        """Profiles one dispatch; returns its kernels and its steps."""
        return profile.of(lambda: self._take(1)), self.together

    def record(self, peaks: Peaks, as_paper: bool) -> dict[str, Any]:
        """Returns what was measured, and what follows from the measurements."""
        rate = speed_peaks.spread([self.runs.iterations / taken for taken in self.runs.seconds])
        return {
            "batch_size": self.batch_size,
            "grid": list(self.grid),
            "slices_on_device": self.count,
            "steps_per_dispatch": self.together,
            "steps_per_second": rate._asdict(),
            "compile_seconds": self.compiled.seconds,
            **against_floor(self.compiled, scaled(self.compiled, 1 / self.together), peaks, 1 / rate.median),
            "samples": self.runs._asdict(),
        }


class Work(NamedTuple):
    """What is compared with a device's peaks."""

    work: Count
    plain: Count  # see `Compiled`


def scaled(found: Compiled | Work, factor: float) -> Work:
    """Multiplies the work of a program."""
    return Work(counts.scaled(found.work, factor), counts.scaled(found.plain, factor))


def against_floor(compiled: Compiled, work: Work, peaks: Peaks, seconds: float) -> dict[str, Any]:
    """Returns what some work of a compiled program takes, and beside its `seconds` the least time that it needs."""
    floor = speed_peaks.floor(work.work, peaks)
    return {
        "program_bytes": speed_peaks.memory(compiled.program),
        "flops": work.work.flops,
        "bytes": work.work.bytes,
        "bytes_of": compiled.bytes_of,
        "flops_of_plain_convolutions": work.plain.flops,
        "flops_per_second": speed_peaks.ratio(work.work.flops, seconds),
        "floor_seconds": floor.seconds,
        "floor_seconds_compute": floor.compute,
        "fraction_of_floor": speed_peaks.ratio(floor.seconds, seconds),
        "fraction_of_compute_floor": speed_peaks.ratio(floor.compute, seconds),
    }
