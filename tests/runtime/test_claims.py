"""Processes that share items by files: each item is taken once, and what a dead process held is taken over."""

import ast
import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT, until

from lgjax.runtime import alive, claims, gone, workers
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import EnvironmentFault, UsageError


def start(code: str, *arguments) -> subprocess.Popen:
    """A process that runs a program with `Claims` imported."""
    program = f"import pathlib, sys, time\nfrom lgjax.runtime.claims import Claims\n{code}"
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


HOLDER = """
with Claims(pathlib.Path(sys.argv[1]), expiry=float(sys.argv[2])) as mine:
    print(mine.take("a"), mine.take("b"), flush=True)
    sys.stdin.readline()
    print(mine.confirm("a"), mine.confirm("b"), flush=True)
"""


@pytest.fixture
def holder(tmp_path):
    """A function that starts a process which holds a and b, and confirms both when it is written a line."""
    started = []

    def begin(expiry: float = workers.EXPIRY) -> subprocess.Popen:
        process = start(HOLDER, tmp_path, expiry)
        started.append(process)
        assert process.stdout.readline() == "True True\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def silence(mine: Claims) -> pathlib.Path:
    """Makes the other process one that gave no sign of life since 1970; returns its file."""
    (other,) = mine.others()
    path = mine.workers.file(other.run)
    os.utime(path, (0, 0))
    return path


RACER = """
done = pathlib.Path(sys.argv[1]) / "done"
with Claims(pathlib.Path(sys.argv[1])) as mine:
    print("ready", flush=True)
    sys.stdin.readline()
    left = [str(number) for number in range(40)]
    while left:
        for item in list(left):
            if not mine.take(item):
                continue
            if not (done / item).exists():
                assert mine.confirm(item)
                (done / item).touch(exist_ok=False)  # which fails where two of them do the same
                print(item, flush=True)
            mine.release(item)
            left.remove(item)
"""


