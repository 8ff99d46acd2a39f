"""Calibration of methods on held-out healthy subjects, through the same path that restoration takes."""

import functools
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lgjax.calibration.scores import anomaly, thresholds
from lgjax.calibration.strength import WINDOW, Search, data_range, masked_ssim, smallest_strength
from lgjax.methods import runner as runners
from lgjax.methods.names import Method, rate_names
from lgjax.methods.runner import Runner, Settings, restore_scan
from lgjax.models.base import Model
from lgjax.preparation import cohort
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Slices
from lgjax.runtime import devices, progress
from lgjax.runtime.errors import UsageError
from lgjax.workdir import calibrations, experiment, weights
from lgjax.workdir.calibrations import Calibration
from lgjax.workdir.weights import Trained

LOG = logging.getLogger(__name__)


class Goal(NamedTuple):
    """What the search for lambda aims at, and how it goes there."""

    ssim: float  # least mean SSIM of restored healthy slices
    slices: int  # healthy slices that lambda is searched on
    smallest_lambda: float
    largest_lambda: float
    lambdas: int  # tried first, spaced evenly in log lambda
    tolerance: float  # share by which lambda may be larger than one that misses the SSIM


def from_config(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> Callable[[Method], Calibration]:
    """Loads the weights, prepares the held-out healthy subjects, and returns `calibrate` of a method on them.

    Args:
      config: of the experiment.
      workdir: its work directory.
      mesh: the devices.

    Raises:
      InputError: the work directory holds no trained weights.
      UsageError: a scan is in the training set too, or there is none; a false positive rate is none.
    """
    trained = weights.load(config, workdir)
    return functools.partial(
        calibrate,
        settings=runners.from_config(config),
        model=weights.model(config),
        trained=trained,
        prepared=prepare(trained, experiment.source(config), config.data.workers),
        goal=Goal(**config.calibrate) if "calibrate" in config else None,  # whose model has no lambda to find
        rates=rate_names(config.restore.false_positive_rates),
        digest=calibrations.digest(config),
        workdir=workdir,
        mesh=mesh,
    )


def prepare(trained: Trained, source: cohort.Source, workers: int) -> list[Prepared]:
    """Prepares the held-out healthy subjects as those of the training were.

    Raises:
      UsageError: a scan is in the training set too, or there is none.
    """
    subjects = cohort.healthy(source, "calibration")
    prepared, _ = cohort.load(subjects, trained.recipe, workers, "preparing", lambda subject: subject)
    if leaked := [p.image.source for p in prepared if p.image.sha256 in trained.subjects]:
        raise UsageError(f"{', '.join(leaked)}: in both the training and the calibration set. Keep them apart.")
    return prepared


def calibrate(
    method: Method,
    *,
    settings: Settings,
    model: Model | None,
    trained: Trained,
    prepared: Sequence[Prepared],
    goal: Goal | None,
    rates: Sequence[str],
    digest: str,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
) -> Calibration:
    """Calibrates one method on healthy subjects and writes the record.

    Args:
      method: from `methods.names.parse`.
      settings: of the restoration.
      model: that `trained` belongs to; None where there is none.
      trained: the weights.
      prepared: held-out healthy subjects, from `prepare`.
      goal: of the search for lambda; None will do for methods that have none.
      rates: false positive rates that thresholds are found for, ("0.01").
      digest: of the parts of the config that a restoration depends on, from `calibrations.digest`.
      workdir: where the record goes.
      mesh: the devices.

    Raises:
      UsageError: the restoration of healthy slices diverged.
    """
    runner = Runner(method, settings, model, trained.params, mesh)
    search, window = None, WINDOW * trained.recipe.grid.spacing
    if method.restores:
        assert goal
        search = search_strength(method, runner, prepared, goal)
    changes = healthy_changes(method, runner, prepared, search.strength if search else 0.0)
    calibration = Calibration(
        method=method.name,
        strength=search.strength if search else None,
        search={**search._asdict(), "target": goal.ssim, "window_mm": window} if search and goal else None,
        voxels=int(changes.size),
        thresholds={score: thresholds(anomaly(changes, score), rates) for score in method.scores},
        subjects=[p.image.sha256 for p in prepared],
        config_digest=digest,
        weights_digest=trained.digest,
        recipe_digest=trained.recipe.digest,
        trained_on=trained.describe(method.model),
        versions=devices.versions(),
    )
    path = calibrations.write(workdir, calibration)
    LOG.info(summary(calibration, path))
    return calibration


def search_strength(method: Method, runner: Runner, prepared: Sequence[Prepared], goal: Goal) -> Search:
    """Finds lambda on a fixed, evenly spaced choice of healthy slices; a vector of lambdas is one batched program."""
    everything = cohort.pool([subject.slices for subject in prepared])
    chosen = np.unique(np.linspace(0, len(everything.number) - 1, goal.slices).round().astype(int))
    slices = Slices(*(part[chosen] for part in everything))
    span = data_range(everything.y[everything.mask > 0])
    bar = progress.track(None, f"lambda of {method.name}", 0, "slice")

    def evaluate(strengths: np.ndarray) -> np.ndarray:
        tiled = Slices(*(np.concatenate([part] * len(strengths)) for part in slices))
        bar.total += len(tiled.number)  # how many lambdas will be tried is not known before
        restored = []
        for x, _ in runner(tiled, np.repeat(strengths, len(chosen)).astype(np.float32)):
            restored.append(x)
            bar.update(len(x))
        found = np.concatenate(restored).reshape(len(strengths), *slices.y.shape)
        if not np.isfinite(found).all():
            problem = f"{method.name}: its restoration of healthy slices diverged"
            raise UsageError(f"{problem}. Lower --config.restore.learning_rate.")
        return np.array([mean_ssim(x, slices, span) for x in found])

    with bar:
        candidates = np.geomspace(goal.smallest_lambda, goal.largest_lambda, goal.lambdas)
        return smallest_strength(evaluate, list(candidates), goal.ssim, goal.tolerance)


def mean_ssim(x: np.ndarray, slices: Slices, span: float) -> float:
    """Returns the mean over slices of the SSIM of restored ones, [N, H, W, 1]."""
    triples = zip(x[..., 0], slices.y[..., 0], slices.mask[..., 0], strict=True)
    return float(np.mean([masked_ssim(restored, y, mask, span) for restored, y, mask in triples]))


def healthy_changes(method: Method, runner: Runner, prepared: Sequence[Prepared], strength: float) -> np.ndarray:
    """Returns Y - X at all brain voxels of healthy subjects, [voxels], at their own resolution."""
    changes = [
        restore_scan(runner, subject, strength).change[subject.placement.brain]
        for subject in progress.track(prepared, f"thresholds of {method.name}", len(prepared), "subject")
    ]
    return np.concatenate(changes)


def summary(found: Calibration, path: pathlib.Path) -> str:
    """Says in a few lines what was found, for a person."""
    lines = [f"{found.method}: thresholds from {found.voxels} healthy voxels -> {path}"]
    if search := found.search:
        window = f"{WINDOW} pixels, {search['window_mm']:g} mm"
        ssim = f"SSIM {search['ssim']:.3f} on healthy slices (uniform window of {window})"
        lines.append(f"  lambda {search['strength']:.3g}, {ssim}")
        if not search["monotone"]:
            lines.append("  note: SSIM does not rise steadily with lambda; see the curve in the file")
        tried = [strength for strength, _ in search["curve"]]
        if not search["reached"]:
            end = f"no lambda up to {max(tried):.3g} reaches the wanted SSIM; the best one is used"
            lines.append(f"  warning: the search ended at its limit: {end}")
        elif not search["failing"]:
            end = f"the smallest lambda tried, {min(tried):.3g}, reaches the wanted SSIM too"
            lines.append(f"  warning: the search ended at its limit: {end}")
    return "\n".join(lines)
