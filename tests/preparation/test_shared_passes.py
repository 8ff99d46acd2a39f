"""A pass over a cohort that several processes share: each subject is worked on once, all know all records."""

import collections
import pathlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PATIENCE

from lgjax.preparation import passes
from lgjax.runtime import claims, parallel
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError
from lgjax.scans.sources import Subject

NAMES = [f"sub-{number}" for number in (3, 1, 4, 15, 9, 2, 6)]


@pytest.fixture
def step(monkeypatch):
    """A first pass that keeps in memory what it finished, and in `worked` how often it worked on a subject."""

    def correct(job):
        name = job.subject.identifier
        with step.guard:
            step.worked[name] += name not in step.finished
            before = name in step.finished
        time.sleep(0.01)
        if name == "sub-4":
            raise InputError(name, "is damaged", "Copy it again")
        step.finished.add(name)
        return {"InputSHA256": name, "SHA256": f"corrected {name}"}, before

    step = collections.namedtuple("Step", "worked finished guard")(collections.Counter(), set(), threading.Lock())
    monkeypatch.setattr(passes, "correct", correct)
    monkeypatch.setattr(parallel, "PAUSE", 0.01)
    return step


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_share_a_pass(step, tmp_path, processes):
    jobs = [passes.Job(tmp_path, None, (), Subject(name, name, None), "") for name in NAMES]
    together = threading.Barrier(processes, timeout=PATIENCE)

    def process(_) -> passes.Outcome:
        with Claims(tmp_path, "task", "prepared scans") as mine:
            together.wait()
            found = passes.correct_all(jobs, 1, None, mine, {})
            together.wait()
            return found

    with ThreadPoolExecutor(processes) as pool:
        outcomes = list(pool.map(process, range(processes)))
    for outcome in outcomes:
        assert list(outcome.records) == [name for name in NAMES if name != "sub-4"]  # whoever made them, in one order
        assert list(outcome.failures) == ["sub-4"]
    assert {name: count for name, count in step.worked.items() if name != "sub-4"} == dict.fromkeys(outcome.records, 1)
    assert sum(len(outcome.records) - outcome.before for outcome in outcomes) == len(outcome.records)
    assert not list(pathlib.Path(tmp_path).iterdir())


def test_what_a_process_did_after_it_was_taken_for_dead_does_not_count(tmp_path, monkeypatch):
    """Its successor knows better: here the scan is damaged no more."""
    (job,) = [passes.Job(tmp_path, None, (), Subject(name, name, None), "") for name in NAMES[:1]]
    still, successor, tried = Claims(tmp_path), Claims(tmp_path), []

    def correct(job):
        tried.append(job)
        if len(tried) == 1:
            assert successor._follow(claims._key(NAMES[0]), 1, still.run)  # as after the expiry
            raise InputError(NAMES[0], "is damaged", "Copy it again")
        return {"InputSHA256": "", "SHA256": ""}, True

    def let_go(_) -> None:
        assert successor.confirm(NAMES[0])
        successor.release(NAMES[0])

    with still, successor:
        monkeypatch.setattr(passes, "correct", correct)
        monkeypatch.setattr(parallel.time, "sleep", let_go)
        found = passes.correct_all([job], 1, None, still, {})
    assert (len(tried), list(found.records), found.failures) == (2, NAMES[:1], {})
