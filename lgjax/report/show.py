"""From results, on disk or in memory, to the pages of the viewer: one scan in memory at a time."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lgjax.derivatives import pages, read, sidecar
from lgjax.derivatives.read import Prediction
from lgjax.derivatives.sidecar import Midplane, short_unit
from lgjax.detector import Detection
from lgjax.evaluation import references
from lgjax.report import viewer
from lgjax.report.viewer import Line, Shown
from lgjax.runtime import progress
from lgjax.runtime.errors import InputError, LgjaxError
from lgjax.runtime.files import atomic_write, check_contained
from lgjax.scans import nifti, sources
from lgjax.scans.volume import Volume


class Pages(NamedTuple):
    """The pages that were written, and the scans that have none."""

    written: list[str]  # identifiers
    failures: list[tuple[str, str]]  # identifier, and why

    @property
    def code(self) -> int:
        """The exit code: 0, or 3 if a scan has no page."""
        return InputError.exit_code if self.failures else 0


def of(prediction: Prediction, subject: sources.Subject, values: Sequence[float] | None = ()) -> Shown:
    """Reads one scan and what was found in it.

    Args:
      prediction: what `restore` wrote.
      subject: the scan.
      values: of the reference that are lesion, see `segmentations.lesion_of`; None: no reference is read.

    Raises:
      InputError: a file cannot be read, or lies on another grid.
    """
    image, told = subject.image(), prediction.sidecar
    anomaly = prediction.read(sidecar.ANOMALY)
    nifti.check_same_grid(anomaly, image)
    return Shown(
        identifier=prediction.identifier,
        method=told.method,
        unit=short_unit(told.score),
        affine=anomaly.affine,
        scan=image.data,
        brain=prediction.mask("desc-brain_mask", anomaly),
        anomaly=_finite(anomaly),
        restored=_restored(prediction, anomaly),
        detected=prediction.detected(told.mask_rate, anomaly) if told.mask_rate in told.thresholds else None,
        reference=None if values is None else references.read(subject, anomaly, values).lesion,
        thresholds=told.thresholds,
        promised=told.volume_thresholds,
        rate=told.mask_rate,
        plane=told.midplane,
    )


def write(
    folder: pathlib.Path,
    predictions: Mapping[str, Prediction],
    subjects: Mapping[str, sources.Subject],
    is_kept: Callable[[str], bool],
    lines: Mapping[str, Line] = MappingProxyType({}),
    values: Sequence[float] | None = None,
) -> Pages:
    """Writes a page for each scan, removes those of scans that are no more, and lists all that are there.

    Args:
      folder: the pages lie in its folder `viewer`.
      predictions: the scans to write, by identifier.
      subjects: by identifier.
      is_kept: says of the identifier of a page that lies there whether the page may stay.
      lines: what is known of scans, by identifier; of the others, the list tells what was detected.
      values: see `of`.

    Returns:
      Whose pages were written. A scan that cannot be read has none, and stops no other.

    Raises:
      InputError: a link leads out of the folder.
      EnvironmentFault: the disk refuses.
    """
    check_contained(folder, folder / pages.FOLDER)
    found = Pages([], [])
    for name, prediction in progress.track(predictions.items(), "viewer", len(predictions), "scan"):
        try:
            shown = of(prediction, subjects[name], values)
        except LgjaxError as error:
            pages.page(folder, name).unlink(missing_ok=True)
            found.failures.append((name, f"has no page in the viewer: {error}"))
            continue
        atomic_write(pages.page(folder, name), viewer.page(shown, lines.get(name) or _line(shown)))
        found.written.append(name)
    failed = {name for name, _ in found.failures}
    _list(folder, lambda name: name not in failed and is_kept(name))
    return found


def write_of_folder(folder: pathlib.Path, subjects: Sequence[sources.Subject]) -> Pages:
    """Writes the pages of those scans that are finished in a folder of results, into the folder; see `write`.

    Pages of other scans stay while their scans are finished. References are not read.
    """

    def is_finished(name: str) -> bool:
        return sidecar.file(folder, name, sidecar.ANOMALY, "json").exists()

    known = {subject.identifier: subject for subject in subjects if is_finished(subject.identifier)}
    if not known and not (folder / pages.FOLDER).exists():
        return Pages([], [])
    return write(folder, {name: read.read_one(folder, name) for name in known}, known, is_finished)


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
        promised=about.get("VolumeThresholds") or {},
        rate=about["MaskRate"],
        plane=about["MidsagittalPlane"] and Midplane(**about["MidsagittalPlane"]),
    )
    atomic_write(page, viewer.page(shown))
    return page


def _list(folder: pathlib.Path, is_kept: Callable[[str], bool]) -> None:
    """Removes pages that are not to stay, and writes the list of the others; without any there is no list.

    Other processes may write and remove pages at the same time: who writes the list last looks once more.
    """
    listed, lines = None, _lines(folder, is_kept)
    while lines != listed:
        if lines:
            atomic_write(pages.index(folder), viewer.index(lines))
        else:
            pages.index(folder).unlink(missing_ok=True)
        listed, lines = lines, _lines(folder, is_kept)


def _lines(folder: pathlib.Path, is_kept: Callable[[str], bool]) -> list[Line]:
    """Reads the lines of the pages that are to stay; removes the pages of other scans."""
    lines = []
    for path in sorted((folder / pages.FOLDER).glob(pages.name("*"))):
        line = _line_of(path)
        if line is None or path.name != pages.name(line.identifier):
            continue  # no page of a scan
        if is_kept(line.identifier):
            lines.append(line)
        else:
            path.unlink(missing_ok=True)
    return lines


def _line_of(path: pathlib.Path) -> Line | None:
    """Reads the line that a page holds; None where the page holds none, or is gone."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return viewer.read_line(file.read(viewer.START))
    except FileNotFoundError:  # another process has removed the page
        return None


def _line(shown: Shown) -> Line:
    """Returns what a list tells of a scan of which no evaluation is known."""
    voxel_ml = abs(float(np.linalg.det(shown.affine[:3, :3]))) / 1000
    detected = None if shown.detected is None else float(shown.detected.sum() * voxel_ml)
    return Line(shown.identifier, "", None, detected, None, shown.rate)


def _restored(prediction: Prediction, anomaly: Volume) -> np.ndarray | None:
    """Reads the restored scan; None for a method that restores none."""
    if not prediction.path(sidecar.RESTORED).exists():
        return None
    restored = prediction.read(sidecar.RESTORED)
    nifti.check_same_grid(anomaly, restored)
    return restored.data


def _finite(anomaly: Volume) -> np.ndarray:
    """Returns the values of a map; raises InputError where one of them is no number."""
    if not np.isfinite(anomaly.data).all():
        raise InputError(anomaly.source, "has values that are not finite", "Restore it again")
    return anomaly.data
