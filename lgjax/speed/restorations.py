"""The restorations that a benchmark times: by methods that iterate, and by those that need no loop.

Each runs as in the product, on synthetic slices, or on volumes of them where a method joins slices.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from lgjax.evaluation.published import TABLE1
from lgjax.methods import runner as runners
from lgjax.methods import volumes
from lgjax.methods.names import Method
from lgjax.methods.volumes import Volume
from lgjax.models import convolutions
from lgjax.models.base import Model
from lgjax.preparation.midplane import Mirror
from lgjax.preparation.slices import Grid, Slices
from lgjax.runtime import devices
from lgjax.speed import counts, profile, times
from lgjax.speed.peaks import Peaks
from lgjax.speed.profile import Profile
from lgjax.speed.programs import Compiled, Work, against_floor, counted, scaled, timed
from lgjax.speed.synthetic import brain_like
from lgjax.speed.times import Runs, Spread

LAMBDA = 1.0
WARM_UPS = {"cpu": 1}  # runs of a program before those that count; elsewhere 2: the second one makes CUDA graphs


class Task(NamedTuple):
    """A method of restoration, and all that it needs."""

    name: str  # of the method, and of its solver where that is not the one of its config
    method: Method
    settings: runners.Settings
    model: Model | None
    params: Any  # frozen parameters of the model
    grid: Grid
    mesh: jax.sharding.Mesh  # that the work is split over
    volume: int  # slices of a volume

    def runner(self, iterations: int = 0) -> runners.Runner:
        """Makes what runs the method in the product, for so many iterations of every slice; 0: as in the settings."""
        changes: dict[str, Any] = {"tolerance": 0.0}
        if iterations:
            changes[runners.length(self.method, self.settings)] = iterations
        return runners.Runner(self.method, self.settings._replace(**changes), self.model, self.params, self.mesh)


class Given(NamedTuple):
    """What a runner is given."""

    slices: Slices
    strength: np.ndarray
    known: Volume | None = None


def given(task: Task, count: int) -> Given:
    """Draws some slices for a method, joined where the method joins them."""
    slices = brain_like(task.settings.seed, count, task.grid.height, task.grid.width)
    known = None
    if task.method.volume:
        mirror = Mirror(slices.y[:, :, ::-1], np.ones_like(slices.y)) if task.method.mirror else None
        known = Volume(*slices, np.ones(count - 1, np.float32), mirror)
    return Given(slices, np.full(count, LAMBDA, np.float32), known)


def prepare(runner: runners.Runner, arrays: Given) -> tuple[Compiled, float]:
    """Compiles a method as the product does, for its first batch or volume, and restores all; see `warm`.

    What a device refuses when it restores, for lack of memory or as a CUDA graph, is compiled anew without.

    Returns:
      The compiled program, and the seconds of one run of it alone: nothing is brought to the devices or back.
    """
    while True:
        before, arguments = _form(runner), (runner.params, *_arguments(runner, arrays))
        found = _compiled(runner, *arguments)
        warm(runner, arrays)
        if _form(runner) == before:
            return found, times.seconds(functools.partial(found.program, *arguments))
        runner.programs.restart(runner.micro)


def _form(runner: runners.Runner) -> tuple[int, bool]:
    """Returns what a runner changes where a device refuses."""
    return runner.micro, runner.programs.graphs


def _arguments(runner: runners.Runner, arrays: Given) -> list[Any]:
    """Puts what a program takes beside the parameters on the devices: the first slices of a batch, or a volume."""
    if arrays.known is None:
        return runner.place([part[: runner.dispatched] for part in (*arrays.slices, arrays.strength)])
    whole = jax.device_put(volumes.padded(arrays.known), devices.replicated(runner.mesh))
    return [whole, arrays.strength[0]]


def _compiled(runner: runners.Runner, *arguments: Any) -> Compiled:
    """Compiles a method for some arguments, and counts its work in the form that was compiled."""
    programs = runner.programs
    programs.settle(*arguments)  # by programs whose compilation is not to be timed
    program, seconds = timed(lambda: programs.of(*arguments))
    with convolutions.fusion(programs.fused or ()):
        return counted(programs.function, *arguments, program=program, seconds=seconds, devices=runner.mesh.size)


def restore(runner: runners.Runner, arrays: Given) -> list[Any]:
    """Restores all slices."""
    return list(runner(*arrays))


def seconds(runner: runners.Runner, arrays: Given) -> float:
    """Times the restoration of all slices."""
    return times.seconds(lambda: restore(runner, arrays))


def warm(runner: runners.Runner, arrays: Given) -> None:
    """Restores all slices until a program has made what a device makes once."""
    for _ in range(WARM_UPS.get(runner.mesh.devices.flat[0].platform, 2)):
        restore(runner, arrays)


class Restoration:
    """A method that iterates, compiled for a short and a long run, both of the same batch, or of the same volume.

    The length of a run is known to the compiler, as in the product, so each length is a program of its own: a GPU asks
    the host after every turn of a loop whose length it does not know.
    """

    def __init__(self, task: Task, *, short: int, target: float):
        """Compiles and runs both; the long one takes about `target` seconds, or all iterations of the settings.

        Args:
          task: the method.
          short: iterations of the short run.
          target: seconds.
        """
        self.name, self.task = task.name, task
        self.iterations = getattr(task.settings, runners.length(task.method, task.settings))
        self.short, self.short_runs = task.runner(short), Runs(short, [])
        self.batch = given(task, task.volume if task.method.volume else self.short.size)
        once, taken = prepare(self.short, self.batch)
        runs = 1 if task.method.volume else self.short.size // self.short.dispatched  # of the program, for a batch
        # What a program does once makes the long run somewhat shorter than `target`, never longer.
        long = times.count_for(target, runs * taken / short, 4 * short, self.iterations)
        self.long, self.long_runs = task.runner(long), Runs(long, [])
        self.long.programs.fused = self.short.programs.fused
        self.compiled, _ = prepare(self.long, self.batch)
        pairs = (once.work, self.compiled.work), (once.plain, self.compiled.plain)
        self.work = Work(*(counts.per_iteration(few, many, long - short) for few, many in pairs))
        self.whole = self.batch if task.method.volume else given(task, task.volume)
        self.volumes: list[float] = []  # seconds of each, where a long run is a whole restoration

    def sample(self) -> None:
        """Times a run of each length, and a volume where the long run is a whole restoration: all of it, or nothing."""
        short, long = (seconds(runner, self.batch) for runner in (self.short, self.long))
        if self.long_runs.iterations == self.iterations:
            self.volumes.append(long if self.whole is self.batch else seconds(self.long, self.whole))
        self.short_runs.seconds.append(short)
        self.long_runs.seconds.append(long)

    def profile(self) -> Profile:
        """Profiles one long run."""
        return profile.of(lambda: restore(self.long, self.batch), self.task.mesh, self.long_runs.iterations)

    def record(self, peaks: Peaks, as_paper: bool) -> dict[str, Any]:
        """Returns what was measured, and what follows from the measurements."""
        task, long = self.task, self.long_runs
        slope = times.spread(times.per_iteration(self.short_runs, long))
        count, size = task.volume, len(self.batch.slices.number)
        of_programs = size if task.method.volume else self.long.dispatched
        adam = runners.length(task.method, task.settings) == "iterations"
        paper = next((entry.seconds for entry in TABLE1 if entry.method == task.method.name), None)
        paper = paper if as_paper and adam else None
        return {
            "solver": task.settings.optimizer if task.method.restores else None,
            "iterations": self.iterations,
            "batch_size": size,
            "batch_size_of_programs": of_programs,  # smaller after an out-of-memory error
            "grid": [task.grid.height, task.grid.width],
            **computed_by(self.long),
            "seconds_per_iteration": slope._asdict(),
            "paper_seconds": paper,
            "paper_over_ours": times.ratio(paper, slope.median),
            "volume": measured(self.volumes) if self.volumes else computed(long, slope, self.iterations, count, size),
            "compile_seconds": self.compiled.seconds,
            **against_floor(self.compiled, scaled(self.work, size // of_programs), peaks, slope.median),
            "samples": {"short": self.short_runs._asdict(), "long": long._asdict()},
        }


class OneStep:
    """A method without a loop over networks: a reconstruction, or the mode of a Gaussian; whole volumes are timed."""

    def __init__(self, task: Task):
        """Compiles the method and restores a volume once."""
        self.name, self.task = task.name, task
        self.runner, self.whole = task.runner(), given(task, task.volume)
        self.compiled, _ = prepare(self.runner, self.whole)
        self.volumes: list[float] = []  # seconds of each

    def sample(self) -> None:
        """Times one volume."""
        self.volumes.append(seconds(self.runner, self.whole))

    def profile(self) -> Profile:
        """Profiles one volume, as one step."""
        return profile.of(lambda: restore(self.runner, self.whole), self.task.mesh, 1)

    def record(self, peaks: Peaks, as_paper: bool) -> dict[str, Any]:
        """Returns what was measured, and what follows from the measurements: nothing of iterations."""
        task, volume = self.task, measured(self.volumes)
        of_programs = task.volume if task.method.volume else self.runner.dispatched
        work = scaled(self.compiled, -(-task.volume // of_programs))
        nothing = ("solver", "iterations", "seconds_per_iteration", "paper_seconds", "paper_over_ours")
        return {
            **dict.fromkeys(nothing),
            "batch_size": task.volume,
            "batch_size_of_programs": of_programs,  # smaller after an out-of-memory error
            "grid": [task.grid.height, task.grid.width],
            **computed_by(self.runner),
            "volume": volume,
            "compile_seconds": self.compiled.seconds,
            **against_floor(self.compiled, work, peaks, volume["seconds"]),
        }


def computed_by(runner: runners.Runner) -> dict[str, Any]:
    """Returns whose kernels computed what was timed, and whether XLA was asked for one graph of them, and took it.

    XLA leaves out of a graph what driver or runtime do not know, and says so to nobody: asked for is not made.
    """
    return {"kernels": runner.kernels, "cuda_graph_asked": runner.programs.graphs}


def measured(samples: list[float]) -> dict[str, Any]:
    """Returns the seconds of a volume from runs of whole volumes."""
    return {"seconds": times.spread(samples).median, "samples": samples}


def computed(long: Runs, slope: Spread, iterations: int, count: int, size: int) -> dict[str, Any]:
    """Predicts the seconds of a volume from a shorter run.

    Args:
      long: the runs.
      slope: seconds of each further iteration.
      iterations: of the whole restoration.
      count: slices of the volume.
      size: slices of a run.
    """
    batches = -(-count // size)
    made_of = f"{batches} batches of {size} for {count} slices, {iterations} iterations"
    return {"seconds": batches * times.run_seconds(long, slope.median, iterations), "computed_from": made_of}
