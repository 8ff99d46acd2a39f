"""The table of a cohort's results, a scan a line, and what its columns mean."""

import functools
import json
import pathlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from lgjax.derivatives import lesions, pages, read, results
from lgjax.derivatives.lesions import Lesion
from lgjax.derivatives.read import Prediction
from lgjax.derivatives.sidecar import ANOMALY, Sidecar
from lgjax.evaluation.records import percent
from lgjax.preparation.likeness import MEASURES
from lgjax.report import text
from lgjax.runtime import places, progress
from lgjax.runtime.errors import InputError
from lgjax.scans import names

NAME = pages.GROUP
FINISHED, UNFINISHED = "finished", "unfinished"


class Measured(NamedTuple):
    """What is read of a finished scan."""

    sidecar: Sidecar
    lesions: list[Lesion]  # in the mask at the rate `mask_rate`, the largest first
    brain_ml: float

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
    anomaly = prediction.read(ANOMALY)
    brain = prediction.mask("desc-brain_mask", anomaly)
    mask = prediction.detected(prediction.sidecar.mask_rate, anomaly)
    millilitres = brain.sum() * anomaly.voxel_ml
    labels, plane = lesions.label(mask, anomaly.affine), prediction.sidecar.midplane
    found = lesions.measure(labels, anomaly.data, brain, anomaly.affine, plane)
    return Measured(prediction.sidecar, found, float(millilitres))


def row(identifier: str, found: Measured | None) -> dict[str, Any]:
    """Returns the values of a scan by column, None where there is none; a scan without results has its names alone."""
    session = next((part for part in identifier.split("_") if part.startswith("ses-")), None)
    status = UNFINISHED if found is None else FINISHED
    head = (f"{identifier}_T2w", names.subject(identifier), session, status)
    values = {name: None if found is None else column.read(found) for name, column in COLUMNS.items()}
    return dict(zip(NAMES, head, strict=True)) | values


def table(cohort: Cohort) -> str:
    """Returns the table as tab-separated values, all scans by identifier; what a scan lacks is n/a."""
    rows = [row(name, cohort.finished.get(name)) for name in sorted(cohort.finished | cohort.unfinished)]
    lines = [[text.ABSENT if value is None else text.cell(value) for value in each.values()] for each in rows]
    return "".join("\t".join(line) + "\n" for line in [[*NAMES, *COLUMNS], *lines])


def dictionary(cohort: Cohort) -> str:
    """Returns what the columns mean, as the JSON that BIDS has beside a table."""
    made = next((found.sidecar for found in cohort.finished.values()), None)
    entries: dict[str, Any] = {name: {"Description": about} for name, about in NAMES.items()}
    entries["status"] |= {"Levels": LEVELS}
    for name, column in COLUMNS.items():
        about = column.about
        if made:
            about = about.replace(
                "the mask", f"the mask at {percent(made.mask_rate)} false positives on healthy brains"
            )
        units = made.units if made and name == "peak" else column.units
        entries[name] = {"Description": about} | ({"Units": units} if units else {})
    return json.dumps(entries, indent=2) + "\n"
