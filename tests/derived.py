"""Derivatives that the tests make in moments: scans restored by plain intensity, which takes no training."""

import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from configs import data
from lgjax import preprocess
from lgjax.detector import Detector
from lgjax.methods import names
from lgjax.methods.runner import Runner, Settings
from lgjax.preparation import recipe
from lgjax.preparation.slices import Grid
from lgjax.runtime import devices, parallel
from lgjax.scans import sources
from lgjax.workdir.weights import Trained


def detector() -> Detector:
    """Returns the method intensity with made-up thresholds."""
    method, prepared = names.parse("intensity"), recipe.bare(Grid(32, 32, 8.0))
    settings = Settings(seed=0, precision="tensorfloat32", batch_size=0, mixture=None)
    runner = Runner(method, settings, None, {}, devices.chosen("cpu"))
    about = {
        "Method": method.name,
        "Score": "signed",
        "Lambda": None,
        "Thresholds": {"0.01": 1.5, "0.05": 1.0},
        "MaskRate": "0.01",
        "TrainedOn": "nothing",
        "CalibrationSubjects": [],
        "ConfigSHA256": "c",
        "WeightsSHA256": "w",
        "RecipeSHA256": prepared.digest,
        "SliceStep": 1,
        "Version": "made",
        "AnomalyUnits": method.unit,
    }
    return Detector(method, Trained({}, "w", "nothing", frozenset(), prepared), runner, 0.0, 1, about)


GRID = np.diag([8.0, 8.0, 20.0, 1.0])  # voxels -> mm, of `brain`


def brain(seed: int = 0, shape=(20, 24, 6)) -> np.ndarray:
    """Returns a brain without its skull and with a bright spot, float32 [X, Y, Z]."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum((axis / 0.85) ** 2 for axis in axes) < 1
    noise = np.random.default_rng(seed).normal(100, 10, shape)
    noise[12:15, 12:15, 2:4] += 80
    return np.where(inside, noise.clip(1), 0).astype(np.float32)


def restore(scans: pathlib.Path, output: pathlib.Path) -> list[str]:
    """Restores all scans of a folder, and returns their identifiers."""
    made, subjects = detector(), sources.find(str(scans))
    for subject in subjects:
        made(subject).save(output)
    return [subject.identifier for subject in subjects]


def prepare(scans: pathlib.Path, output: pathlib.Path, monkeypatch) -> int:
    """Prepares all scans of a folder in this process, and returns the exit code."""
    config = data.get_config("smoke")
    config.bias_field.correct = config.histogram.match = False
    config.height, config.width, config.spacing, config.workers = 32, 32, 8.0, 1
    monkeypatch.setattr(parallel, "processes", ThreadPoolExecutor)
    subjects, prepared = sources.find(str(scans)), recipe.from_config(config)
    return preprocess.preprocess(subjects, prepared, config, output, given=False, inputs=[str(scans)])
