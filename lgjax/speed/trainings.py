"""What a benchmark times of training: the steps of a model on slices that lie on the device."""

from typing import Any

import jax

from lgjax.models.base import Model
from lgjax.runtime.devices import replicate
from lgjax.speed import profile, times
from lgjax.speed.peaks import Peaks
from lgjax.speed.profile import Profile
from lgjax.speed.programs import against_floor, compiled, scaled
from lgjax.speed.synthetic import brain_like, random_state
from lgjax.speed.times import Runs
from lgjax.training import feeding, store
from lgjax.training.settings import Settings

ENDLESS = 1 << 30  # training steps


def endless(settings: Settings) -> Settings:
    """Makes a training of slices on the device that nothing interrupts: no end, no log, no checkpoint."""
    return settings._replace(resident="always", steps=ENDLESS, log_every=ENDLESS, checkpoint_every=ENDLESS)


class Training:
    """The training of a model, its slices on the device."""

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
        self.dispatches = times.count_for(target, self._run(1), 1, 1000)
        self.runs = Runs(self.dispatches * self.together, [])

    def _run(self, dispatches: int) -> float:
        return times.seconds(lambda: self._take(dispatches))

    def _take(self, dispatches: int) -> Any:
        """Takes some steps."""
        for _ in range(dispatches):
            self.state, terms = self.compiled.program(self.state, *next(self.steps).arguments)
        return self.state, terms

    def sample(self) -> None:
        """Times one run of some steps."""
        self.runs.seconds.append(self._run(self.dispatches))

    def profile(self) -> Profile:
        """Profiles the steps of one dispatch."""
        return profile.of(lambda: self._take(1), self.mesh, self.together)

    def record(self, peaks: Peaks, as_paper: bool) -> dict[str, Any]:
        """Returns what was measured, and what follows from the measurements."""
        rate = times.spread([self.runs.iterations / taken for taken in self.runs.seconds])
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
