"""The way of many scans through three stages that go on at once: preparation ahead, restoration, writing behind.

Scans are prepared in background threads, some ahead. The main thread alone drives the devices, which slices of several
scans share. Maps are made, written and drawn in background threads, while the next slices are restored. Scans come out
in the order in which they went in, and no stage runs further ahead of the next one than a few scans.
"""

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from lgjax.derivatives import dicom, results, write
from lgjax.derivatives.results import Work
from lgjax.detector import Detector
from lgjax.methods.queue import Queue
from lgjax.methods.scan import Answer, Plan
from lgjax.preparation.kept import Kept
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import parallel
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError
from lgjax.scans import sources
from lgjax.scans.subject import Subject

LOG = logging.getLogger(__name__)


class Ready(NamedTuple):
    """A prepared scan."""

    prepared: Prepared
    plan: Plan
    digest: str  # of its files
    seconds: float  # that its preparation took


class Job(NamedTuple):
    """A scan between two stages."""

    subject: Subject
    found: Ready | InputError | Work | None  # from `prepare`
    answer: Answer | None = None  # to the plan of a prepared scan


class Stages:
    """What all scans of one run in one folder have in common."""

    def __init__(
        self,
        detector: Detector,
        folder: pathlib.Path,
        claims: Claims,
        note: Callable[[Subject, Work], None],
        workers: int,
        scratch: pathlib.Path | None = None,
        as_dicom: bool = False,
        kept: Kept | None = None,
    ):
        """Keeps what the stages share.

        Args:
          detector: the method.
          folder: for the results.
          claims: of this run in the folder.
          note: is told what was done to a scan, in the thread that did so, as soon as it is done.
          workers: how many scans are prepared at once, and how many are written at once.
          scratch: folder for what preparation needs for a while; None: the one of the results.
          as_dicom: writes what was found in DICOM series as DICOM objects too.
          kept: scans that methods before this one prepared; None: each is prepared here.
        """
        self.detector, self.folder, self.claims, self.note, self.workers = detector, folder, claims, note, workers
        self.scratch, self.as_dicom, self.kept = scratch or folder, as_dicom, kept or Kept()

    def work(self, subjects: Sequence[Subject]) -> Generator[Work | None, None, None]:
        """Yields what was done to each subject, in order; None: another process is at work on it, or took it over."""
        with (
            contextlib.closing(self._restored(subjects)) as jobs,
            contextlib.closing(parallel.ahead(self.finish, jobs, self.workers)) as finished,
        ):
            for subject, done in zip(subjects, finished, strict=True):
                self.claims.release(subject.identifier)
                yield done

    def _restored(self, subjects: Sequence[Subject]) -> Generator[Job, None, None]:
        """Yields every subject with what was found in the first two stages, in order."""
        queue: Queue[Job] = Queue(self.detector.runner)
        with contextlib.closing(parallel.attempts(self.prepare, subjects, self.workers)) as prepared:
            for subject, found in zip(subjects, prepared, strict=True):
                plan = found.plan if isinstance(found, Ready) else None
                for job, answer in queue.put(Job(subject, found), plan):
                    yield job._replace(answer=answer)
        for job, answer in queue.flush():
            yield job._replace(answer=answer)

    def prepare(self, subject: Subject) -> Ready | Work | None:
        """Claims and prepares a subject.

        Returns what was done before where the scan is finished, and None where another process is at work on the scan.

        Raises:
          InputError: the scan cannot be used.
        """
        if not self.claims.take(subject.identifier):
            return None
        write.check_place(self.folder, subject.identifier)
        digest, began = sources.digest(subject), time.perf_counter()
        about = {**self.detector.about, "SourceSHA256": digest}
        if found := write.finished(self.folder, subject.identifier, about):
            if not self.as_dicom:  # in its turn it would be held for as long as a scan before it lacks its batch
                self.claims.release(subject.identifier)
            return Work(results.FINISHED, str(found.get("InputSHA256", "")))
        prepared = self.kept.prepare(subject, self.detector.trained.recipe, digest, self.scratch)
        return Ready(prepared, self.detector.plan(prepared), digest, time.perf_counter() - began)

    def finish(self, job: Job) -> Work | None:
        """Makes and writes the maps of a scan, and says what was done, or why it could not be done.

        Returns None, and leaves the results alone, where another process has taken the scan over.
        """
        done = self._written(job)
        if done and self.as_dicom:
            done = self._exported(job.subject, done)
        if done:
            self.note(job.subject, done)
        return done

    def _written(self, job: Job) -> Work | None:
        subject, found, answer = job
        if found is None or isinstance(found, Work):
            return found
        if isinstance(found, InputError):
            return self._failed(subject, found, Work(results.FAILED), digest_of(subject))
        assert answer
        began, done = time.perf_counter(), Work(results.RESTORED, found.prepared.image.sha256, found.seconds)
        try:
            detection = self.detector.found(subject, found.prepared, found.digest, found.plan, answer)
            detected = time.perf_counter()
            if not self._holds(subject):
                return None
            write.sweep(self.folder, subject.identifier)
            detection.save(self.folder)
        except InputError as error:
            return self._failed(subject, error, done, found.digest)
        return done._replace(restore=answer.seconds + detected - began, write=time.perf_counter() - detected)

    def _failed(self, subject: Subject, error: InputError, done: Work, digest: str | None) -> Work | None:
        """Returns the work at a scan that failed; its earlier results count no more if they are of another `digest`."""
        if not self._holds(subject):
            return None
        write.retract(self.folder, subject.identifier, digest)
        return done._replace(outcome=results.FAILED, message=str(error))

    def _holds(self, subject: Subject) -> bool:
        """Returns whether this process may write a scan's results; says so where another one took the scan over."""
        if not (held := self.claims.confirm(subject.identifier)):
            LOG.warning("%s: this process stood still, and another one took the scan over", subject.identifier)
        return held

    def _exported(self, subject: Subject, done: Work) -> Work:
        """Writes the DICOM objects of a finished scan that lacks them, and says what was done to the scan."""
        try:
            if done.outcome != results.FAILED:
                dicom.write(self.folder, subject)
        except InputError as error:
            return done._replace(outcome=results.FAILED, message=str(error))
        return done


def digest_of(subject: Subject) -> str | None:
    """Returns the digest of a scan's files; None where they cannot be read."""
    try:
        return sources.digest(subject)
    except (InputError, OSError):
        return None
