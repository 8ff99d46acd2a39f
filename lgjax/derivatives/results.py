"""The record of what runs did to which scan in how long, results.json: of every run a line, of every scan its last."""

import contextlib
import datetime
import json
import math
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from lgjax.derivatives import sidecar
from lgjax.runtime import files, places, signals
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError, LgjaxError

NAME = "results.json"
RESTORED, FINISHED, FAILED = "restored", "finished before", "failed"  # what was done to a scan
ELSEWHERE = "restored by another process"  # while this run was at work
INTERVAL = 10.0  # seconds between two writings while scans are restored
PATIENCE = 5.0  # seconds that a process which is told to end waits for the record
_RUN = ("Method", "Version", "JaxVersion", "Device")  # what sidecars say of a run, by their keys
_COUNTS = {"Restored": RESTORED, "RestoredElsewhere": ELSEWHERE, "FinishedBefore": FINISHED, "Failed": FAILED}


class Work(NamedTuple):
    """What one run did to one scan."""

    outcome: str  # RESTORED, ELSEWHERE, FINISHED or FAILED
    sha256: str = ""  # of the scan; "": unknown
    prepare: float | None = None  # s on the wall; scans are prepared while others are restored
    restore: float | None = None  # s
    write: float | None = None  # s
    message: str = ""  # of a failure


class Speed(NamedTuple):
    """How fast scans were restored."""

    scans: int  # restored by this run
    seconds: float  # on the wall, from the first scan that was read to the last one that was written
    busy: float  # of them, the devices were at work; compiling does not count

    @property
    def scans_per_hour(self) -> float:
        """How many scans take an hour."""
        return 3600 * self.scans / self.seconds


class Results:
    """The record of a folder during one run: `note` every scan in a `with` block, which notes how the run ended."""

    def __init__(self, folder: pathlib.Path, about: Mapping[str, Any], claims: Claims):
        """Reads the record of earlier runs.

        Args:
          folder: of the outputs.
          about: the run, by the keys of a sidecar.
          claims: of this run in the folder.

        Raises:
          InputError: the record is damaged.
        """
        self.works: dict[str, Work] = {}
        self._path, self._claims, self._written = folder / NAME, claims, time.monotonic()
        self._unwritten: dict[str, Work] = {}
        self._guard = threading.RLock()  # a signal may write in the midst of a writing, or from a thread of its own
        _read(self._path)  # a damaged one is told before the work
        about = {key: about.get(key) for key in _RUN}
        self._run = {"Id": claims.run, "Start": _now(), "End": None, "ExitCode": None, **about}
        self._signals = signals.before_end(self._terminated)

    def __enter__(self) -> "Results":
        self._write()
        self._signals.__enter__()
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)  # and not to wait for a process that may hang
        try:
            with contextlib.suppress(TimeoutError):
                self._end(self.code if error is None else _code(error), PATIENCE if interrupted else math.inf)
        finally:
            self._signals.__exit__(None, None, None)

    @property
    def code(self) -> int:
        """The exit code: 0, or 3 if some scans failed."""
        return 3 if self.named(FAILED) else 0

    def named(self, outcome: str) -> list[str]:
        """Lists the scans of this run to which one thing was done, by identifier, as they were noted."""
        return [name for name, work in self.works.copy().items() if work.outcome == outcome]

    def note(self, identifier: str, work: Work) -> None:
        """Notes what was done to a scan; any thread may do so, at once, so that nothing is done that is not noted."""
        self.works[identifier] = self._unwritten[identifier] = work

    def keep(self) -> None:
        """Writes what was noted, now and then: what a killed process forgets is less than `INTERVAL` old."""
        if time.monotonic() - self._written >= INTERVAL:
            self._write()

    def measure(self, seconds: float, busy: float) -> Speed:
        """Notes how long the scans took, and how long of that the devices were at work; see `Speed`."""
        speed = Speed(len(self.named(RESTORED)), seconds, busy)
        times = {"Seconds": round(seconds, 3), "DeviceSeconds": round(busy, 3)}
        self._run |= {**times, "ScansPerHour": float(f"{speed.scans_per_hour:.4g}")}
        return speed

    def _end(self, code: int, patience: float = math.inf) -> None:
        self._run |= {"End": _now(), "ExitCode": code}
        self._write(patience)

    def _terminated(self, code: int) -> None:
        with contextlib.suppress(TimeoutError):  # the signal may have come while this process was taking the lock
            self._end(code, PATIENCE)
        self._claims.leave()  # other hosts need not wait for signs of life

    def _write(self, patience: float = math.inf) -> None:
        """Enters what was noted since the last time; other processes enter theirs, for whom it waits `patience` s."""
        with self._guard, self._claims.lock(NAME, patience):
            earlier = _read(self._path)
            unwritten = self._unwritten.copy()  # other threads go on noting
            counts = {key: len(self.named(outcome)) for key, outcome in _COUNTS.items()}
            others = [self._seen(run) for run in earlier["Runs"] if run.get("Id") != self._run["Id"]]
            scans = dict(earlier["Scans"])
            for name, work in unwritten.items():
                if work.outcome in (RESTORED, FAILED) or scans.get(name, {}).get("Outcome") != RESTORED:
                    scans[name] = {"Run": self._run["Id"], **_entry(work)}
            content = {"Runs": [*others, {**self._run, **counts}], "Scans": dict(sorted(scans.items()))}
            files.atomic_write(self._path, json.dumps(content, indent=2) + "\n")
            for name in unwritten:
                self._unwritten.pop(name, None)
        self._written = time.monotonic()

    def _seen(self, run: dict[str, Any]) -> dict[str, Any]:
        """Returns another run as the record is to tell it: one that has neither ended nor is at work was killed."""
        lasts = run.get("End") is None and "Id" in run  # earlier versions do not say who they are
        return {**run, "Killed": True} if lasts and not self._claims.is_at_work(run["Id"]) else run


