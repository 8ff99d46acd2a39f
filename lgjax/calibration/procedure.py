"""Calibration of methods on held-out healthy subjects, through the same path that restoration takes."""

import json
import logging
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from tqdm import tqdm

from lgjax.calibration.scores import anomaly, thresholds
from lgjax.calibration.strength import Search, data_range, masked_ssim, smallest_strength
from lgjax.methods import names as methods
from lgjax.methods.runner import build_runner, restore_scan
from lgjax.preparation import cohort
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Slices
from lgjax.runtime import devices, files
from lgjax.runtime.errors import UsageError
from lgjax.workdir import calibrations, weights

LOG = logging.getLogger(__name__)
SCORES = ("absolute", "positive")


def calibrate(names: Sequence[str], config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
    """Calibrates several methods on the same held-out healthy subjects."""
    chosen = [methods.parse(name) for name in names]
    trained = weights.load(config, workdir)
    subjects = cohort.healthy(config.data, "calibration")
    prepared, _ = cohort.load(subjects, trained.recipe, config.data.workers, "preparing", lambda subject: subject)
    if leaked := [p.image.source for p in prepared if p.image.sha256 in trained.subjects]:
        raise UsageError(f"{', '.join(leaked)}: in both the training and the calibration set. Keep them apart.")
    for method in chosen:
        runner = build_runner(method, config, trained.params, mesh)
        search = search_strength(method, runner, prepared, config) if method.restores else None
        found = healthy_thresholds(method, runner, prepared, search.strength if search else 0.0)
        record = {
            "Method": method.name,
            "Lambda": search.strength if search else None,
            "Search": {**search._asdict(), "target": config.calibrate.ssim} if search else None,
            **found,
            "CalibrationSubjects": [p.image.sha256 for p in prepared],
            "ConfigSHA256": calibrations.digest(config),
            "WeightsSHA256": trained.digest,
            "RecipeSHA256": trained.recipe.digest,
            "TrainedOn": trained.words(method.model),
            "Versions": devices.versions(),
        }
        path = calibrations.path(workdir, method.name)
        files.atomic_write(path, json.dumps(record, indent=2) + "\n")
        LOG.info(summary(method, search, found, path))


def search_strength(method, runner, prepared: Sequence[Prepared], config) -> Search:
    """Finds lambda on a fixed, evenly spaced choice of healthy slices; a vector of lambdas is one batched program."""
    settings = config.calibrate
    everything = cohort.pool([subject.slices for subject in prepared])
    chosen = np.unique(np.linspace(0, len(everything.index) - 1, settings.slices).round().astype(int))
    slices = Slices(*(part[chosen] for part in everything))
    span = data_range(everything.y[everything.mask > 0])
    bar = tqdm(
        desc=f"lambda of {method.name}",
        unit="slice",
        total=len(chosen) * (settings.lambdas + settings.bisections),
    )

    def evaluate(strengths: np.ndarray) -> np.ndarray:
        tiled = Slices(*(np.concatenate([part] * len(strengths)) for part in slices))
        restored = []
        for x, _ in runner(tiled, np.repeat(strengths, len(chosen)).astype(np.float32)):
            restored.append(x)
            bar.update(len(x))
        pairs = zip(np.concatenate(restored), tiled.y, tiled.mask, strict=True)
        ssim = [masked_ssim(x[..., 0], y[..., 0], m[..., 0], span) for x, y, m in pairs]
        return np.reshape(ssim, (len(strengths), -1)).mean(axis=1)

    with bar:
        candidates = np.geomspace(settings.smallest_lambda, settings.largest_lambda, settings.lambdas)
        return smallest_strength(evaluate, list(candidates), settings.ssim, settings.bisections)


def healthy_thresholds(method, runner, prepared: Sequence[Prepared], strength: float) -> dict:
    """Thresholds of every score on the brain voxels of healthy subjects, at their own resolution."""
    changes = [
        restore_scan(runner, subject, strength).change[subject.placement.brain]
        for subject in tqdm(prepared, f"thresholds of {method.name}", unit="subject")
    ]
    pooled = np.concatenate(changes)
    scores = ("signed",) if method.signed else SCORES
    return {
        "Voxels": int(pooled.size),
        "Thresholds": {score: thresholds(anomaly(pooled, score)) for score in scores},
    }


def summary(method, search: Search | None, found: dict, path: pathlib.Path) -> str:
    """One or a few lines for a person."""
    lines = [f"{method.name}: thresholds from {found['Voxels']} healthy voxels -> {path}"]
    if search:
        lines.append(f"  lambda {search.strength:.3g}, SSIM {search.ssim:.3f} on healthy slices")
        if not search.monotone:
            lines.append("  note: SSIM does not rise steadily with lambda; see the curve in the file")
        if not search.reached:
            lines.append("  warning: no lambda reached the wanted SSIM; the best one is used")
    return "\n".join(lines)
