"""The schema of a restored subject: the names of its files, the keys of their sidecars, and what these may hold."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from lgjax.methods.names import KERNELS, SCORES
from lgjax.preparation.likeness import LIGHTS, UNLIKE
from lgjax.scans import names
from lgjax.scans.finding.written import ANOMALY as ANOMALY
from lgjax.scans.finding.written import ANY_LESIONS as ANY_LESIONS
from lgjax.scans.finding.written import PVALUE as PVALUE
from lgjax.scans.finding.written import RESTORED as RESTORED
from lgjax.scans.finding.written import SPACE as SPACE
from lgjax.scans.finding.written import rate_name as rate_name
from lgjax.scans.finding.written import volume_name as volume_name

SAME = (  # within one folder
    "Method",
    "Score",
    "ConfigSHA256",
    "WeightsSHA256",
    "Lambda",
    "Thresholds",
    "MaskRate",
    "SliceStep",
)
UNITS = {
    "restored": "as the input",
    "mask": "1 = inside",
    "pvalue": "probability",
    "lesions": "0 = no lesion, 1 = the largest lesion",
}
DONE = (  # a subject with the same values need not be restored again
    "SourceSHA256",
    "Method",
    "Score",
    "ConfigSHA256",
    "WeightsSHA256",
    "RecipeSHA256",
    "Lambda",
    "Thresholds",
    "MaskRate",
    "SliceStep",
    "VolumeThresholds",
    "PValues",
    "LargestFalsePositives",
    "Version",
)
EARLIER_MASK_RATE = "0.01"  # of the sidecars that do not say theirs


@dataclasses.dataclass(frozen=True)
class Search:
    """How lambda was chosen on healthy slices."""

    strength: float  # lambda
    ssim: float  # mean SSIM of the restored slices at it
    curve: list[list[float]]  # [lambda, SSIM] of every lambda tried, by lambda
    monotone: bool  # whether SSIM never fell with lambda
    reached: bool  # whether the target was reached
    target: float  # wanted SSIM


@dataclasses.dataclass(frozen=True)
class Convergence:
    """How far the pixels of the brain still moved while a scan was restored."""

    iteration: list[int]
    change: list[float]  # mean absolute change of a pixel in that iteration, sd of the brain


@dataclasses.dataclass(frozen=True)
class Midplane:
    """Where the mid-sagittal plane was found, of a method that looks at the mirror image."""

    normal: list[float]  # unit vector in the scanner's mm (RAS+), to the patient's left
    offset_mm: float  # the points p of the plane have normal . p = offset_mm
    uncertainty_mm: float  # one standard deviation of the plane's place at the brain's edge
    score: float  # of the fit: 1 for equal sides; near 0, or below, the mirror had no say


@dataclasses.dataclass(frozen=True)
class Quality:
    """Whether the scan is like the healthy scans of the calibration."""

    light: str  # green, amber or red; unknown where nothing can be said
    reasons: list[str]  # in words
    measures: dict[str, float]  # of the scan, by name (see `preparation.measures`)

    @property
    def unlike(self) -> bool:
        """Whether a person should be told."""
        return self.light in UNLIKE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the sidecar of an anomaly map says, as far as a reader asks; None where it does not say."""

    method: str
    score: str
    input_sha256: str
    thresholds: dict[str, float]  # in the unit of the anomaly map, by false positive rate ("0.01"), ascending
    volume_thresholds: dict[str, float]  # as `thresholds`, by promised volume in mL ("5"); {} where none is promised
    mask_rate: str  # the one of them whose mask is shown, and whose lesions are counted
    slice_step: int  # one of so many axial slices was restored
    calibration_subjects: list[str]  # SHA-256 of their scans
    used_in_training: bool
    seconds_per_iteration: float | None  # s, of one batch
    batch_size: int | None  # slices
    grid: list[int] | None  # height and width of a slice, pixels
    search: Search | None
    convergence: Convergence | None
    midplane: Midplane | None
    quality: Quality | None
    trained_on: Any
    strength: float | None  # lambda
    seed: int | None
    config_sha256: str | None
    weights_sha256: str | None
    version: str | None
    device: str | None
    jax_version: str | None
    units: str | None  # of the anomaly map
    slices: int | None  # axial ones with brain
    filled: int | None  # voxels of the brain that were not finite
    warnings: list[str]  # about the scan
    largest_false_positives: list[float]  # of the healthy scans of the calibration, mL; [] where nobody measured them
    shared: dict[str, Any]  # what is the same for all subjects of a folder, by key


def parse(content: Mapping[str, Any]) -> Sidecar:
    """Returns a sidecar in which `problem_of` finds no problem; old ones left out some of it."""
    thresholds = _ascending(content.get("Thresholds", {}))
    shown = content.get("MaskRate") or EARLIER_MASK_RATE
    content = {**content, "Thresholds": thresholds, "MaskRate": shown, "SliceStep": content.get("SliceStep") or 1}
    return Sidecar(
        method=content["Method"],
        score=content["Score"],
        input_sha256=content["InputSHA256"],
        thresholds=content["Thresholds"],
        volume_thresholds=_ascending(content.get("VolumeThresholds") or {}),
        mask_rate=content["MaskRate"],
        slice_step=content["SliceStep"],
        calibration_subjects=content.get("CalibrationSubjects") or [],
        used_in_training=bool(content.get("UsedInTraining")),
        seconds_per_iteration=content.get("SecondsPerIteration"),
        batch_size=content.get("BatchSize"),
        grid=content.get("Grid"),
        search=_part(Search, content.get("Search")),
        convergence=_part(Convergence, content.get("Convergence")),
        midplane=midplane_of(content),
        quality=quality_of(content),
        trained_on=content.get("TrainedOn"),
        strength=content.get("Lambda"),
        seed=content.get("Seed"),
        config_sha256=content.get("ConfigSHA256"),
        weights_sha256=content.get("WeightsSHA256"),
        version=content.get("Version"),
        device=content.get("Device"),
        jax_version=content.get("JaxVersion"),
        units=content.get("AnomalyUnits"),
        slices=content.get("Slices"),
        filled=content.get("FilledVoxels"),
        warnings=content.get("Warnings") or [],
        largest_false_positives=content.get("LargestFalsePositives") or [],
        shared={key: content.get(key) for key in SAME},
    )


