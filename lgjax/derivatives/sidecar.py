"""The schema of a restored subject: the names of its files, the keys of their sidecars, and what these may hold."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

from lgjax.methods.names import SCORES

SAME = ("Method", "Score", "ConfigSHA256", "WeightsSHA256", "Lambda", "Thresholds", "SliceStep")  # within one folder
UNITS = {"restored": "as the input", "mask": "1 = inside"}
DONE = (  # a subject with the same values need not be restored again
    "SourceSHA256",
    "Method",
    "Score",
    "ConfigSHA256",
    "WeightsSHA256",
    "RecipeSHA256",
    "Lambda",
    "Thresholds",
    "SliceStep",
    "Version",
)


def file(folder: pathlib.Path, subject: str, entities: str, extension: str = "nii.gz") -> pathlib.Path:
    """Returns the path of one of a subject's files."""
    return folder / subject / "anat" / f"{subject}_space-orig_{entities}.{extension}"


def rate_name(rate: str) -> str:
    """Returns `fpr0p5` for the rate "0.005"."""
    return "fpr" + f"{100 * float(rate):g}".replace(".", "p")


def problem_of(sidecar: Any) -> str | None:
    """Says what is wrong with a sidecar as it was read; None: nothing. Fills in what old ones left out."""
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
    """Returns whether `values` is a list, of `size` values where that is given, that all pass."""
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
