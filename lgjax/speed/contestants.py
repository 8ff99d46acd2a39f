"""What a benchmark times, and how: the methods and trainings that are chosen, each compiled when it is asked for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from lgjax import models
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.methods import runner
from lgjax.preparation.slices import Grid
from lgjax.runtime.errors import UsageError
from lgjax.speed.restorations import OneStep, Restoration, Task
from lgjax.speed.synthetic import random_state
from lgjax.speed.trainings import Training
from lgjax.speed.turns import Entrant
from lgjax.training import settings as training_settings
from lgjax.workdir import experiment
from lgjax.workdir.recorded import has_model

WITHOUT_MODEL = "detection"  # the experiment of methods without a model
DETECTION = (  # methods that are timed beside the paper's
    "mirror_tv3d",
    "restorer_reconstruction",
    "restorer_reconstruction_tv3d",
    "restorer_reconstruction_mirror_tv3d",
)
Contestant = Restoration | OneStep | Training


class Experiment(NamedTuple):
    """One model whose methods and training are timed, or what methods without a model read."""

    model: Any  # a Model in the precision of its restoration; None where there is none, as below
    restoration: runner.Settings
    trained: Any  # a Model in the precision of its training
    training: Any  # training_settings.Settings
    grid: Grid


class Settings(NamedTuple):
    """How speed is measured, see configs/bench.py."""

    as_paper: bool  # whether networks and slices are of the size of the paper's
    precision: str
    volume_slices: int
    repeats: int
    run_seconds: float
    short_iterations: int
    further_solvers: tuple[str, ...]
    train_models: tuple[str, ...]
    train_slices: int
    peak_sizes: tuple[int, ...]
    peak_length: int
    experiments: dict[str, Experiment]  # by model
    as_json: dict[str, Any]  # all of it, for the record


def from_config(config) -> Settings:
    """Takes what is timed, and how, from a config of configs/bench.py.

    Raises:
      UsageError: an experiment has an unknown value.
    """
    experiments = {}
    for name in config.experiments:
        part = config.experiments[name]
        experiment.check(part)
        networks = has_model(part)
        experiments[name] = Experiment(
            models.from_config(part, part.restore.precision) if networks else None,
            runner.from_config(part),
            models.from_config(part, part.train.precision) if networks else None,
            training_settings.from_config(part) if networks else None,
            experiment.grid(part),
        )
    values = {field: config[field] for field in Settings._fields if field in config}
    return Settings(**{**values, "experiments": experiments, "as_json": experiment.as_json(config)})


def choose(names: Sequence[str] | None) -> list[str]:
    """Returns the methods that are timed: those given, or those of the paper's Table 1 that have a loop, and DETECTION.

    Raises:
      UsageError: a method is unknown, or has neither networks nor a volume to restore.
    """
    timed = [name for name, method in methods.available().items() if method.model or method.volume]
    for name in names or ():
        if methods.parse(name).name not in timed:
            raise UsageError(f"{name} asks no network and joins no slices. Choose among {', '.join(timed)}.")
    paper = [entry.method for entry in published.TABLE1 if methods.parse(entry.method).iterates]
    return list(dict.fromkeys(names or [*paper, *DETECTION]))


def solvers(settings: Settings, method: methods.Method) -> list[str]:
    """Returns what a method is timed with: the solver of its config, and further ones where a method has a choice."""
    further = settings.further_solvers if method.restores and method.iterates else ()
    return list(dict.fromkeys((settings.experiments[_of(method)].restoration.optimizer, *further)))


def _of(method: methods.Method) -> str:
    """Names the experiment of a method."""
    return method.model or WITHOUT_MODEL


def task(settings: Settings, method: methods.Method, solver: str, params: Any, mesh: jax.sharding.Mesh) -> Task:
    """Returns the restoration of a method by a solver, with some parameters of the model."""
    part = settings.experiments[_of(method)]
    name, chosen = _name(settings, method, solver), part.restoration._replace(optimizer=solver)
    return Task(name, method, chosen, part.model, params, part.grid, mesh, settings.volume_slices)


def _name(settings: Settings, method: methods.Method, solver: str) -> str:
    """Names a method, and its solver where that is not the one of its config."""
    own = solver == settings.experiments[_of(method)].restoration.optimizer
    return method.name if own else f"{method.name}, {solver}"


def parameters(part: Experiment) -> Any:
    """Draws frozen parameters for the model of an experiment; none where there is no model."""
    return models.freeze(random_state(part.trained, part.training).variables) if part.trained else {}


def trained(settings: Settings, names: Sequence[str]) -> list[str]:
    """Returns the models of some methods whose training is timed too."""
    found = dict.fromkeys(methods.parse(name).model for name in names)
    return [model for model in found if model in settings.train_models]


def entrants(settings: Settings, names: Sequence[str], mesh: jax.sharding.Mesh) -> list[Entrant]:
    """Returns some methods, each by its solvers, and the trainings of their models; nothing is compiled yet."""
    drawn = functools.cache(lambda name: parameters(settings.experiments[name]))
    found = []
    for method in map(methods.parse, names):
        for solver in solvers(settings, method):
            compile = functools.partial(_restoration, settings, method, solver, drawn, mesh)
            found.append(Entrant("methods", _name(settings, method, solver), compile))
    return found + [
        Entrant("training", name, functools.partial(_training, settings, name, mesh))
        for name in trained(settings, names)
    ]


def _restoration(settings: Settings, method: methods.Method, solver: str, drawn: Callable, mesh) -> Contestant:
    """Compiles a method by a solver, with the parameters that are drawn for its experiment."""
    one = task(settings, method, solver, drawn(_of(method)), mesh)
    if not method.iterates:
        return OneStep(one)
    return Restoration(one, short=settings.short_iterations, target=settings.run_seconds)


def _training(settings: Settings, name: str, mesh: jax.sharding.Mesh) -> Contestant:
    """Compiles the training of a model."""
    part = settings.experiments[name]
    size = part.grid.height, part.grid.width
    return Training(name, part.trained, part.training, size, mesh, settings.train_slices, settings.run_seconds)
