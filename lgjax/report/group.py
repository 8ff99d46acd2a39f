"""The table of a cohort's results, a scan a line, and what its columns mean."""

import functools
import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lgjax.calibration import promise
from lgjax.derivatives import lesions, pages, read, results
from lgjax.derivatives.lesions import Lesion
from lgjax.derivatives.read import Prediction
from lgjax.derivatives.sidecar import ANOMALY, Sidecar, volume_name
from lgjax.evaluation.records import percent
from lgjax.preparation.likeness import MEASURES
from lgjax.report import text
from lgjax.runtime import places, progress
from lgjax.runtime.errors import InputError
from lgjax.scans import names
from lgjax.scans.volume import Volume

NAME = pages.GROUP
FINISHED, UNFINISHED = "finished", "unfinished"


class Part(NamedTuple):
    """What a mask holds."""

    lesions: int  # connected components
    ml: float


class Measured(NamedTuple):
    """What is read of a finished scan."""

    sidecar: Sidecar
    lesions: list[Lesion]  # in the mask at the rate `mask_rate`, the largest first
    brain_ml: float
    promised: dict[str, Part]  # what the mask of a promised volume holds, by the volume in mL

    @property
    def p(self) -> float | None:
        """The p-value of the largest lesion; None where there is none, or no healthy scans to hold it against."""
        healthy = self.sidecar.largest_false_positives
        return lesions.pvalue(self.lesions[0].volume_ml, healthy) if self.lesions and healthy else None


class Cohort(NamedTuple):
    """Scans by identifier, in its order."""

    finished: dict[str, Measured]
    unfinished: dict[str, str]  # what is wrong


class Column(NamedTuple):
    """One column: how to read its value of a finished scan, what it says, and in which unit."""

    read: Callable[[Measured], Any]
    about: str
    units: str = ""


def _measure(name: str, found: Measured) -> float | None:
    return found.sidecar.quality.measures.get(name) if found.sidecar.quality else None


ELSEWHERE = ("volume", "symmetry")  # measures of likeness that other columns have
LIKENESS = {  # the others, by column
    f"qc_{name}": Column(functools.partial(_measure, name), measure.words.capitalize(), measure.unit.strip())
    for name, measure in MEASURES.items()
    if name not in ELSEWHERE
}
COLUMNS = {
    "lesion_count": Column(lambda found: len(found.lesions), "Connected components of the mask (26 neighbours)"),
    "lesion_ml": Column(lambda found: sum(one.volume_ml for one in found.lesions), "Volume of the mask", "mL"),
    "largest_lesion_ml": Column(
        lambda found: found.lesions[0].volume_ml if found.lesions else 0.0, "Volume of the largest component", "mL"
    ),
    "largest_lesion_p": Column(
        lambda found: found.p,
        "Share of healthy scans whose largest false positive is at least as big as the largest component",
    ),
    "brain_ml": Column(lambda found: found.brain_ml, "Volume in which the method looked", "mL"),
    "peak": Column(
        lambda found: max((one.peak for one in found.lesions), default=None),
        "Highest magnitude of the score in the mask; n/a for an empty mask",
    ),
    "slices": Column(lambda found: found.sidecar.slices, "Axial slices with brain"),
    "filled_voxels": Column(lambda found: found.sidecar.filled, "Voxels of the brain that were not finite"),
    "midplane_score": Column(
        lambda found: found.sidecar.midplane and found.sidecar.midplane.score,
        "Fit of the mid-sagittal plane: 1 for equal sides; near 0, or below, the mirror had no say",
    ),
    "midplane_uncertainty_mm": Column(
        lambda found: found.sidecar.midplane and found.sidecar.midplane.uncertainty_mm,
        "Standard deviation of the plane's place at the brain's edge",
        "mm",
    ),
    "light": Column(
        lambda found: found.sidecar.quality and found.sidecar.quality.light,
        "Whether the scan is like the healthy scans of the calibration: green, amber or red, or unknown",
    ),
    **LIKENESS,
    "warnings": Column(lambda found: len(found.sidecar.warnings), "Warnings about the scan, which its sidecar tells"),
    "used_in_training": Column(
        lambda found: found.sidecar.used_in_training, "Whether the networks have learned from this very scan"
    ),
}


def columns(cohort: Cohort) -> dict[str, Column]:
    """Returns the columns of a cohort: `COLUMNS`, and those of the masks of promised volumes that its scans have."""
    volumes = sorted({volume for found in cohort.finished.values() for volume in found.promised}, key=float)
    return COLUMNS | {name: column for volume in volumes for name, column in _of_promise(volume).items()}


