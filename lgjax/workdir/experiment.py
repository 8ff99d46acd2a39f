"""A work directory and its config: what binds the binaries train, calibrate and restore together."""

import json
import math
import os
import pathlib
from typing import Any

import ml_collections

from lgjax.methods import names
from lgjax.models import precision
from lgjax.preparation import cohort
from lgjax.preparation.slices import Grid
from lgjax.runtime import places
from lgjax.runtime.errors import InputError, UsageError
from lgjax.runtime.files import atomic_write
from lgjax.scans import sources

RUNS = pathlib.Path("runs")
FROM_HERE = "{workdir}/"  # before a path in config.json as seen from the work directory
BOUND = ("data", "model")  # the parts of a config that weights depend on: they cannot change after training
FREE = ("workers", "calibration_subjects", "resident", "read_processes")  # in them, what they do not depend on
ADDED: dict[str, dict] = {  # values that earlier records lack, and what was done before there was a choice
    "train": {"precision": "tensorfloat32", "steps_per_dispatch": 1, "flip": 0.0, "intensity": 0.0},
    "restore": {
        "precision": "tensorfloat32",
        "false_positive_rates": (0.001, 0.005, 0.01, 0.05),
        "mask_rate": 0.01,
        "checkpoint": "last",
    },
    "gmm": {"atlas": "none"},
}
ADDED_TO_ASCENT = {"refreshes": 20, "dual_steps": 20, "tolerance": 0.0}  # likewise, where a prior is climbed
ADDED_TO_CALIBRATE = {"tolerance": 0.02}  # there, to what is calibrated from now on
GONE_FROM_CALIBRATE = ("bisections",)
CHOICES = {
    "data.resident": ("auto", "always", "never"),
    "model.variance_target": ("likelihood", "absolute"),
    "train.schedule": ("constant", "cosine"),
    "train.precision": precision.CHOICES,
    "train.flip": (0.0, 0.5),
    "restore.precision": precision.CHOICES,
    "restore.variance_at": ("restored", "observed"),
    "restore.optimizer": ("adam", "gradient", "proximal"),
    "restore.score": ("absolute", "positive"),
    "gmm.atlas": ("mni152", "none"),
    "restore.checkpoint": ("best", "last"),
}
LEAST: dict[str, float] = {  # that a value may be
    "data.train_subjects": 1,
    "data.calibration_subjects": 1,
    "train.batch_size": 1,
    "train.steps": 1,
    "train.steps_per_dispatch": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "train.intensity": 0.0,
    "restore.slice_step": 1,
    "restore.batch_size": 0,
    "restore.tolerance": 0.0,
    "restore.samples_est": 2,  # since lg_est takes the variance of the samples
    "restore.samples_neural": 1,
    "calibrate.slices": 1,
    "calibrate.lambdas": 1,
    "calibrate.tolerance": 0.001,
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
            earlier = recorded.get("calibrate", {}).items()
            kept = {name: value for name, value in earlier if name not in GONE_FROM_CALIBRATE}
            complete["calibrate"] = {**ADDED_TO_CALIBRATE, **kept}
        if "source" in recorded.get("data", {}):
            complete["data"] = {**recorded["data"], "source": _found_again(recorded["data"]["source"], path)}
        return ml_collections.ConfigDict(_with_tuples({**recorded, **complete}))
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"cannot be read as a config: {error}", "Train again or name another --workdir"
        ) from error


def _with_tuples(value: Any) -> Any:
    """Returns a part of a record with tuples for JSON's lists: a flag can override tuples only."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(value) if isinstance(value, list) else value


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError for a value that no code knows, before hours are spent on it."""
    for name, choices in CHOICES.items():
        part, field = name.split(".")
        if field in config[part] and config[part][field] not in choices:
            raise UsageError(f"--config.{name}={config[part][field]}: expected one of {', '.join(map(str, choices))}.")
    for name, least in LEAST.items():
        part, field = name.split(".")
        if part in config and field in config[part] and config[part][field] < least:
            raise UsageError(f"--config.{name}={config[part][field]}: expected {least:g} or more.")
    if "calibrate" in config:
        check_search(config.calibrate)
    if config.gmm.atlas == "mni152" and config.gmm.classes != 3:
        raise UsageError(f"--config.gmm.classes={config.gmm.classes}: mni152 has 3. Add --config.gmm.atlas=none.")
    names.mask_rate(config.restore.mask_rate, names.rate_names(config.restore.false_positive_rates))
    check_step(config, names.parse(config.restore.method))


