"""The config that a work directory records, config.json, as a config again."""

import json
import pathlib
from typing import Any

import ml_collections

from lgjax.runtime import places
from lgjax.runtime.errors import InputError
from lgjax.workdir import sums

RUNS = pathlib.Path("runs")
# Work directory of configs/detection.py: no weights, and thresholds from synthetic healthy brains.
SHIPPED = pathlib.Path(__file__).parents[1] / "shipped" / "detection"
RELEASED = SHIPPED.with_name("restorer")  # the trained model that travels with lgjax
WEIGHTS = "model.safetensors"  # frozen, of a released model
CHECKPOINTS = "checkpoints"  # of a training
MAKE_ONE = "python -m lgjax.calibrate --config=detection --workdir="  # what makes another one
FROM_HERE = "{workdir}/"  # before a path in config.json as seen from the work directory
ADDED: dict[str, dict] = {  # values that earlier records lack, and what was done before there was a choice
    "data": {"saturation": ()},
    "train": {"precision": "tensorfloat32", "steps_per_dispatch": 1, "flip": 0.0, "intensity": 0.0},
    "restore": {
        "precision": "tensorfloat32",
        "false_positive_rates": (0.001, 0.005, 0.01, 0.05),
        "false_positive_volumes": (1.0, 5.0),  # of calibrations that know of them
        "mask_rate": 0.01,
        "checkpoint": "last",
        "closed_steps": 200,
        "cuda_graphs": False,
    },
    "gmm": {"atlas": "none"},
}
# Likewise, where a prior is climbed
ADDED_TO_ASCENT: dict[str, Any] = {"refreshes": 20, "dual_steps": 20, "tolerance": 0.0, "traced": True}
ADDED_TO_AUTOENCODERS = {"variance_form": "plain", "decoder_form": "plain"}  # likewise, of the paper's networks
ADDED_TO_MODELS = {"reconstruction_variance": 1.0}  # likewise, where there are networks
ADDED_TO_CALIBRATE = {"tolerance": 0.02, "strength": 0.0}  # there, to what is calibrated from now on
GONE_FROM_CALIBRATE = ("bisections",)


def get_config(path: str) -> ml_collections.ConfigDict:
    """Reads the config.json that a work directory records, or a released model, which is verified first.

    Raises:
      InputError: the file cannot be read, or the released model is not whole.
    """
    if is_released(pathlib.Path(path).parent):
        sums.verify(pathlib.Path(path).parent)
    try:
        recorded = json.loads(pathlib.Path(path).read_text())
        if not isinstance(recorded, dict) or "gmm" not in recorded:
            raise ValueError("expected the config of an experiment of this version")
        complete = {part: {**values, **recorded[part]} for part, values in ADDED.items() if part in recorded}
        if "train" in recorded and "restore" in complete:
            complete["restore"] = {**ADDED_TO_MODELS, **complete["restore"]}
        if "variance_channels" in recorded.get("model", ()) and "restore" in complete:
            complete["restore"] = {**ADDED_TO_AUTOENCODERS, **complete["restore"]}
        if "optimizer" in complete.get("restore", ()):
            complete["restore"] = {**ADDED_TO_ASCENT, **complete["restore"]}
            earlier = recorded.get("calibrate", {}).items()
            kept = {name: value for name, value in earlier if name not in GONE_FROM_CALIBRATE}
            complete["calibrate"] = {**ADDED_TO_CALIBRATE, **kept}
        if "source" in recorded.get("data", {}):
            complete["data"]["source"] = _found_again(recorded["data"]["source"], path)
        return ml_collections.ConfigDict(_with_tuples({**recorded, **complete}))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            path, f"cannot be read as a config: {error}", "Train again or name another --workdir"
        ) from error


def is_released(folder: pathlib.Path) -> bool:
    """Returns whether a folder is, or was, a released model: one that nothing is written into.

    A folder with checkpoints is a training, whatever else lies there. A list of sums alone is a model that lost its
    weights only if the list names them: users list the sums of their own folders too.
    """
    if (folder / CHECKPOINTS).exists():
        return False
    return (folder / WEIGHTS).exists() or sums.names(folder, WEIGHTS)


def is_trained(folder: pathlib.Path) -> bool:
    """Returns whether a work directory can restore: it has a whole checkpoint, or an experiment without networks.

    Nothing is verified; a training that was stopped before its first checkpoint has neither.
    """
    return any(folder.glob(f"{CHECKPOINTS}/[0-9]*/manifest.json")) or model_of(folder) == "none"


def model_of(folder: pathlib.Path) -> str:
    """Returns the name of the model that a work directory records; "" where the record cannot be read."""
    try:
        return str(json.loads((folder / "config.json").read_text())["model"]["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def has_model(config: ml_collections.ConfigDict) -> bool:
    """Returns whether an experiment has networks to train."""
    return config.model.name != "none"


def _with_tuples(value: Any) -> Any:
    """Returns a part of a record with tuples for JSON's lists: a flag can override tuples only."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _found_again(source: str, path: str) -> str:
    """Returns a source that stands in config.json, at `path`, as a path from anywhere."""
    name, mark, away = source.partition(FROM_HERE)
    return name + places.resolved(away, pathlib.Path(path).parent) if mark else source
