"""Calibration of methods on held-out healthy subjects, through the same path that restoration takes."""

import functools
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lgjax.calibration import promise, tails, trials
from lgjax.calibration.scores import anomaly, thresholds
from lgjax.calibration.strength import WINDOW, Search
from lgjax.calibration.trials import Goal as Goal
from lgjax.methods import mirror
from lgjax.methods import runner as runners
from lgjax.methods.mirror import Seen
from lgjax.methods.names import Method, rate_names
from lgjax.methods.queue import restore_scan
from lgjax.methods.runner import Runner, Settings
from lgjax.models.base import Model
from lgjax.preparation import cohort, measures
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import devices, files, hosts, progress, shares
from lgjax.runtime.errors import UsageError
from lgjax.runtime.shares import Share
from lgjax.workdir import calibrations, experiment, weights
from lgjax.workdir.calibrations import Calibration
from lgjax.workdir.weights import Trained

LOG = logging.getLogger(__name__)


def from_config(
    config, workdir: pathlib.Path, mesh: jax.sharding.Mesh, source: cohort.Source | None = None
) -> Callable[[Method], Calibration]:
    """Loads the weights, prepares the held-out healthy subjects, and returns `calibrate` of a method on them.

    Args:
      config: of the experiment.
      workdir: its work directory.
      mesh: the devices of this host.
      source: of the healthy subjects; None: the config's.

    Raises:
      InputError: the work directory holds no trained weights.
      UsageError: a scan is in the training set too, or there is none; a false positive rate is none.
    """
    trained = weights.load(config, workdir)
    scans = source or experiment.source(config)
    return functools.partial(
        calibrate,
        settings=runners.from_config(config),
        model=weights.model(config),
        trained=trained,
        healthy=prepare(trained, scans, config.data.workers),
        goal=Goal(**config.calibrate) if "calibrate" in config else None,  # whose model has no lambda to find
        rates=rate_names(config.restore.false_positive_rates),
        volumes=promise.volume_names(config.restore.false_positive_volumes),
        score=config.restore.score,
        digest=calibrations.digest(config),
        workdir=workdir,
        mesh=mesh,
    )


def prepare(trained: Trained, source: cohort.Source, workers: int) -> Share[Prepared]:
    """Prepares the held-out healthy subjects as those of the training were; every host prepares its share of them.

    Raises:
      UsageError: a scan is in the training set too, or there is none.
    """
    subjects = cohort.healthy(source, "calibration")
    names = files.digest([subject.identifier for subject in subjects])
    hosts.check_alike({"weights": trained.digest, "recipe": trained.recipe.digest, "scans": names})
    healthy = cohort.load(shares.divided(subjects), trained.recipe, workers, "preparing", lambda subject: subject)
    leaked = [p.image.source if p.image.sha256 in trained.subjects else "" for p in healthy.own]
    if found := [*filter(None, healthy.pooled(leaked))]:
        raise UsageError(f"{', '.join(found)}: in both the training and the calibration set. Keep them apart.")
    return healthy


