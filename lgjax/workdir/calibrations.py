"""The record that calibration leaves for restoration: lambda and thresholds of one method, and what they hold for."""

import json
import pathlib
from typing import Any, NamedTuple

from lgjax.methods.names import rate_names
from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.workdir import experiment
from lgjax.workdir.recorded import ADDED, ADDED_TO_MODELS, MAKE_ONE, RUNS, SHIPPED, is_released

# What may differ between calibration and restoration without changing a voxel of the result.
FREE = {
    # The recipe's digest knows the saturation.
    "data": ("source", "train_subjects", "calibration_subjects", "workers", "resident", "read_processes", "saturation"),
    "restore": (
        "batch_size",
        "traced",
        "cuda_graphs",
        "variance_form",
        "decoder_form",
        "score",
        "method",
        "slice_step",
        "false_positive_rates",
        "false_positive_volumes",
        "mask_rate",
        "checkpoint",
    ),
    "model": (),
    "gmm": (),
}
# Values that earlier calibrations did not know, and that leave these as they were: no part of the digest.
LATER = {"closed_steps": ADDED["restore"]["closed_steps"], **ADDED_TO_MODELS}


class Calibration(NamedTuple):
    """What calibration found for one method, and what that holds for."""

    method: str
    strength: float | None  # lambda; None where there is none
    # For lambda: calibration.strength.Search, the wanted SSIM as `target`, and the width of SSIM's window, `window_mm`.
    search: dict[str, Any] | None
    voxels: int  # healthy ones that thresholds are taken from
    thresholds: dict[str, dict[str, float]]  # by score, then by false positive rate ("0.01")
    subjects: list[str]  # SHA-256 of the healthy scans
    config_digest: str
    weights_digest: str
    recipe_digest: str
    trained_on: str  # in words
    versions: dict[str, Any]
    mirror_variance: float | None = None  # V_m, squared standard deviations; None where the mirror is no expert
    healthy_scans: dict[str, list[float]] | None = None  # by measure (preparation.measures); earlier records lack them
    # Of one score, each with its name; None in earlier records.
    null: dict[str, Any] | None = None  # calibration.null.Null: what healthy voxels score, by stratum
    volume_thresholds: dict[str, Any] | None = None  # calibration.promise.Promise: thresholds by promised volume
    largest: dict[str, Any] | None = None  # calibration.components.Largest: the largest false positive of every scan
    kernels: str | None = None  # whose kernels restored the scans, of `methods.names.KERNELS`; earlier records lack it


KEYS = {  # of the record on disk, by field
    "method": "Method",
    "strength": "Lambda",
    "search": "Search",
    "voxels": "Voxels",
    "thresholds": "Thresholds",
    "subjects": "CalibrationSubjects",
    "config_digest": "ConfigSHA256",
    "weights_digest": "WeightsSHA256",
    "recipe_digest": "RecipeSHA256",
    "trained_on": "TrainedOn",
    "versions": "Versions",
    "mirror_variance": "MirrorVariance",
    "healthy_scans": "HealthyScans",
    "null": "Null",
    "volume_thresholds": "VolumeThresholds",
    "largest": "LargestFalsePositives",
    "kernels": "Kernels",
}

# Earlier records lack them.
LATER_FIELDS = ("recipe_digest", "mirror_variance", "healthy_scans", "null", "volume_thresholds", "largest", "kernels")


def path(workdir: pathlib.Path, method: str) -> pathlib.Path:
    """Returns where a method's calibration is kept."""
    return workdir / "calibration" / f"{method}.json"


def digest(config) -> str:
    """Returns SHA-256 of the parts of a config that a restoration depends on."""
    parts = {part: experiment.as_json(config[part]) for part in FREE}
    kept = {
        part: {k: v for k, v in parts[part].items() if k not in free and (k, v) not in LATER.items()}
        for part, free in FREE.items()
    }
    return files.digest({**kept, "seed": config.seed})


def write(workdir: pathlib.Path, calibration: Calibration) -> pathlib.Path:
    """Writes a method's calibration and returns its file."""
    file = path(workdir, calibration.method)
    record = {key: getattr(calibration, field) for field, key in KEYS.items()}
    files.atomic_write(file, json.dumps(record, indent=2) + "\n")
    return file


def read(workdir: pathlib.Path, method: str) -> Calibration:
    """Reads a method's calibration, whatever it was made for.

    Raises:
      InputError: there is none, or it is damaged.
    """
    file = path(workdir, method)
    again = f"Run {_command(workdir, method)}"
    try:
        earlier = dict.fromkeys(KEYS[field] for field in LATER_FIELDS)
        record = {**earlier, **json.loads(file.read_text())}
        return Calibration(**{field: record[key] for field, key in KEYS.items()})
    except FileNotFoundError:
        if workdir == SHIPPED:
            raise InputError(
                method, "needs thresholds, which do not travel with lgjax", f"{again}, and name that work directory"
            ) from None
        raise InputError(file, "is not there: the method is not calibrated", again) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(file, f"cannot be read ({error})", again) from error


def load(config, workdir: pathlib.Path, method: str, weights_digest: str, recipe_digest: str) -> Calibration:
    """Reads a method's calibration and checks what it was made for.

    Raises:
      InputError: there is none, or it is damaged.
      UsageError: it was made for other weights, another preparation of scans, other settings or other rates.
    """
    file, again = path(workdir, method), _command(workdir, method)
    found = read(workdir, method)
    if found.weights_digest != weights_digest:
        raise UsageError(f"{file}: was made for other weights. Run {again}")
    if found.recipe_digest != recipe_digest:
        raise UsageError(f"{file}: was made from scans that were prepared otherwise. Run {again}")
    if found.config_digest != digest(config):
        raise UsageError(f"{file}: was made with other settings of data, model or restore. Run {again} with the same.")
    if "signed" not in found.thresholds and config.restore.score not in found.thresholds:
        problem = f"has no thresholds for the score {config.restore.score}"
        raise UsageError(f"{file}: {problem}. Run {again}, and restore again.")
    asked = rate_names(config.restore.false_positive_rates)
    if missing := [rate for rate in asked if any(rate not in by_rate for by_rate in found.thresholds.values())]:
        problem = f"has no threshold for the false positive rate {', '.join(missing)}"
        raise UsageError(f"{file}: {problem}. Run {again} with the same --config.restore.false_positive_rates.")
    return found


def _command(workdir: pathlib.Path, method: str) -> str:
    if is_released(workdir):
        made = f"python -m lgjax.export --model={workdir} --output=N --config.data.source=HEALTHY_SCANS"
    else:
        made = (
            f"{MAKE_ONE}{RUNS / 'detection'}"
            if workdir == SHIPPED
            else f"python -m lgjax.calibrate --workdir={workdir}"
        )
    return f"{made} --method={method}"
