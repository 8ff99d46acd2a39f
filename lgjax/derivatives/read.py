"""What lgjax.restore wrote, read back: one finished subject at a time, all of one experiment."""

import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lgjax.derivatives.write import rate_name
from lgjax.methods.names import SCORES
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import nifti
from lgjax.scans.volume import Volume

SUFFIX = "_space-orig_desc-anomaly_T2w.nii.gz"
SAME = ("Method", "Score", "ConfigSHA256", "WeightsSHA256", "Lambda", "Thresholds", "SliceStep")  # within one folder
UNFINISHED = "Run lgjax.restore again, or remove this subject's folder"


class Prediction(NamedTuple):
    """One subject's folder of restored outputs."""

    identifier: str
    anat: pathlib.Path
    sidecar: dict[str, Any]

    def path(self, entities: str) -> pathlib.Path:
        """Returns the file of one of the outputs."""
        return self.anat / f"{self.identifier}_space-orig_{entities}.nii.gz"

    def read(self, entities: str) -> Volume:
        """Reads one of the outputs, for example "desc-restored_T2w"."""
        return nifti.read(self.path(entities), assume_ras=True, single_slice=True)  # as restore accepted it

    def mask(self, entities: str, like: Volume) -> np.ndarray:
        """Reads a mask on the grid of `like`, [X, Y, Z] bool."""
        volume = self.read(entities)
        nifti.check_same_grid(like, volume)
        if not ((volume.data == 0) | (volume.data == 1)).all():
            raise InputError(volume.source, "is no mask: it has values other than 0 and 1", "Restore it again")
        return volume.data == 1

    def detected(self, rate: str, like: Volume) -> np.ndarray:
        """Reads the detection mask at one calibrated false positive rate, [X, Y, Z] bool."""
        return self.mask(f"label-lesion_desc-{rate_name(rate)}_mask", like)


def read_predictions(folder: pathlib.Path) -> tuple[dict[str, Prediction], dict[str, str]]:
    """Lists the finished subjects of one restore output folder, and what is wrong with the others.

    Raises:
      UsageError: there are none, a subject stands there twice, or they come from more than one experiment.
    """
    predictions: dict[str, Prediction] = {}
    failed: dict[str, str] = {}
    for anat in sorted(folder.glob("sub-*/anat")):
        name = anat.parent.name
        found = sorted(path.name for path in anat.glob("*_desc-anomaly_T2w.nii.gz"))
        if len(found) > 1:
            raise UsageError(f"{anat} holds {len(found)} anomaly maps: {', '.join(found)}. Keep one a subject.")
        try:
            predictions[name] = Prediction(name, anat, _read_sidecar(anat / (name + SUFFIX)))
        except InputError as error:
            failed[name] = str(error)
    if not predictions and not failed:
        raise UsageError(f"{folder} holds no sub-*/anat folder. Give the output folder of lgjax.restore.")
    _check_one_experiment(folder, list(predictions.values()))
    return predictions, failed


def _read_sidecar(image: pathlib.Path) -> dict[str, Any]:
    """Reads the JSON beside an anomaly map; restore writes it last: without it the subject is unfinished."""
    path = image.with_name(image.name.removesuffix(".nii.gz") + ".json")
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(sidecar, allow_nan=False)  # numbers that are not finite cannot stand in metrics.json either
    except FileNotFoundError as error:
        raise InputError(path, "is missing: the subject is unfinished", UNFINISHED) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, f"cannot be read: {error}", UNFINISHED) from error
    problem = _sidecar_problem(sidecar)
    if problem:
        raise InputError(path, problem, UNFINISHED)
    sidecar["Thresholds"] = dict(sorted(sidecar["Thresholds"].items(), key=lambda item: float(item[0])))
    return sidecar


def _sidecar_problem(sidecar) -> str | None:
    if not isinstance(sidecar, dict):
        return "is no JSON object"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", str(sidecar.get("Method"))):  # it names a folder
        return f"names the method {sidecar.get('Method')!r}; expected letters, digits, - and _"
    if sidecar.get("Score") not in SCORES:
        return f"has the score {sidecar.get('Score')!r}; expected one of {', '.join(SCORES)}"
    if not isinstance(sidecar.get("InputSHA256"), str):
        return "has no InputSHA256"
    for key, (expected, holds) in OPTIONAL.items():
        if sidecar.get(key) is not None and not holds(sidecar[key]):
            return f"has {key} {str(sidecar[key])[:60]!r}; expected {expected}"
    sidecar["SliceStep"] = sidecar.get("SliceStep") or 1
    sidecar["CalibrationSubjects"] = sidecar.get("CalibrationSubjects") or []
    thresholds = sidecar.setdefault("Thresholds", {})
    rates_are_numbers = isinstance(thresholds, dict) and all(
        re.fullmatch(r"0\.[0-9]{1,9}", rate) and _is_number(value) for rate, value in thresholds.items()
    )
    return None if rates_are_numbers else f"has the thresholds {thresholds!r}; expected numbers by rate"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are(check: Callable[[Any], bool], values, size: int | None = None) -> bool:
    """Whether `values` is a list, of that many, that all pass."""
    return isinstance(values, list) and size in (None, len(values)) and all(map(check, values))


def _is_search(value) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_number(value.get(key)) for key in ("strength", "ssim", "target"))
        and all(isinstance(value.get(key), bool) for key in ("monotone", "reached"))
        and _are(lambda point: _are(_is_number, point, 2), value.get("curve"))
    )


def _is_convergence(value) -> bool:
    if not isinstance(value, dict) or not (isinstance(value.get("iteration"), list) and value["iteration"]):
        return False
    return all(_are(_is_number, value.get(key), len(value["iteration"])) for key in ("iteration", "change"))


# What a sidecar may say, null or left out where it does not apply: what is expected, and whether a value is that.
OPTIONAL: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "CalibrationSubjects": ("a list of hashes", lambda value: _are(lambda item: isinstance(item, str), value)),
    "SecondsPerIteration": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "BatchSize": ("a number of slices", _is_count),
    "Grid": ("height and width", lambda value: _are(_is_count, value, 2)),
    "SliceStep": ("a whole number above 0", _is_count),
    "UsedInTraining": ("true or false", lambda value: isinstance(value, bool)),
    "Search": ("strength, ssim, target, curve, monotone and reached", _is_search),
    "Convergence": ("iteration and change, lists of numbers of one length", _is_convergence),
}


def _check_one_experiment(folder: pathlib.Path, predictions: Sequence[Prediction]) -> None:
    scans: dict[str, str] = {}
    for prediction in predictions:
        other = scans.setdefault(prediction.sidecar["InputSHA256"], prediction.identifier)
        if other != prediction.identifier:
            problem = f"{other} and {prediction.identifier} in {folder} are restorations of the same scan"
            raise UsageError(f"{problem} (equal InputSHA256). Remove one of them.")
        for key in SAME:
            ours, theirs = (item.sidecar.get(key) for item in (prediction, predictions[0]))
            if ours != theirs:
                problem = f"{folder} mixes experiments: {key} is {theirs!r} for {predictions[0].identifier}"
                remedy = "Restore them again into a folder of their own."
                raise UsageError(f"{problem} and {ours!r} for {prediction.identifier}. {remedy}")