def test_of_eight_processes_one_alone_takes_each_item(tmp_path):
    (tmp_path / "done").mkdir()
    racers = [start(RACER, tmp_path) for _ in range(8)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    took = [racer.communicate(timeout=PATIENCE)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 8
    assert sorted(int(item) for items in took for item in items) == list(range(40))
    assert sum(bool(items) for items in took) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["done"]  # the last one has removed the claims


def test_an_item_is_held_by_one_until_it_is_let_go(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take("a")
        assert not one.take("a")
        assert not other.take("a")
        assert not other.confirm("a")
        assert one.confirm("a")
        assert not other.take("a")
        other.release("a")
        assert one.confirm("a")
        one.release("a")
        assert not one.confirm("a")
        assert other.take("a")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_held_is_taken_over_at_once(tmp_path, holder):
    killed = holder()
    with Claims(tmp_path) as mine:
        assert not mine.take("a")
        assert [other.pid for other in mine.others()] == [killed.pid]
        killed.kill()
        killed.wait()
        assert mine.take("a")
        assert mine.confirm("a")
        assert mine.others() == []
    assert list(tmp_path.iterdir()) == []  # b too, which nobody took


def test_a_process_of_another_machine_counts_as_dead_when_it_gives_no_sign_of_life(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(alive, "system", lambda: "another")
    killed = holder()
    with Claims(tmp_path) as mine:
        killed.kill()
        killed.wait()
        assert not mine.take("a")
        silence(mine)
        assert mine.take("a")
        assert mine.take("b")


def test_a_process_gives_signs_of_life(tmp_path, holder):
    holder(0.5)
    with Claims(tmp_path) as mine:
        path = silence(mine)
        until(lambda: path.stat().st_mtime > 0)
        assert not mine.take("a")


def test_a_process_that_stood_still_has_lost_what_another_took_over(tmp_path, holder):
    suspended = holder()
    with Claims(tmp_path) as mine:
        suspended.send_signal(signal.SIGSTOP)
        assert not mine.take("a")
        silence(mine)
        assert mine.take("a")
        suspended.send_signal(signal.SIGCONT)
        said, _ = suspended.communicate("\n", timeout=PATIENCE)
        assert said == "False True\n"  # nobody took b
        assert mine.confirm("a")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_stood_still_leaves_the_claims_of_its_successors(tmp_path):
    with Claims(tmp_path) as still, Claims(tmp_path) as second, Claims(tmp_path) as third:
        assert still.take("a")
        key = claims._key("a")
        assert second._follow(key, 1, still.run)  # as after the expiry
        still.release("a")
        assert second.confirm("a")
        second.release("a")
        assert still.take("b")
        assert second._follow(claims._key("b"), 1, still.run)
        second.release("b")
        assert third.take("b")  # its generation is the one that the first process had
        still.release("b")
        assert third.confirm("b")


def test_a_file_that_another_host_removed_is_gone(tmp_path, monkeypatch):
    """NFS says ESTALE then."""
    read = pathlib.Path.read_text

    def stale(path, *rest):
        if path.parent.name == "claims" and not stale.said:
            stale.said = True
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path, *rest)

    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take("a")
        stale.said = False
        monkeypatch.setattr(pathlib.Path, "read_text", stale)
        assert not other.take("a")
        assert stale.said
        monkeypatch.setattr(pathlib.Path, "read_text", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(EnvironmentFault, match="broken"), other.lock("a"):
            pytest.fail("nobody knows who is in the block")
        monkeypatch.undo()


def test_who_takes_a_lock_from_a_process_that_leaves_sees_that_process_no_more(tmp_path):
    seen = []
    with Claims(tmp_path) as one, Claims(tmp_path) as other, one.lock("a"):
        let_go = one._let_go
        one._let_go = lambda key: seen.append(other.others()) or let_go(key)
        one.leave()
        assert seen == [[]]
        assert other.take("a")


def test_one_process_is_the_first_at_a_task(tmp_path):
    with Claims(tmp_path, "t") as one, Claims(tmp_path, "t") as other:
        assert (one.is_first, other.is_first) == (True, False)
        one.leave()
        with Claims(tmp_path, "t") as third:
            assert not third.is_first
    with Claims(tmp_path, "t") as fourth:
        assert fourth.is_first


def test_a_lock_is_waited_for_no_longer_than_told(tmp_path):
    with (
        Claims(tmp_path) as one,
        Claims(tmp_path) as other,
        one.lock("a"),
        pytest.raises(TimeoutError),
        other.lock("a", 0.05),
    ):
        pytest.fail("two are in the block at a time")


def test_of_two_that_saw_the_same_dead_owner_one_takes_over(tmp_path, holder):
    killed = holder()
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        killed.kill()
        killed.wait()
        key = claims._key("a")
        seen = [(mine, mine._top(key), mine._owner(key, 1)) for mine in (one, other)]
        assert [mine._follow(key, top, before) for mine, top, before in seen] == [True, False]
        one.release("a")
        late, top, before = seen[1]
        assert not late._follow(key, top, before)  # the claim that it saw is there no more
        assert late._top(key) == 0


def test_a_process_that_was_taken_for_dead_and_buried_comes_back(tmp_path):
    with Claims(tmp_path) as mine:
        assert mine.take("a")
        (tmp_path / ".lgjax" / "workers" / mine.run).unlink()
        assert mine.confirm("a")
        assert mine.is_at_work(mine.run)


def test_a_claim_that_its_owner_never_signed_expires(tmp_path):
    with Claims(tmp_path) as mine:
        path = tmp_path / ".lgjax" / "claims" / f"{claims._key('a')}.1"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert not mine.take("a")
        os.utime(path, (0, 0))
        assert mine.take("a")


def test_blocks_of_one_name_follow_each_other(tmp_path, holder):
    code = """
with Claims(pathlib.Path(sys.argv[1])) as mine:
    for _ in range(20):
        with mine.lock("count"), mine.lock("count"):
            path = pathlib.Path(sys.argv[1]) / "count"
            number = int(path.read_text())
            time.sleep(0.002)
            path.write_text(str(number + 1))
"""
    (tmp_path / "count").write_text("0")
    processes = [start(code, tmp_path) for _ in range(3)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"
    for process in processes:
        process.communicate()


def test_another_task_is_refused_while_the_first_is_at_work(tmp_path, caplog):
    with Claims(tmp_path, "t", "mirror"):
        with pytest.raises(UsageError, match=rf"process {os.getpid()} on .* at work there on mirror.*Wait for its end"):
            Claims(tmp_path, "u", "intensity").__enter__()
        caplog.set_level("INFO", "lgjax")
        with Claims(tmp_path, "t", "mirror"):
            assert f"works in this folder too (process {os.getpid()} on" in caplog.text
    with Claims(tmp_path, "u", "intensity") as mine:
        assert mine.others() == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / ".lgjax").write_text("")
    with pytest.raises(EnvironmentFault, match=r"\.lgjax: cannot be written: "):
        Claims(tmp_path).__enter__()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
@pytest.mark.parametrize("name", ["workers", "claims"])
def test_a_folder_that_stays_gone_is_told(tmp_path, monkeypatch, number, name):
    """Of a mount that went stale, and in /proc, no folder can be made."""
    make = pathlib.Path.mkdir

    def refuse(path, *rest, **options):
        if path.name == name:
            raise OSError(number, os.strerror(number))
        make(path, *rest, **options)

    monkeypatch.setattr(gone, "_PAUSE", 0.0)
    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(EnvironmentFault, match=os.strerror(number)), Claims(tmp_path) as mine:
        mine.take("a")


def test_a_folder_that_another_process_just_removed_is_made_again(tmp_path, monkeypatch):
    made, make = [], pathlib.Path.mkdir

    def removed(path, *rest, **options):
        made.append(path)
        if made.count(path) < 3:
            raise OSError(errno.ENOENT, "removed meanwhile")
        make(path, *rest, **options)

    monkeypatch.setattr(gone, "_PAUSE", 0.0)
    monkeypatch.setattr(pathlib.Path, "mkdir", removed)
    with Claims(tmp_path) as mine:
        assert mine.take("a")


@pytest.mark.skipif(not pathlib.Path("/proc/self").is_dir(), reason="no /proc here")
def test_in_proc_no_folder_can_be_made(monkeypatch):
    monkeypatch.setattr(gone, "_PAUSE", 0.0)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Claims(pathlib.Path("/proc/x")).__enter__()


def test_a_pid_that_is_used_again_is_another_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = alive.began(process.pid)
    assert not alive.is_dead(process.pid, start)
    assert alive.is_dead(process.pid, str(int(start) - 1))
    process.kill()
    until(lambda: alive.is_dead(process.pid, start))  # a zombie too
    process.communicate()
    assert alive.is_dead(process.pid, start)


def test_a_process_that_is_told_to_end_leaves_no_claim(tmp_path):
    code = """
import os, signal
from lgjax.runtime.claims import at_work
with at_work(pathlib.Path(sys.argv[1])) as mine:
    print(mine.take("a"), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")
"""
    process = start(code, tmp_path)
    assert process.communicate(timeout=PATIENCE)[0] == "True\n"
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_the_package_claims_only_where_a_signal_lets_go():
    """By `at_work`: a block of `Claims` alone leaves its claims to a process that is told to end."""
    made = []
    for path in (ROOT / "lgjax").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        made += [path.name for func in calls if "Claims" in (getattr(func, "id", ""), getattr(func, "attr", ""))]
    assert made == ["claims.py"]


def test_claims_name_no_item(tmp_path):
    with Claims(tmp_path) as mine:
        mine.take("sub-janedoe")
        files = [path for path in (tmp_path / ".lgjax").rglob("*") if path.is_file()]
        assert len(files) == 2
        assert "janedoe" not in "".join(f"{path} {path.read_text()}" for path in map(pathlib.Path, files))
