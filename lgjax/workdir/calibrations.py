"""The record that calibration leaves for restoration: lambda and thresholds of one method, and what they hold for."""

import json
import pathlib
from typing import Any

from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.workdir import experiment

# What may differ between calibration and restoration without changing a voxel of the result.
FREE = {
    "data": ("source", "train_subjects", "calibration_subjects", "workers", "resident", "read_processes"),
    "restore": ("batch_size", "score", "method", "slice_step"),
    "model": (),
    "gmm": (),
}


def path(workdir: pathlib.Path, method: str) -> pathlib.Path:
    """Where a method's calibration is kept."""
    return workdir / "calibration" / f"{method}.json"


def digest(config) -> str:
    """SHA-256 of the parts of a config that a restoration depends on."""
    parts = {part: experiment.as_json(config[part]) for part in FREE}
    kept = {part: {k: v for k, v in parts[part].items() if k not in free} for part, free in FREE.items()}
    return files.digest({**kept, "seed": config.seed})


def load(config, workdir: pathlib.Path, method: str, weights_digest: str, recipe_digest: str) -> dict[str, Any]:
    """Reads a method's calibration.

    Raises:
      InputError: there is none, or it is damaged.
      UsageError: it was made for other weights, another preparation of scans or other settings.
    """
    file = path(workdir, method)
    again = f"python -m lgjax.calibrate --workdir={workdir} --method={method}"
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(file, "is not there: the method is not calibrated", f"Run {again}") from None
    except (OSError, ValueError) as error:
        raise InputError(file, f"cannot be read ({error})", f"Run {again}") from error
    if record["WeightsSHA256"] != weights_digest:
        raise UsageError(f"{file}: was made for other weights. Run {again}")
    if record.get("RecipeSHA256") != recipe_digest:
        raise UsageError(f"{file}: was made from scans that were prepared otherwise. Run {again}")
    if record["ConfigSHA256"] != digest(config):
        raise UsageError(f"{file}: was made with other settings of data, model or restore. Run {again} with the same.")
    return record
