"""Many scans with one method: what is finished is kept, what fails does not stop the others."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lgjax.batch import section
from lgjax.batch.stages import Stages
from lgjax.derivatives import boilerplate, description, occupied, read, results, runs, sidecar
from lgjax.derivatives.results import Results, Speed, Work
from lgjax.detector import Detector
from lgjax.preparation.kept import Kept
from lgjax.runtime import files, hosts, parallel, progress
from lgjax.runtime.claims import at_work
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError
from lgjax.runtime.waiting import Waiting
from lgjax.scans.finding import listing
from lgjax.scans.finding.listing import Listing
from lgjax.scans.sources import Subject

LOG = logging.getLogger(__name__)
Before = Mapping[str, Mapping[str, Any]]  # sidecars of scans' maps by identifier, {} of unfinished scans


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
    before: Before | None = None,
) -> Outcome:
    """Restores what a search found, as `restore` does, and records what the search left out."""
    outcome = restore(detector, scans.found, folder, workers, scratch, as_dicom, inputs, kept, before)
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
    before: Before | None = None,
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
      before: what lies in the folder, from `checked_place`; None: nobody has looked yet.

    Raises:
      UsageError: another process writes maps of another method, weights or settings in the folder.
    """
    before = before or occupied.sidecars(folder, [subject.identifier for subject in subjects])
    finished = unchanged(detector, folder, before)
    with at_work(folder, task(detector), detector.method.name) as claims:
        if hosts.is_first_host():
            with claims.lock(runs.NAME):
                runs.write(folder, inputs)  # first: it resolves the BIDS URIs, and eval asks it after an interruption
            description.describe(folder, "restorations")
            boilerplate.remove(folder)
        with Results(folder, detector.about, claims) as record:

            def note(subject: Subject, done: Work) -> None:
                by_another = done.outcome == results.FINISHED and done.sha256 != finished.get(subject.identifier)
                record.note(subject.identifier, done._replace(outcome=results.ELSEWHERE) if by_another else done)

            began, busy = time.perf_counter(), detector.runner.busy
            work(Stages(detector, folder, claims, note, workers, scratch, as_dicom, kept), subjects, record)
            speed = record.measure(time.perf_counter() - began, detector.runner.busy - busy)
        if hosts.is_first_host():
            section.write(detector, folder)
            for same in results.repeated(folder):
                if not record.works.keys().isdisjoint(same):
                    LOG.warning("%s are one scan. `lgjax eval` takes none twice: keep one of them", " and ".join(same))
    failed = set(record.named(results.FAILED))
    failures = [(one.identifier, record.works[one.identifier].message) for one in subjects if one.identifier in failed]
    skipped, elsewhere = (len(record.named(outcome)) for outcome in (results.FINISHED, results.ELSEWHERE))
    return Outcome(len(subjects), skipped, elsewhere, failures, speed)


def unchanged(detector: Detector, folder: pathlib.Path, before: Before) -> dict[str, str]:
    """Returns the SHA-256 of the scans whose maps are those of a detector, by identifier; says which maps are not."""
    others = occupied.outdated(folder, before, detector.about)
    for what, names in others.items():
        LOG.info("made anew: %s in %s of %s: %s", counted(len(names), "map"), folder, what, listing.shown(names))
    again = {name for names in others.values() for name in names}
    return {name: content for name, content in occupied.contents(before).items() if name not in again}


def work(stages: Stages, subjects: Sequence[Subject], record: Results) -> None:
    """Has every subject done by some process, with a bar of how many are; of an interrupted run too, the bar is right.

    What is being written at an interruption is finished, and so noted in the record, before this returns.
    """
    waiting = Waiting(stages.claims.holder)

    def wait(left: Sequence[Subject]) -> None:
        waiting.tell([subject.identifier for subject in left])
        record.keep()

    with progress.track(None, stages.detector.method.name, len(subjects), "scan") as bar:
        try:
            with contextlib.closing(parallel.until_done(stages.work, subjects, wait)) as done:
                for _ in done:
                    bar.update(len(record.works) - bar.n)
                    record.keep()
        finally:
            bar.update(len(record.works) - bar.n)


def task(detector: Detector) -> str:
    """Returns the digest of all that decides what a detector writes of a scan."""
    return files.digest({key: detector.about.get(key) for key in sidecar.DONE})


def checked_place(folder: pathlib.Path, method: str, subjects: Sequence[Subject], inputs: Sequence[str]) -> Before:
    """Returns what a folder holds of subjects.

    Raises:
      UsageError: the folder holds other results than those that are about to be written there.
    """
    identifiers = [subject.identifier for subject in subjects]
    held = occupied.checked_folder(folder, method)
    read.check_names(folder, identifiers)
    before = {name: held.get(name, {}) for name in identifiers}
    if changed := runs.changed(folder, inputs, subjects, occupied.contents(before)):
        LOG.info("restored anew, since their scans changed: %s", listing.shown(changed))
    return before
