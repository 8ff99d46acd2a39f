"""From results, on disk or in memory, to the pages of the viewer: one scan in memory at a time."""

import functools
import os
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lgjax.derivatives import pages, read, sidecar
from lgjax.derivatives.detection import Detection
from lgjax.derivatives.read import Prediction
from lgjax.derivatives.sidecar import short_unit
from lgjax.evaluation import references
from lgjax.report import viewer
from lgjax.report.viewer import Line, Shown
from lgjax.runtime import parallel, progress
from lgjax.runtime.claims import at_work
from lgjax.runtime.errors import InputError, LgjaxError
from lgjax.runtime.files import atomic_write, check_contained, sweep
from lgjax.runtime.gone import if_there
from lgjax.runtime.waiting import Waiting
from lgjax.scans import nifti, sources
from lgjax.scans.volume import Volume


class Pages(NamedTuple):
    """The pages that scans have, and the scans that have none."""

    written: list[str]  # identifiers
    kept: list[str]  # identifiers: the page was there, and shows the maps as they are
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
        identifier=subject.identifier,
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
        quality=told.quality,
        warnings=told.warnings,
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
    found = Pages([], [], [])
    for name, prediction in progress.track(predictions.items(), "viewer", len(predictions), "scan"):
        make = functools.partial(of, prediction, subjects[name], values)
        _write_one(folder, name, make, lines.get(name), found)
    failed = {name for name, _ in found.failures}
    _list(folder, lambda name: name not in failed and is_kept(name))
    return found


def write_of_folder(folder: pathlib.Path, subjects: Sequence[sources.Subject]) -> Pages:
    """Writes the missing pages of finished scans into their folder of results; see `write`.

    Several processes may do the same at a time: each page is written by one of them, and each returns when all are
    there. Pages of other scans stay while their scans are finished. References are not read.
    """

    def is_finished(name: str) -> bool:
        return sidecar.file(folder, name, sidecar.ANOMALY, "json").exists()

    known = {subject.identifier: subject for subject in subjects if is_finished(subject.identifier)}
    found = Pages([], [], [])
    if known or (folder / pages.FOLDER).exists():
        check_contained(folder, folder / pages.FOLDER)
        if known:
            _share(folder, known, found)
        _list(folder, is_finished)
    return found


def _share(folder: pathlib.Path, known: Mapping[str, sources.Subject], found: Pages) -> None:
    """Has the pages of scans written, each by one of the processes that do so at a time; see `write_of_folder`."""
    with at_work(folder / pages.FOLDER) as claims:

        def attempt(names: Sequence[str]) -> Generator[bool | None, None, None]:
            for name in names:
                yield one(name) if claims.take(name) else None

        def one(name: str) -> bool:
            if not _is_current(folder, name):
                sweep(pages.page(folder, name))
                _write_one(folder, name, lambda: of(read.read_one(folder, name), known[name], None), None, found)
            claims.release(name)
            return True

        wait = Waiting(claims.holder).tell
        for _ in progress.track(parallel.until_done(attempt, list(known), wait), "viewer", len(known), "scan"):
            pass
    done = {*found.written, *(name for name, _ in found.failures)}
    found.kept.extend(name for name in known if name not in done)


def _is_current(folder: pathlib.Path, name: str) -> bool:
    """Returns whether a scan has a page that is younger than all that was written of the scan."""
    maps = sidecar.file(folder, name, "*", "*")
    with if_there():
        made = pages.page(folder, name).stat().st_mtime_ns
        return all(path.stat().st_mtime_ns < made for path in maps.parent.glob(maps.name))
    return False


def _write_one(folder: pathlib.Path, name: str, make: Callable[[], Shown], line: Line | None, found: Pages) -> None:
    """Writes the page of a scan, or removes the page where the scan cannot be shown; notes which."""
    try:
        shown = make()
    except LgjaxError as error:
        pages.page(folder, name).unlink(missing_ok=True)
        found.failures.append((name, f"has no page in the viewer: {error}"))
    else:
        atomic_write(pages.page(folder, name), viewer.page(shown, line or _line(shown)))
        found.written.append(name)


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
        plane=sidecar.midplane_of(about),
        quality=sidecar.quality_of(about),
        warnings=about["Warnings"],
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
    light = shown.quality.light if shown.quality else ""
    return Line(shown.identifier, "", None, detected, None, shown.rate, light, len(shown.warnings))


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