def _of_promise(volume: str) -> dict[str, Column]:
    """Returns the columns of the mask of a promised volume, mL."""

    def read(found: Measured) -> Part | None:
        return found.promised.get(volume)

    about = f"mask with {volume} mL of false positives at most, on average, in healthy scans like those of calibration"
    name, about = volume_name(volume), f"{about} (a scan counts at most {promise.CAP} times that)"
    count = Column(
        lambda found: (part := read(found)) and part.lesions, f"Connected components (26 neighbours) of a {about}"
    )
    return {
        f"{name}_lesion_count": count,
        f"{name}_lesion_ml": Column(lambda found: (part := read(found)) and part.ml, f"Volume of a {about}", "mL"),
    }


NAMES = {  # columns that unfinished scans have too
    "bids_name": "Name of the scan",
    "participant_id": "Participant",
    "session_id": "Session",
    "status": "Whether the scan has results",
}
LEVELS = {FINISHED: "The scan is restored", UNFINISHED: "The scan is not restored, or its results are damaged"}


def survey(folder: pathlib.Path, asked: Collection[str], everything: bool) -> Cohort:
    """Measures the results of a cohort, one scan in memory at a time.

    Args:
      folder: of the results.
      asked: identifiers of the scans that there should be results of.
      everything: whether results of other scans count too.

    Raises:
      UsageError: the folder holds no results, or those of several experiments.
    """
    predictions, failed = read.read_predictions(folder)
    failed = failed | results.failures(folder)
    identifiers = sorted({*asked, *(predictions | failed if everything else ())})
    found = Cohort({}, {})
    for name in progress.track(identifiers, NAME, len(identifiers), "scan"):
        if name not in predictions:
            found.unfinished[name] = places.told(failed.get(name, "has no results"))
            continue
        try:
            found.finished[name] = measure(predictions[name])
        except InputError as error:
            found.unfinished[name] = places.told(str(error))
    return found


def measure(prediction: Prediction) -> Measured:
    """Reads the maps of a finished scan.

    Raises:
      InputError: a map is missing or damaged.
    """
    told, anomaly = prediction.sidecar, prediction.read(ANOMALY)
    brain = prediction.mask("desc-brain_mask", anomaly)
    mask = prediction.detected(told.mask_rate, anomaly)
    millilitres = brain.sum() * anomaly.voxel_ml
    labels = lesions.label(mask, anomaly.affine)
    found = lesions.measure(labels, anomaly.data, brain, anomaly.affine, told.midplane)
    promised = {volume: _part(prediction.promised(volume, anomaly), anomaly) for volume in told.volume_thresholds}
    return Measured(told, found, float(millilitres), promised)


def _part(mask: np.ndarray, anomaly: Volume) -> Part:
    """Returns what a mask, [X, Y, Z] bool, on the grid of a map holds."""
    return Part(int(lesions.label(mask, anomaly.affine).max(initial=0)), float(mask.sum() * anomaly.voxel_ml))


def row(
    identifier: str, found: Measured | None, columns: Mapping[str, Column] = MappingProxyType(COLUMNS)
) -> dict[str, Any]:
    """Returns the values of a scan by column, None where there is none; a scan without results has its names alone."""
    session = next((part for part in identifier.split("_") if part.startswith("ses-")), None)
    status = UNFINISHED if found is None else FINISHED
    head = (f"{identifier}_T2w", names.subject(identifier), session, status)
    values = {name: None if found is None else column.read(found) for name, column in columns.items()}
    return dict(zip(NAMES, head, strict=True)) | values


def table(cohort: Cohort) -> str:
    """Returns the table as tab-separated values, all scans by identifier; what a scan lacks is n/a."""
    named = columns(cohort)
    rows = [row(name, cohort.finished.get(name), named) for name in sorted(cohort.finished | cohort.unfinished)]
    lines = [[text.ABSENT if value is None else text.cell(value) for value in each.values()] for each in rows]
    return "".join("\t".join(line) + "\n" for line in [[*NAMES, *named], *lines])


def dictionary(cohort: Cohort) -> str:
    """Returns what the columns mean, as the JSON that BIDS has beside a table."""
    made = next((found.sidecar for found in cohort.finished.values()), None)
    entries: dict[str, Any] = {name: {"Description": about} for name, about in NAMES.items()}
    entries["status"] |= {"Levels": LEVELS}
    for name, column in columns(cohort).items():
        about = column.about
        if made:
            about = about.replace(
                "the mask", f"the mask at {percent(made.mask_rate)} false positives on healthy brains"
            )
        units = made.units if made and name == "peak" else column.units
        entries[name] = {"Description": about} | ({"Units": units} if units else {})
    return json.dumps(entries, indent=2) + "\n"
