"""How scans are prepared: the settings that a training cohort, its calibration and every later scan share."""

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from lgjax.preparation.bias import BiasField
from lgjax.preparation.histogram import Histogram
from lgjax.preparation.slices import Grid
from lgjax.runtime import files
from lgjax.runtime.errors import InputError

FORMAT = 1


class Recipe(NamedTuple):
    """Everything between a raw scan and the slices a model sees."""

    grid: Grid
    bias_field: BiasField | None  # None: not corrected
    histogram: Histogram | None  # None: not matched
    stripper: str  # what finds the brain in a head: auto, hd-bet, mri_synthstrip or none
    saturation: tuple[float, float] | None = None  # z-scores are clipped to these; None: not at all, as in the paper

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return files.digest(as_json(self))

    def describe(self) -> str:
        """Describes the settings for people."""
        grid = self.grid
        parts = [f"{grid.height} x {grid.width} pixels of {grid.spacing:g} mm"]
        if self.bias_field:
            parts.append(f"N4 at {self.bias_field.spacing:g} mm")
        if self.histogram:
            parts.append(f"histograms matched at {len(self.histogram.percentiles)} landmarks")
        parts.append("z-scored in the brain")
        if self.saturation:
            parts.append("saturated at {:g} and {:g} standard deviations".format(*self.saturation))
        return ", ".join(parts)


def from_config(config) -> Recipe:
    """Makes the recipe that configs/data.py describes; the histogram is still to be learnt."""
    settings = config.bias_field
    bias_field = None
    if settings.correct:
        bias_field = BiasField(settings.spacing, settings.levels, settings.iterations, settings.threshold)
    grid = Grid(config.height, config.width, config.spacing)
    return Recipe(grid, bias_field, None, config.brain.stripper, ends(config.saturation))


def ends(saturation: Sequence[float]) -> tuple[float, float] | None:
    """Returns the two ends of a saturation as a config states them; None where it states none."""
    if not saturation:
        return None
    low, high = map(float, saturation)
    return low, high


def bare(grid: Grid, saturation: tuple[float, float] | None = None) -> Recipe:
    """Returns the recipe of scans that are only z-scored, cut into slices and, if asked for, saturated."""
    return Recipe(grid, None, None, "auto", saturation)


def bias_json(recipe: Recipe) -> str:
    """Returns the settings of bias field correction as one comparable text; "null" where nothing is corrected."""
    return json.dumps(as_json(recipe)["bias_field"], sort_keys=True)


def as_json(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe as plain JSON types; one without saturation as before there was any, to keep its digest."""
    parts: dict[str, Any] = {
        "grid": recipe.grid._asdict(),
        "bias_field": recipe.bias_field and recipe.bias_field._asdict(),
        "histogram": recipe.histogram and recipe.histogram._asdict(),
        "stripper": recipe.stripper,
        "format": FORMAT,
    }
    if recipe.saturation:
        parts["saturation"] = recipe.saturation
    return json.loads(json.dumps(parts))


def from_json(parts: dict[str, Any]) -> Recipe:
    """Inverts `as_json`.

    Raises:
      ValueError, KeyError, TypeError: the parts are no recipe.
    """
    if parts["format"] != FORMAT:
        raise ValueError(f"format {parts['format']}, this version knows {FORMAT}")
    bias_field, marks = parts["bias_field"], parts["histogram"]
    return Recipe(
        Grid(**parts["grid"]),
        BiasField(**bias_field) if bias_field else None,
        Histogram(*(tuple(map(float, marks[name])) for name in Histogram._fields)) if marks else None,
        str(parts["stripper"]),
        ends(parts.get("saturation", ())),
    )


def write(path: str | os.PathLike, recipe: Recipe) -> None:
    """Writes a recipe as JSON."""
    files.atomic_write(path, json.dumps(as_json(recipe), indent=2) + "\n")


def read(path: str | os.PathLike) -> Recipe:
    """Reads what `write` wrote.

    Raises:
      InputError: it is not there or no recipe.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return from_json(json.load(file))
    except FileNotFoundError:
        problem, remedy = "is not there", "Prepare the scans, or train, with this version of lgjax"
        raise InputError(path, problem, remedy) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read as preparation settings ({error!r})"
        raise InputError(path, problem, "Prepare the scans, or train, with this version of lgjax") from error