def failures(folder: pathlib.Path) -> dict[str, str]:
    """Returns why scans failed when they were restored last, by identifier.

    Raises:
      InputError: the record is damaged.
    """
    scans = _read(folder / NAME)["Scans"].items()
    return {name: scan.get("Message", "") for name, scan in scans if scan.get("Outcome") == FAILED}


def repeated(folder: pathlib.Path) -> list[list[str]]:
    """Lists the identifiers of each scan whose maps a folder holds under several; errors as in `failures`."""
    scans: dict[str, list[str]] = {}
    for name, scan in _read(folder / NAME)["Scans"].items():
        if scan.get("InputSHA256") and scan.get("Outcome") != FAILED:
            scans.setdefault(scan["InputSHA256"], []).append(name)
    there = ([name for name in names if _has_map(folder, name)] for names in scans.values() if len(names) > 1)
    return [names for names in there if len(names) > 1]


def _has_map(folder: pathlib.Path, identifier: str) -> bool:
    return sidecar.file(folder, identifier, sidecar.ANOMALY, "json").exists()


def _entry(work: Work) -> dict[str, Any]:
    """Returns what the record says of one scan; what is unknown is left out."""
    seconds = {"PrepareSeconds": work.prepare, "RestoreSeconds": work.restore, "WriteSeconds": work.write}
    known = {key: round(value, 3) for key, value in seconds.items() if value is not None}
    told = {"Message": places.told(work.message)} if work.message else {}
    return {"Outcome": work.outcome, **({"InputSHA256": work.sha256} if work.sha256 else {}), **known, **told}


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Reads the record of earlier runs."""
    if not path.exists():
        return {"Runs": [], "Scans": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["Runs"], list) or not all(map(dict.items, content["Scans"].values())):
            raise ValueError("Runs is no list, or Scans no table")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"cannot be read ({error})", "Remove it; results are not touched by that") from error
    return content


def _code(error: BaseException) -> int:
    """Returns the exit code of what ends a run early."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, LgjaxError) else 1


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
