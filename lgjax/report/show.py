"""From results, on disk or in memory, to the pages of the viewer: one scan in memory at a time."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from lgjax.derivatives.read import Prediction, is_output, read_predictions
from lgjax.derivatives.sidecar import Midplane, short_unit
from lgjax.detector import Detection
from lgjax.evaluation import references
from lgjax.report import viewer
from lgjax.report.viewer import Line, Shown
from lgjax.runtime import progress
from lgjax.runtime.errors import LgjaxError
from lgjax.runtime.files import atomic_write
from lgjax.scans import nifti, sources
from lgjax.scans.volume import Volume

LOG = logging.getLogger(__name__)
FOLDER = "viewer"  # of the pages, beside what they belong to


def of(prediction: Prediction, subject: sources.Subject, values: Sequence[float] | None = (), about: str = "") -> Shown:
    """Reads one scan and what was found in it.

    Args:
      prediction: what `restore` wrote.
      subject: the scan.
      values: of the reference that are lesion, see `segmentations.lesion_of`; None: no reference is read.
      about: the scan in words.

    Raises:
      InputError: a file cannot be read, or lies on another grid.
    """
    image, sidecar = subject.image(), prediction.sidecar
    anomaly = prediction.read("desc-anomaly_T2w")
    nifti.check_same_grid(anomaly, image)
    has_restored = prediction.path("desc-restored_T2w").exists()  # GMM and others restore nothing
    return Shown(
        identifier=prediction.identifier,
        method=sidecar.method,
        unit=short_unit(sidecar.score),
        affine=anomaly.affine,
        scan=image.data,
        brain=prediction.mask("desc-brain_mask", anomaly),
        anomaly=anomaly.data,
        restored=prediction.read("desc-restored_T2w").data if has_restored else None,
        detected=_detected(prediction, anomaly),
        reference=None if values is None else references.read(subject, anomaly, values).lesion,
        thresholds=sidecar.thresholds,
        rate=sidecar.mask_rate,
        about=about,
        plane=sidecar.midplane,
    )


def write(
    folder: pathlib.Path,
    lines: Sequence[Line],
    predictions: Mapping[str, Prediction],
    subjects: Mapping[str, sources.Subject],
    values: Sequence[float] | None = None,
) -> dict[str, str]:
    """Writes a page for each scan and the page that lists them.

    Args:
      folder: for the pages; made if need be.
      lines: the scans.
      predictions, subjects: by identifier.
      values: see `of`.

    Returns:
      The name of each scan's page by identifier. A scan that cannot be read has none, and is logged.

    Raises:
      EnvironmentFault: the disk refuses.
    """
    found, order = {}, viewer.ordered(lines)
    names = [None, *(line.identifier for line in order), None]
    for before, line, after in progress.track(zip(names, order, names[2:], strict=False), "viewer", len(order), "page"):
        name, prediction = line.identifier, predictions[line.identifier]
        try:
            shown = of(prediction, subjects[name], values, describe(line))
        except LgjaxError as error:
            LOG.warning("no page of %s in the viewer: %s", name, error)
            continue
        atomic_write(folder / viewer.name(name), viewer.page(shown, before, after, index=True))
        found[name] = viewer.name(name)
    rate = predictions[order[0].identifier].sidecar.mask_rate if order else "0"
    atomic_write(folder / "index.html", viewer.index([line for line in order if line.identifier in found], rate))
    return found


def write_of_folder(folder: pathlib.Path, subjects: Sequence[sources.Subject]) -> dict[str, str]:
    """Writes the pages of those scans that are finished in a folder of results, into the folder; see `write`.

    References are not read.
    """
    if not is_output(folder):
        return {}
    known = {subject.identifier: subject for subject in subjects}
    predictions = {name: found for name, found in read_predictions(folder)[0].items() if name in known}
    lines = [Line(name, "", None, _detected_ml(prediction), None) for name, prediction in predictions.items()]
    return write(folder / FOLDER, lines, predictions, known)


def view(found: Detection, path: str | os.PathLike) -> pathlib.Path:
    """Writes one page that opens the volumes of a detection in a browser, and returns its path.

    Args:
      found: what a detector returned.
      path: the page, `scan.html` for example.

    Raises:
      EnvironmentFault: the disk refuses.
    """
    about, page = found.about, pathlib.Path(path)
    shown = Shown(
        identifier=found.identifier,
        method=about["Method"],
        unit=short_unit(about["Score"]),
        affine=found.affine,
        scan=found.subject.image.data,
        brain=found.brain,
        anomaly=found.anomaly,
        restored=found.restored,
        detected=found.masks[about["MaskRate"]],
        reference=None,
        thresholds=about["Thresholds"],
        rate=about["MaskRate"],
        plane=about["MidsagittalPlane"] and Midplane(**about["MidsagittalPlane"]),
    )
    atomic_write(page, viewer.page(shown))
    return page


def describe(line: Line) -> str:
    """Returns what is known of a scan beside its volumes, in words."""
    volume = "" if line.lesion_ml is None else f"{line.lesion_ml:.1f} mL of lesion"
    found = "" if line.detected_ml is None else f"{line.detected_ml:.1f} mL detected"
    dice = "" if line.dice is None else f"Dice {line.dice:.3f}"
    return ", ".join(part for part in (line.kind, volume, found, dice) if part)


def _detected_ml(prediction: Prediction) -> float | None:
    """Returns the volume of the mask that is shown."""
    anomaly = prediction.read("desc-anomaly_T2w")
    mask = _detected(prediction, anomaly)
    return None if mask is None else float(mask.sum() * anomaly.voxel_ml)


def _detected(prediction: Prediction, anomaly: Volume) -> np.ndarray | None:
    """Reads the mask that is shown; None for a map without calibrated thresholds."""
    rate = prediction.sidecar.mask_rate
    return prediction.detected(rate, anomaly) if rate in prediction.sidecar.thresholds else None
