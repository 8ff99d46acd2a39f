"""A work directory and its config: what binds the binaries train, calibrate and restore together."""

import json
import pathlib

import ml_collections

from lgjax.models import precision
from lgjax.preparation import cohort
from lgjax.preparation.slices import Grid
from lgjax.runtime.errors import InputError, UsageError
from lgjax.runtime.files import atomic_write

RUNS = pathlib.Path("runs")
BOUND = ("data", "model")  # the parts of a config that weights depend on: they cannot change after training
FREE = ("workers", "calibration_subjects", "resident", "read_processes")  # in them, what they do not depend on
ADDED: dict[str, dict] = {  # values that earlier records lack, and what was done before there was a choice
    "train": {"precision": "tensorfloat32", "steps_per_dispatch": 1},
    "restore": {"precision": "tensorfloat32"},
    "gmm": {"atlas": "none"},
}
ADDED_TO_ASCENT = {"refreshes": 20, "dual_steps": 20, "tolerance": 0.0}  # likewise, where a prior is climbed
CHOICES = {
    "data.resident": ("auto", "always", "never"),
    "model.variance_target": ("likelihood", "absolute"),
    "train.schedule": ("constant", "cosine"),
    "train.precision": precision.CHOICES,
    "restore.precision": precision.CHOICES,
    "restore.variance_at": ("restored", "observed"),
    "restore.optimizer": ("adam", "gradient", "proximal"),
    "restore.score": ("absolute", "positive"),
    "gmm.atlas": ("mni152", "none"),
}


def get_config(path: str) -> ml_collections.ConfigDict:
    """Reads the config.json that a work directory records."""
    try:
        recorded = json.loads(pathlib.Path(path).read_text())
        if not isinstance(recorded, dict) or "gmm" not in recorded:
            raise ValueError("expected the config of an experiment of this version")
        complete = {part: {**values, **recorded.get(part, {})} for part, values in ADDED.items()}
        if "optimizer" in complete["restore"]:
            complete["restore"] = {**ADDED_TO_ASCENT, **complete["restore"]}
        return ml_collections.ConfigDict({**recorded, **complete})
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"cannot be read as a config: {error}", "Train again or name another --workdir"
        ) from error


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError for a value that no code knows, before hours are spent on it."""
    for name, choices in CHOICES.items():
        part, field = name.split(".")
        if field in config[part] and config[part][field] not in choices:
            raise UsageError(f"--config.{name}={config[part][field]}: expected one of {', '.join(choices)}.")
    if config.train.steps_per_dispatch < 0:
        raise UsageError(f"--config.train.steps_per_dispatch={config.train.steps_per_dispatch}: expected 0 or more.")
    if config.restore.slice_step < 1:
        raise UsageError(f"--config.restore.slice_step={config.restore.slice_step}: expected 1 or more.")
    if config.restore.batch_size < 0:
        raise UsageError(f"--config.restore.batch_size={config.restore.batch_size}: expected 0 or more.")
    if config.gmm.atlas == "mni152" and config.gmm.classes != 3:
        raise UsageError(f"--config.gmm.classes={config.gmm.classes}: mni152 has 3. Add --config.gmm.atlas=none.")
    if "tolerance" in config.restore and config.restore.tolerance < 0:
        raise UsageError(f"--config.restore.tolerance={config.restore.tolerance}: expected 0 or more.")


def default_workdir(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Returns runs/<config name>."""
    return RUNS / config.name


def record(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes workdir/config.json, or checks that the one there describes the same experiment.

    Raises:
      UsageError: the work directory belongs to another experiment, or the config has an unknown value.
    """
    check_workdir(config, workdir)
    atomic_write(workdir / "config.json", json.dumps(as_json(config), indent=2) + "\n")


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks what `record` checks, with the same errors; writes nothing."""
    check(config)
    path = workdir / "config.json"
    if path.exists():
        check_same_networks(config, get_config(str(path)), workdir)


def check_same_networks(config, recorded, workdir: pathlib.Path) -> None:
    """Raises UsageError where `config` asks for data or networks other than those recorded, or for unknown values."""
    check(config)
    for part in BOUND:
        ours, theirs = as_json(config[part]), as_json(recorded[part])
        keys = (ours.keys() | theirs.keys()) - set(FREE)
        differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
        if differing:
            names = ", ".join(f"{part}.{key} ({theirs.get(key)}, now {ours.get(key)})" for key in differing)
            raise UsageError(f"{workdir} was trained with other values of {names}. Use another --workdir.")


def grid(config: ml_collections.ConfigDict) -> Grid:
    """Returns the grid of the slices that models see."""
    return Grid(config.data.height, config.data.width, config.data.spacing)


def source(config: ml_collections.ConfigDict) -> cohort.Source:
    """Returns where the healthy subjects of an experiment come from."""
    return cohort.Source(config.data.source, config.data.train_subjects, config.data.calibration_subjects)


def as_json(config: ml_collections.ConfigDict) -> dict:
    """Returns the config as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())
