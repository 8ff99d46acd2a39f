"""How the scans of an experiment are prepared: as its source was, or as its config says."""

from lgjax.preparation import dataset, recipe
from lgjax.preparation.dataset import Index
from lgjax.preparation.recipe import Recipe
from lgjax.runtime.errors import UsageError
from lgjax.workdir import experiment


def find(config) -> tuple[Recipe, Index | None]:
    """Finds how the slices of an experiment are prepared, and the index of its source where that was prepared.

    Raises:
      UsageError: the source was prepared for slices of another size or saturation than the config wants.
    """
    wanted = recipe.bare(experiment.grid(config), experiment.saturation(config))
    if not dataset.is_prepared(config.data.source):
        return wanted, None
    index = dataset.read_index(config.data.source)
    _check_slices(config.data.source, index.recipe, wanted)
    return index.recipe, index


def _check_slices(folder: str, prepared: Recipe, wanted: Recipe) -> None:
    """Raises UsageError where slices have another size or saturation."""
    if prepared.grid != wanted.grid:
        values = " ".join(f"--config.data.{name}={value}" for name, value in prepared.grid._asdict().items())
        raise UsageError(f"{folder} was prepared for slices of another size. Give {values}, or prepare it again.")
    if prepared.saturation != wanted.saturation:
        value = ",".join(map(str, prepared.saturation or ()))
        remedy = f"Give --config.data.saturation='({value})', or prepare it again"
        raise UsageError(f"{folder} was prepared with another saturation of its slices. {remedy}.")


def begin(config, workdir) -> None:
    """Makes the work directory of an experiment without a model where there is none yet; a training makes the others.

    Raises:
      UsageError: as `find`.
    """
    if experiment.has_model(config) or (workdir / "config.json").exists():
        return
    recipe.write(workdir / dataset.RECIPE, find(config)[0])
    experiment.record(config, workdir)
