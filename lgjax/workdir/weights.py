"""The trained weights of a work directory or of a released model, ready for restoration."""

import json
import pathlib
from typing import Any, NamedTuple

import jax

from lgjax import models
from lgjax.models.base import Model
from lgjax.preparation import recipe as recipes
from lgjax.preparation.dataset import RECIPE
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import files, places
from lgjax.runtime.errors import InputError
from lgjax.training import settings
from lgjax.training.step import state_shapes
from lgjax.workdir import checkpoints, released
from lgjax.workdir.recorded import WEIGHTS, has_model, is_released


class Trained(NamedTuple):
    """Frozen parameters and where they come from."""

    params: Any  # for `Model.bind`; None where there is no model
    digest: str  # SHA-256
    trained_on: str  # in words
    subjects: frozenset[str]  # SHA-256 of the scans it was trained on
    recipe: Recipe  # how those were prepared, and how others must be

    def describe(self, model: str) -> str:
        """Says what a method was trained on, for people; `model` is "" where a method uses no trained network."""
        return self.trained_on if model else "nothing"


def model(config) -> Model | None:
    """Makes the networks that restore; None for an experiment without any."""
    return models.from_config(config, config.restore.precision) if has_model(config) else None


def load(config, workdir: pathlib.Path) -> Trained:
    """Loads a checkpoint, normalisation folded away: the best or the last, see `config.restore.checkpoint`.

    A released model has its weights alone. An experiment without a model has nothing to load but how scans are
    prepared.

    Raises:
      InputError: the work directory holds no trained weights, or does not say how scans are prepared; a released model
        is not whole.
    """
    if is_released(workdir):
        return _load_released(config, workdir)
    if not has_model(config):
        return Trained(None, files.digest("no weights"), "nothing", frozenset(), recipes.read(workdir / RECIPE))
    folder = workdir / "checkpoints"
    shapes = state_shapes(models.from_config(config, config.train.precision), settings.from_config(config))
    choice = {"best": checkpoints.restore_best, "last": checkpoints.restore_newest}
    restored = choice[config.restore.checkpoint](folder, shapes)
    if restored is None:
        raise InputError(workdir, "holds no checkpoint", f"Train first: python -m lgjax.train --workdir={workdir}")
    state, step = restored
    try:
        record = json.loads((workdir / "training.json").read_text())
        trained_on, subjects = places.told(record["TrainedOn"]), frozenset(record["Subjects"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(workdir / "training.json", f"cannot be read ({error})", "Train again") from error
    which = checkpoints.describe(folder, step)
    words = f"{trained_on}; {step} of {config.train.steps} steps of {config.train.batch_size}, {which}"
    digest = checkpoints.weights_digest(folder, step)
    return Trained(models.freeze(state.variables), digest, words, subjects, recipes.read(workdir / RECIPE))


def _load_released(config, folder: pathlib.Path) -> Trained:
    """Loads the weights of a released model; errors as in `released.read`."""
    networks = models.from_config(config, config.restore.precision)
    found = released.read(folder, jax.eval_shape(lambda: models.freeze(networks.init(jax.random.key(0)))))
    digest = files.sha256(folder / WEIGHTS)
    return Trained(found.params, digest, found.trained_on, found.subjects, recipes.read(folder / RECIPE))