def calibrate(
    method: Method,
    *,
    settings: Settings,
    model: Model | None,
    trained: Trained,
    healthy: Share[Prepared],
    goal: Goal | None,
    rates: Sequence[str],
    volumes: Sequence[str],
    score: str,
    digest: str,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
) -> Calibration:
    """Calibrates one method on healthy subjects and writes the record.

    Every host restores its own subjects on its own devices; all find the same, and the first writes it.

    Args:
      method: from `methods.names.parse`.
      settings: of the restoration.
      model: that `trained` belongs to; None where there is none.
      trained: the weights.
      healthy: held-out subjects, from `prepare`.
      goal: of the search for lambda; None will do for methods that have none.
      rates: false positive rates that thresholds are found for, ("0.01").
      volumes: of false positives in mL that thresholds are to promise, ("5").
      score: whose p-values and promised volumes are learnt, where the method has a choice.
      digest: of the parts of the config that a restoration depends on, from `calibrations.digest`.
      workdir: where the record goes.
      mesh: the devices of this host.

    Raises:
      UsageError: the restoration of healthy slices diverged, or the config says nothing of lambda.
    """
    hosts.check_alike({"method": files.digest([method.name, *rates, *volumes, score]), "config": digest})
    seen: list[Seen | None] = [mirror.of(subject) if method.mirror else None for subject in healthy.own]
    mirror_variance = None
    if method.mirror:
        mirror_variance = _mirror_variance(healthy, seen)
        settings = settings._replace(mirror_variance=mirror_variance)
    runner = Runner(method, settings, model, trained.params, mesh)
    strength, search = _strength(method, runner, healthy, seen, goal) if method.restores else (None, None)
    changes = healthy.pooled_arrays(healthy_changes(method, runner, healthy.own, seen, strength or 0.0))
    found, used = _thresholds(method, changes, rates), method.scored(score)
    calibration = Calibration(
        method=method.name,
        strength=strength,
        search=_told(search, goal, WINDOW * trained.recipe.grid.spacing) if search and goal else None,
        voxels=sum(len(change) for change in changes),
        thresholds=found,
        subjects=healthy.pooled([p.image.sha256 for p in healthy.own]),
        config_digest=digest,
        weights_digest=trained.digest,
        recipe_digest=trained.recipe.digest,
        trained_on=trained.describe(method.model),
        versions=devices.versions(),
        mirror_variance=mirror_variance,
        healthy_scans=measured(healthy, changes, seen),
        kernels=" and ".join(sorted({*healthy.pooled([runner.kernels] * len(healthy.own))})),
        **tails.learn(used, changes, healthy, found[used], volumes),
    )
    hosts.first_alone(calibrations.write, workdir, calibration)
    LOG.info(summary(calibration, calibrations.path(workdir, method.name)))
    return calibration


def _mirror_variance(healthy: Share[Prepared], seen: Sequence[Seen | None]) -> float:
    """Returns V_m over the healthy subjects of all hosts; see `mirror.variance`."""
    own = [mirror.differences(subject, one) for subject, one in zip(healthy.own, seen, strict=True) if one]
    return mirror.variance(healthy.pooled(own))


def _thresholds(method: Method, changes: Sequence[np.ndarray], rates: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the thresholds of each score that a method may have, by score and rate."""
    return {
        score: thresholds(np.concatenate([anomaly(change, score) for change in changes]), rates)
        for score in method.scores
    }


def _told(search: Search, goal: Goal, window: float) -> dict[str, Any]:
    """Returns what the record says of the search for lambda, with the width of SSIM's window in mm."""
    return {**search._asdict(), "target": goal.ssim, "window_mm": window}


def _strength(
    method: Method, runner: Runner, healthy: Share[Prepared], seen: Sequence[Seen | None], goal: Goal | None
) -> tuple[float, Search | None]:
    """Returns the lambda that the goal states, or the one that a search finds, and the search."""
    if goal is None:
        raise UsageError(f"{method.name} has a lambda, and the config has no part `calibrate` for it: train again.")
    if goal.strength:
        return goal.strength, None
    search = trials.search(method, runner, healthy, seen, goal)
    return search.strength, search


def healthy_changes(
    method: Method, runner: Runner, prepared: Sequence[Prepared], seen: Sequence[Seen | None], strength: float
) -> list[np.ndarray]:
    """Returns Y - X at the brain voxels of each healthy subject, [voxels], at its own resolution."""
    bar = progress.track(prepared, f"thresholds of {method.name}", len(prepared), "subject")
    return [
        restore_scan(runner, subject, strength, seen=known).change[subject.placement.brain]
        for subject, known in zip(bar, seen, strict=True)
    ]


def measured(
    healthy: Share[Prepared], changes: Sequence[np.ndarray], seen: Sequence[Seen | None]
) -> dict[str, list[float]]:
    """Returns the measures of healthy scans that later scans are held against, each ascending."""
    own = zip(healthy.own, healthy.of(changes), seen, strict=True)
    found = healthy.pooled([measures.measure(subject, change, known and known.plane) for subject, change, known in own])
    names = dict.fromkeys(name for values in found for name in values)
    return {name: sorted(values[name] for values in found if name in values) for name in names}


def summary(found: Calibration, path: pathlib.Path) -> str:
    """Says in a few lines what was found, for a person."""
    lines = [f"{found.method}: thresholds from {found.voxels} healthy voxels -> {path}"]
    if found.strength is not None and not found.search:
        lines.append(f"  lambda {found.strength:.3g}, as --config.calibrate.strength says")
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
    lines += [f"  note: {line}" for line in tails.broken(found)]
    return "\n".join(lines)