def _ascending(thresholds: Mapping[str, float]) -> dict[str, float]:
    """Sorts thresholds by the number that names them."""
    return dict(sorted(thresholds.items(), key=lambda item: float(item[0])))


def midplane_of(content: Mapping[str, Any]) -> Midplane | None:
    """Returns the mid-sagittal plane that a sidecar states; None where none was looked for."""
    return _part(Midplane, content.get("MidsagittalPlane"))


def quality_of(content: Mapping[str, Any]) -> Quality | None:
    """Returns how like healthy ones a scan is; None where a sidecar does not say."""
    return _part(Quality, content.get("Quality"))


def _part(record: Any, content: Mapping[str, Any] | None) -> Any:
    """Returns a record whose fields have the names of its keys."""
    return content and record(**{field.name: content[field.name] for field in dataclasses.fields(record)})


def file(folder: pathlib.Path, identifier: str, entities: str, extension: str = "nii.gz") -> pathlib.Path:
    """Returns the path of one of a scan's outputs; of an identifier with a session in the session's folder."""
    return names.file(folder, identifier, f"{SPACE}_{entities}.{extension}")


def picture(folder: pathlib.Path, identifier: str) -> pathlib.Path:
    """Returns the path of the picture that shows a scan's anomaly map."""
    return names.figure(folder, identifier, f"{SPACE}_{ANOMALY}.png")


def short_unit(score: str) -> str:
    """Returns the unit of an anomaly map as pictures and pages write it."""
    return "medians of |Y - X|" if score == "relative" else "sd"


def lesions(rate: str) -> str:
    """Returns what names the labelled lesions of the mask at a rate, and the table of these."""
    return ANY_LESIONS.replace("*", rate_name(rate))


def problem_of(sidecar: Any) -> str | None:
    """Says what is wrong with a sidecar as it was read; None: nothing."""
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
    thresholds = sidecar.get("Thresholds", {})
    if not _are_thresholds(r"0\.[0-9]{1,9}", thresholds):
        return f"has the thresholds {thresholds!r}; expected numbers by rate"
    shown = sidecar.get("MaskRate")
    if shown is not None and shown not in list(thresholds):
        return f"has the MaskRate {str(shown)[:60]!r}; expected one of its thresholds: {', '.join(thresholds)}"
    return None


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are(check: Callable[[Any], bool], values, size: int | None = None) -> bool:
    """Returns whether `values` is a list, of `size` values where that is given, that all pass."""
    return isinstance(values, list) and size in (None, len(values)) and all(map(check, values))


def _are_thresholds(name: str, value) -> bool:
    """Returns whether `value` holds numbers by names of one pattern."""
    return isinstance(value, dict) and all(re.fullmatch(name, key) and _is_number(t) for key, t in value.items())


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


def _is_midplane(value) -> bool:
    if not isinstance(value, dict) or not _are(_is_number, value.get("normal"), 3):
        return False
    return all(_is_number(value.get(key)) for key in ("offset_mm", "uncertainty_mm", "score")) and any(value["normal"])


def _is_quality(value) -> bool:
    if not isinstance(value, dict) or value.get("light") not in LIGHTS or not isinstance(value.get("measures"), dict):
        return False
    said = _are(lambda reason: isinstance(reason, str), value.get("reasons"))
    return said and all(map(_is_number, value["measures"].values()))


# What a sidecar may say, null or left out where it does not apply: what is expected, and whether a value is that.
OPTIONAL: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "CalibrationSubjects": ("a list of hashes", lambda value: _are(lambda item: isinstance(item, str), value)),
    "VolumeThresholds": ("numbers by volume", functools.partial(_are_thresholds, r"[0-9]{1,6}(\.[0-9]{1,6})?")),
    "SecondsPerIteration": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "BatchSize": ("a number of slices", _is_count),
    "Grid": ("height and width", lambda value: _are(_is_count, value, 2)),
    "Kernels": (" or ".join(KERNELS), lambda value: value in KERNELS),
    "CalibrationKernels": ("a text", lambda value: isinstance(value, str)),
    "SliceStep": ("a whole number above 0", _is_count),
    "UsedInTraining": ("true or false", lambda value: isinstance(value, bool)),
    "AnomalyUnits": ("a text", lambda value: isinstance(value, str)),
    "Slices": ("a number of slices", _is_count),
    "FilledVoxels": ("a number of voxels", lambda value: value == 0 or _is_count(value)),
    "LargestFalsePositives": ("a list of volumes", lambda value: _are(_is_number, value)),
    "Warnings": ("a list of texts", lambda value: _are(lambda item: isinstance(item, str), value)),
    "Search": ("strength, ssim, target, curve, monotone and reached", _is_search),
    "MidsagittalPlane": ("normal, of three numbers, offset_mm, uncertainty_mm and score", _is_midplane),
    "Quality": (f"a light ({', '.join(LIGHTS)}), reasons and measures", _is_quality),
    "Convergence": ("iteration and change, lists of numbers of one length", _is_convergence),
}