def check_search(calibrate: ml_collections.ConfigDict) -> None:
    """Raises UsageError where lambda cannot be searched with the values of the config's part `calibrate`."""
    if not 0 < calibrate.ssim < 1:
        raise UsageError(f"--config.calibrate.ssim={calibrate.ssim}: expected a value between 0 and 1.")
    low, high = calibrate.smallest_lambda, calibrate.largest_lambda
    if not 0 < low < high < math.inf:
        raise UsageError(
            f"--config.calibrate.smallest_lambda={low} --config.calibrate.largest_lambda={high}: expected two values "
            "above 0, the smallest first."
        )


def check_method(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError where the config's method does not exist, or is not one of the config's model."""
    names.check_model(names.parse(config.restore.method), config.model.name)


def check_step(config: ml_collections.ConfigDict, method: names.Method) -> None:
    """Raises UsageError where a method's restoration by Eq. 4 as printed may diverge, before anything is computed.

    The prior alone takes a pixel's distance from mu times 1 - eta / sigma2 in a step, which shrinks the distance where
    sigma2 > eta / 2. sigma2 is at least the variance floor; the decoder's, which the ELBO has, is 1 / (2 w).
    """
    if not method.restores or config.restore.optimizer != "gradient":
        return
    least, named = config.model.variance_floor, f"--config.model.variance_floor={config.model.variance_floor}"
    if method.prior == "elbo":
        weight = config.model.reconstruction_weight
        least, named = 1 / (2 * weight), f"1 / (2 w), of --config.model.reconstruction_weight={weight},"
    if least <= config.restore.learning_rate / 2:
        raise UsageError(
            f"{method.name} with --config.restore.optimizer=gradient diverges where sigma2 <= eta / 2: {named} must "
            f"exceed half of --config.restore.learning_rate={config.restore.learning_rate}."
        )


def default_workdir(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Returns runs/<config name>."""
    return RUNS / config.name


def record(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes workdir/config.json, or checks that the one there describes the same experiment.

    Raises:
      UsageError: the work directory belongs to another experiment, or the config has an unknown value.
    """
    check_workdir(config, workdir)
    content = as_json(config)
    content["data"]["source"] = _to_find_again(content["data"]["source"], workdir)
    atomic_write(workdir / "config.json", json.dumps(content, indent=2) + "\n")


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
        ours, theirs = _with_whole_source(as_json(config[part])), _with_whole_source(as_json(recorded[part]))
        keys = (ours.keys() | theirs.keys()) - set(FREE)
        differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
        if differing:
            names = ", ".join(f"{part}.{key} ({theirs.get(key)}, now {ours.get(key)})" for key in differing)
            raise UsageError(f"{workdir} was trained with other values of {names}. Use another --workdir.")


def _to_find_again(source: str, workdir: pathlib.Path) -> str:
    """Returns a source as config.json holds it: a folder that lies elsewhere as seen from the work directory.

    The user's name and the machine's, which a whole path tells, are left out of what may be passed on.
    """
    name, path = _split(source)
    if not places.is_elsewhere(path):
        return source
    return name + FROM_HERE + places.portable(path, workdir)


def _found_again(source: str, path: str) -> str:
    """Returns a source that stands in config.json, at `path`, as a path from anywhere."""
    name, mark, away = source.partition(FROM_HERE)
    return name + places.resolved(away, pathlib.Path(path).parent) if mark else source


def _with_whole_source(part: dict) -> dict:
    """Returns a part of a config whose source, if it is a folder, does not depend on how the path was typed."""
    if "source" not in part:
        return part
    name, path = _split(part["source"])
    return {**part, "source": name + (os.path.abspath(os.path.expanduser(path)) if path else "")}


def _split(source: str) -> tuple[str, str]:
    """Returns what stands before the path of a source, and the path: a folder, or one of heads that phantoms get."""
    if not sources.is_phantom(source):
        return "", source
    name, mark, labels = source.partition(":")
    return name + mark, labels


def grid(config: ml_collections.ConfigDict) -> Grid:
    """Returns the grid of the slices that models see."""
    return Grid(config.data.height, config.data.width, config.data.spacing)


def source(config: ml_collections.ConfigDict) -> cohort.Source:
    """Returns where the healthy subjects of an experiment come from."""
    return cohort.Source(config.data.source, config.data.train_subjects, config.data.calibration_subjects)


def as_json(config: ml_collections.ConfigDict) -> dict:
    """Returns the config as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())
