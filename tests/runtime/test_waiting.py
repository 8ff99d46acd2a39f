"""Who waits for other processes says for whom: seldom, and with what to do if such a process hangs."""

import logging
import types

import pytest

from lgjax.runtime import waiting
from lgjax.runtime.alive import Worker
from lgjax.runtime.claims import Claims
from lgjax.runtime.waiting import Waiting

ONE, OTHER = (Worker(f"run{pid}", f"node{pid}", pid, "", "") for pid in (1, 2))
HOLDERS = {"sub-a": ONE, "sub-b": OTHER, "sub-c": ONE}


@pytest.fixture
def lines(monkeypatch, caplog):
    """A function that waits for items, a look a second, and returns the lines and the second of each."""
    caplog.set_level("INFO", "lgjax")
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(waiting, "time", types.SimpleNamespace(monotonic=lambda: clock.now))

    def wait(one: Waiting, items: list[str], seconds: int) -> list[tuple[float, str]]:
        found = []
        for _ in range(seconds):
            caplog.clear()
            one.tell(items)
            found += [(clock.now, message) for message in caplog.messages]
            clock.now += 1
        return found

    return wait


def test_a_long_wait_is_told_ever_more_seldom(lines, caplog):
    told = lines(Waiting(HOLDERS.get), ["sub-a", "sub-b", "sub-c", "sub-free"], 1000)
    assert [second for second, _ in told] == [second for second in (60, 120, 240, 480, 960) for _ in range(2)]
    assert [line for second, line in told if second == 120] == [
        "waiting for process 1 on node1, which is at work on sub-a, sub-c, for 2 minutes so far. "
        "That may be right for large scans. If the process hangs, `kill 1`, or else `kill -9 1`, on node1 ends it, "
        "and its work is done here.",
        "waiting for process 2 on node2, which is at work on sub-b, for 2 minutes so far. "
        "That may be right for large scans. If the process hangs, `kill 2`, or else `kill -9 2`, on node2 ends it, "
        "and its work is done here.",
    ]
    lines(Waiting(HOLDERS.get), ["sub-a"], 61)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_wait_begins_anew_when_something_was_done(lines):
    one = Waiting(HOLDERS.get)
    assert lines(one, ["sub-a", "sub-b"], 59) == []
    assert [second for second, _ in lines(one, ["sub-a"], 62)] == [59 + 60]


def test_a_wait_can_be_told_at_once(lines, caplog):
    told = lines(Waiting(HOLDERS.get, first=0.0), ["sub-b"], 1)
    assert told == [(0.0, "waiting for process 2 on node2, which is at work on sub-b")]
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_who_waits_for_a_lock_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    with (
        Claims(tmp_path) as one,
        Claims(tmp_path) as other,
        one.lock("results.json"),
        pytest.raises(TimeoutError),
        other.lock("results.json", 0.05),
    ):
        pytest.fail("two are in the block at a time")
    assert f"waiting for {one.workers.me}, which is at work on results.json" in caplog.text


def test_the_holder_of_an_item_is_a_process_that_lives(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert other.holder("a") is None
        one.take("a")
        assert (other.holder("a"), one.holder("a")) == (one.workers.me, one.workers.me)
        one.workers.file(one.run).unlink()  # as of a process that was buried
        assert other.holder("a") is None
