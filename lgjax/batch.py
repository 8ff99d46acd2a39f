"""Many scans with one method: what is finished is kept, what fails does not stop the others."""

import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

import jax

from lgjax import __version__
from lgjax import detector as detectors
from lgjax.calibration import procedure, promise
from lgjax.derivatives import boilerplate, description, occupied, read, results, runs, sidecar
from lgjax.derivatives.boilerplate import Used
from lgjax.derivatives.results import Speed
from lgjax.detector import Detector
from lgjax.methods import names as methods
from lgjax.preparation.kept import Kept
from lgjax.runtime import claims as sharing
from lgjax.runtime import devices, files, hosts, parallel, progress
from lgjax.runtime.claims import Claims
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError
from lgjax.scans.finding import listing
from lgjax.scans.finding.listing import Listing
from lgjax.scans.sources import Subject
from lgjax.stages import Stages
from lgjax.workdir import calibrations
from lgjax.workdir.recorded import is_released

LOG = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What was done to some scans."""

    total: int  # scans
    skipped: int  # of them: finished before
    elsewhere: int  # of them: restored by other processes meanwhile
    failures: list[tuple[str, str]]  # of them: identifier, and why
    speed: Speed

    @property
    def code(self) -> int:
        """The exit code: 0, or 3 if some scans failed."""
        return InputError.exit_code if self.failures else 0


def run(
    detector: Detector,
    scans: Listing[Subject],
    inputs: Sequence[str],
    folder: pathlib.Path,
    workers: int,
    scratch: pathlib.Path | None = None,
    as_dicom: bool = False,
    kept: Kept | None = None,
) -> Outcome:
    """Restores what a search found, as `restore` does, and records what the search left out."""
    outcome = restore(detector, scans.found, folder, workers, scratch, as_dicom, inputs, kept)
    if hosts.is_first_host():
        listing.record(folder, scans)
    return outcome


def restore(
    detector: Detector,
    subjects: Sequence[Subject],
    folder: pathlib.Path,
    workers: int,
    scratch: pathlib.Path | None = None,
    as_dicom: bool = False,
    inputs: Sequence[str] = (),
    kept: Kept | None = None,
    expiry: float = sharing.EXPIRY,
) -> Outcome:
    """Restores subjects with one method; those that are finished are skipped, those that fail do not stop the others.

    Several processes may do the same in one folder: they share the scans out, and each returns when all are done.

    Args:
      detector: the method.
      subjects: the scans.
      folder: for the results.
      workers: how many scans are prepared at once, ahead of their restoration, and how many are written at once.
      scratch: folder for what preparation needs for a while; None: the one of the results.
      as_dicom: writes what was found in DICOM series as DICOM objects too; these name the patient.
      inputs: files and folders that the scans come from, for the record.
      kept: scans that methods before this one prepared; None: each is prepared here.
      expiry: seconds without a sign of life after which other processes count as dead.

    Raises:
      UsageError: another process writes maps of another method, weights or settings in the folder.
    """
    before = occupied.sidecars(folder, [subject.identifier for subject in subjects])
    others = occupied.outdated(folder, before, detector.about)
    again = {name for names in others.values() for name in names}
    finished = {name: str(seen.get("InputSHA256", "")) for name, seen in before.items() if name not in again}
    for what, names in others.items():
        LOG.info("made anew: %s in %s of %s: %s", counted(len(names), "map"), folder, what, listing.shown(names))
    with Claims(folder, task(detector), detector.method.name, expiry) as claims:
        if hosts.is_first_host():
            with claims.lock(runs.NAME):
                runs.write(folder, inputs)  # first: it resolves the BIDS URIs, and eval asks it after an interruption
            description.describe(folder, "restorations")
            boilerplate.remove(folder)

        bar = progress.track(None, detector.method.name, len(subjects), "scan")
        stages = Stages(detector, folder, claims, workers, scratch, as_dicom, kept)
        began, busy = time.perf_counter(), detector.runner.busy
        with results.Results(folder, detector.about, claims) as record, bar:
            for subject, done in parallel.until_done(stages.work, subjects):
                by_another = done.outcome == results.FINISHED and done.sha256 != finished.get(subject.identifier)
                record.note(subject.identifier, done._replace(outcome=results.ELSEWHERE) if by_another else done)
                bar.update()
            speed = record.measure(time.perf_counter() - began, detector.runner.busy - busy)
        if hosts.is_first_host():
            tell_methods(detector, folder)
    failures = [(name, record.works[name].message) for name in record.named(results.FAILED)]
    skipped, elsewhere = (len(record.named(outcome)) for outcome in (results.FINISHED, results.ELSEWHERE))
    return Outcome(len(subjects), skipped, elsewhere, failures, speed)


def task(detector: Detector) -> str:
    """Returns the digest of all that decides what a detector writes of a scan."""
    return files.digest({key: detector.about.get(key) for key in sidecar.DONE})


def tell_methods(detector: Detector, folder: pathlib.Path) -> None:
    """Writes the methods section of a paper, of the maps in a folder that a detector made."""
    found = occupied.sidecars(folder, read.identifiers(folder))
    others = {name for some in occupied.outdated(folder, found, detector.about).values() for name in some}
    brains = occupied.brains(seen for name, seen in found.items() if name not in others)
    boilerplate.write(folder, used(detector, brains, len(others)))


def used(detector: Detector, brains: frozenset[str], others: int) -> Used:
    """Returns what the methods section of a paper needs to know of a folder of maps.

    Args:
      detector: that made the maps.
      brains: where the brain masks came from.
      others: maps in the folder that were made otherwise.
    """
    about, search, pvalues = detector.about, detector.about.get("Search"), detector.about.get("PValues")
    packages = {"jax": "jax", "flax": "flax", "nibabel": "nibabel", "simpleitk": "SimpleITK"}
    return Used(
        versions={"lgjax": __version__, **{key: metadata.version(name) for key, name in packages.items()}},
        device=devices.describe(list(detector.runner.mesh.devices.flat)),
        method=detector.method,
        settings=detector.runner.settings,
        recipe=detector.trained.recipe,
        trained_on=about["TrainedOn"],
        score=about["Score"],
        unit=about["AnomalyUnits"],
        strength=about["Lambda"],
        ssim=search["target"] if search else None,
        reached=bool(search and search["reached"]),
        rate=about["MaskRate"],
        threshold=about["Thresholds"][about["MaskRate"]],
        subjects=len(about["CalibrationSubjects"]),
        healthy=about.get("CalibratedOn", "healthy scans"),
        pvalues=pvalues and (pvalues["Voxels"], pvalues["Strata"]),
        promised=tuple((float(volume), value) for volume, value in (about.get("VolumeThresholds") or {}).items()),
        cap=promise.CAP,
        slice_step=detector.step,
        brains=brains,
        others=others,
    )


def from_config(config, workdir: pathlib.Path, name: str, mesh: jax.sharding.Mesh) -> Detector:
    """Loads a method, which is calibrated first if nobody has; a released model stays as it is."""
    if hosts.first_says(not calibrations.path(workdir, name).exists() and not is_released(workdir)):
        calibrate(
            calibrations.path(workdir, name), lambda: procedure.from_config(config, workdir, mesh)(methods.parse(name))
        )
    return detectors.from_config(config, workdir, name, mesh)


def calibrate(path: pathlib.Path, calibration: Callable[[], object]) -> None:
    """Makes a record of calibration: joined hosts do so together; of other processes, the first one does it for all.

    Args:
      path: of the record.
      calibration: makes the record.
    """
    with Claims(path.parent) as claims:
        while jax.process_count() == 1 and not claims.take(path.name):  # another process calibrates
            time.sleep(parallel.PAUSE)
        if jax.process_count() > 1 or not path.exists():
            LOG.info("%s is not calibrated yet: calibrating on held-out healthy scans first", path.stem)
            calibration()


def check_place(folder: pathlib.Path, method: str, subjects: Sequence[Subject], inputs: Sequence[str]) -> None:
    """Raises UsageError where a folder holds other results than those that are about to be written there."""
    identifiers = [subject.identifier for subject in subjects]
    occupied.check_folder(folder, method)
    read.check_names(folder, identifiers)
    if changed := runs.changed(folder, inputs, subjects, occupied.scans(folder, identifiers)):
        LOG.info("restored anew, since their scans changed: %s", listing.shown(changed))
