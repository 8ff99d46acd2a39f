"""Many scans with one method: what is finished is kept, what fails does not stop the others."""

import logging
import pathlib
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import NamedTuple

import jax

from lgjax import __version__
from lgjax import detector as detectors
from lgjax.calibration import procedure, promise
from lgjax.derivatives import boilerplate, description, dicom, occupied, read, results, runs, write
from lgjax.derivatives.boilerplate import Used
from lgjax.derivatives.results import Work
from lgjax.detector import Detector
from lgjax.methods import names as methods
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import devices, parallel, progress
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError
from lgjax.scans import sources
from lgjax.scans.finding import listing
from lgjax.scans.sources import Subject
from lgjax.workdir import calibrations
from lgjax.workdir.recorded import is_released

LOG = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What was done to some scans."""

    total: int  # scans
    skipped: int  # of them: finished before
    failures: list[tuple[str, str]]  # of them: identifier, and why

    @property
    def code(self) -> int:
        """The exit code: 0, or 3 if some scans failed."""
        return InputError.exit_code if self.failures else 0


def restore(
    detector: Detector,
    subjects: Sequence[Subject],
    folder: pathlib.Path,
    workers: int,
    scratch: pathlib.Path | None = None,
    as_dicom: bool = False,
) -> Outcome:
    """Restores subjects with one method; those that are finished are skipped, those that fail do not stop the others.

    Args:
      detector: the method.
      subjects: the scans.
      folder: for the results.
      workers: how many scans are prepared at once, ahead of their restoration.
      scratch: folder for what preparation needs for a while; None: the one of the results.
      as_dicom: writes what was found in DICOM series as DICOM objects too; these name the patient.
    """
    others = occupied.outdated(folder, [subject.identifier for subject in subjects], detector.about)
    for what, names in others.items():
        LOG.info("made anew: %s in %s of %s: %s", counted(len(names), "map"), folder, what, listing.shown(names))
    description.describe(folder, "restorations")
    boilerplate.remove(folder)
    pairs = zip(subjects, prepare_all(detector, subjects, folder, workers, scratch), strict=True)
    with results.Results(folder, detector.about) as record:
        for subject, result in progress.track(pairs, detector.method.name, len(subjects), "scan"):
            done = work(detector, subject, result, folder)
            record.note(subject.identifier, exported(done, subject, folder) if as_dicom else done)
    tell_methods(detector, folder)
    failures = [(name, record.works[name].message) for name in record.named(results.FAILED)]
    return Outcome(len(subjects), len(record.named(results.FINISHED)), failures)


def tell_methods(detector: Detector, folder: pathlib.Path) -> None:
    """Writes the methods section of a paper, of the maps in a folder that a detector made."""
    names = read.identifiers(folder)
    others = {name for some in occupied.outdated(folder, names, detector.about).values() for name in some}
    brains = occupied.brains(folder, [name for name in names if name not in others])
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


class Ready(NamedTuple):
    """A prepared scan."""

    prepared: Prepared
    digest: str  # of its files
    seconds: float  # that its preparation took


def work(detector: Detector, subject: Subject, result: Ready | InputError | Work, folder: pathlib.Path) -> Work:
    """Restores a prepared scan, writes its maps and says what was done, or why it could not be done."""
    if isinstance(result, Work):
        return result
    if isinstance(result, InputError):
        write.retract(folder, subject.identifier, digest_of(subject))
        return Work(results.FAILED, message=str(result))
    sha256, began = result.prepared.image.sha256, time.perf_counter()
    try:
        found = detector.detect(subject, result.prepared, result.digest)
        detected = time.perf_counter()
        found.save(folder)
    except InputError as error:
        write.retract(folder, subject.identifier, result.digest)
        return Work(results.FAILED, sha256, result.seconds, message=str(error))
    return Work(results.RESTORED, sha256, result.seconds, detected - began, time.perf_counter() - detected)


def exported(done: Work, subject: Subject, folder: pathlib.Path) -> Work:
    """Writes the DICOM objects of a finished scan that lacks them, and says what was done to the scan."""
    try:
        if done.outcome != results.FAILED:
            dicom.write(folder, subject)
    except InputError as error:
        return done._replace(outcome=results.FAILED, message=str(error))
    return done


def digest_of(subject: Subject) -> str | None:
    """Returns the digest of a scan's files; None where they cannot be read."""
    try:
        return sources.digest(subject)
    except (InputError, OSError):
        return None


def prepare_all(
    detector: Detector,
    subjects: Sequence[Subject],
    folder: pathlib.Path,
    workers: int,
    scratch: pathlib.Path | None = None,
) -> Iterator[Ready | InputError | Work]:
    """Prepares subjects in the background, a few ahead; yields what was done before where a scan is finished.

    Arguments as in `restore`.
    """

    def prepared(subject: Subject) -> Ready | Work:
        write.check_place(folder, subject.identifier)
        digest, began = sources.digest(subject), time.perf_counter()
        if write.is_done(folder, subject.identifier, {**detector.about, "SourceSHA256": digest}):
            return Work(results.FINISHED, occupied.scans(folder, [subject.identifier])[subject.identifier])
        return Ready(detector.prepare(subject, scratch or folder), digest, time.perf_counter() - began)

    return parallel.attempts(prepared, subjects, workers)


def from_config(config, workdir: pathlib.Path, name: str, mesh: jax.sharding.Mesh) -> Detector:
    """Loads a method, which is calibrated first if nobody has; a released model stays as it is."""
    if not calibrations.path(workdir, name).exists() and not is_released(workdir):
        LOG.info("%s is not calibrated yet: calibrating on held-out healthy scans first", name)
        procedure.from_config(config, workdir, mesh)(methods.parse(name))
    return detectors.from_config(config, workdir, name, mesh)


def check_place(folder: pathlib.Path, method: str, subjects: Sequence[Subject], inputs: Sequence[str]) -> None:
    """Raises UsageError where a folder holds other results than those that are about to be written there."""
    identifiers = [subject.identifier for subject in subjects]
    occupied.check_folder(folder, method)
    read.check_names(folder, identifiers)
    if changed := runs.changed(folder, inputs, subjects, occupied.scans(folder, identifiers)):
        LOG.info("restored anew, since their scans changed: %s", listing.shown(changed))
