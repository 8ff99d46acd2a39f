"""Fault 38: processes in one output folder share the scans out, and do what a killed one leaves; the bits are the same.

The claims themselves are tested in tests/runtime/test_claims.py.
"""

import json
import os
import pathlib
import random
import socket
import time

import derived
import forked
import images
import pytest
from conftest import until
from server import Forked

from lgjax.batch import restorations
from lgjax.derivatives import write
from lgjax.runtime import parallel
from lgjax.runtime.claims import FOLDER, Claims
from lgjax.runtime.errors import UsageError
from lgjax.scans import sources

TOLD = "failed: sub-s9: "


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of four scans and one that is cut short."""
    folder = forked.heads(tmp_path_factory.mktemp("shared"))
    for number in (3, 9):
        images.save(folder / f"s{number}.nii.gz", images.head(seed=number))
    (folder / "s9.nii.gz").write_bytes((folder / "s9.nii.gz").read_bytes()[:300])
    return folder


def started(scans: pathlib.Path, folder: pathlib.Path, log: str, *flags: str, before=None) -> Forked:
    """A process that restores the scans."""
    words = ["restore", "--method=mirror_tv3d", "--config.data.workers=1", f"--input={scans}", f"--output={folder}"]
    return Forked([*words, *flags], folder.parent / log, before)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """All files of an output by name, without the number of devices, and without the record of the runs."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert paths.pop("results.json")
    return {name: path.read_bytes().replace(b"8 x cpu", b"cpu") for name, path in paths.items()}


def runs(folder: pathlib.Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["Runs"]


@pytest.fixture(scope="module")
def alone(scans, tmp_path_factory):
    """What one process on one device writes."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    assert started(scans, folder, "log").wait() == 3
    found = contents(folder)
    assert sum(name.endswith("desc-anomaly_T2w.json") for name in found) == 4
    assert not any(name.startswith(FOLDER) for name in found)
    return found


def eight_devices() -> None:
    os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=1", "device_count=8")


def test_eight_devices_give_the_bits_of_one(scans, alone, tmp_path):
    process = started(scans, tmp_path / "out", "log", before=eight_devices)
    assert process.wait() == 3
    assert b"8 x cpu" in (tmp_path / "out" / "methods.md").read_bytes()
    assert contents(tmp_path / "out") == alone


def test_two_hosts_give_the_bits_of_one_and_the_first_speaks(scans, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        flags = f"--coordinator=localhost:{free.getsockname()[1]}", "--hosts=2"
    hosts = [started(scans, tmp_path / "out", f"log{host}", *flags, f"--host={host}") for host in range(2)]
    assert [host.wait() for host in hosts] == [3, 3]
    first, other = ((tmp_path / f"log{host}").read_text() for host in range(2))
    assert [line for line in other.splitlines() if not line.startswith("[Gloo]")] == []
    assert TOLD in first
    assert " of 5 scans -> " in first
    found = runs(tmp_path / "out")
    assert sum(run["Restored"] for run in found) == 4  # each by one of them
    assert [run["Restored"] + run["RestoredElsewhere"] + run["FinishedBefore"] for run in found] == [4, 4]
    assert contents(tmp_path / "out") == alone


def test_two_processes_that_know_nothing_of_each_other_share_the_scans(scans, alone, tmp_path):
    with Claims(tmp_path / "out") as held:  # so that neither ends before the other has begun
        assert held.take("sub-s0")
        processes = [started(scans, tmp_path / "out", f"log{number}") for number in range(2)]
        until(lambda: len([other for other in held.others() if other.task]) == 2)
    assert [process.wait() for process in processes] == [3, 3]
    said = [(tmp_path / f"log{number}").read_text() for number in range(2)]
    assert all(TOLD in one for one in said)
    assert sum("works in this folder too (process " in one for one in said) == 1  # the second tells
    assert sum(run["Restored"] for run in runs(tmp_path / "out")) == 4
    assert contents(tmp_path / "out") == alone


@pytest.mark.parametrize("least", [0, 0.3])
def test_what_a_killed_process_leaves_the_other_does(scans, alone, tmp_path, least):
    """At a random moment after the first claim; a scan whose maps are half written included."""
    killed, other = (started(scans, tmp_path / "out", f"log{number}") for number in range(2))
    until(lambda: any((tmp_path / "out" / FOLDER).glob("claims/*")))
    time.sleep(least + 0.7 * random.random())
    killed.kill()
    killed.wait()
    assert other.wait() == 3
    found = contents(tmp_path / "out")
    litter = {name for name in found if name.endswith(".tmp")}  # which nothing can remove any more
    assert {name: found[name] for name in found.keys() - litter} == alone


def test_a_process_that_hangs_is_named_to_who_waits_for_it(scans, alone, tmp_path):
    """The process gives signs of life, so its scans stay its own until somebody ends it."""
    hung = started(scans, tmp_path / "out", "log0", before=forked.hang)
    until(lambda: any((tmp_path / "out" / FOLDER).glob("claims/*")))
    other = started(scans, tmp_path / "out", "log1", before=forked.impatient)
    told = f"waiting for process {hung.pid} on {socket.gethostname()}, which is at work on sub-s0, "
    until(lambda: told in forked.said(tmp_path / "log1"))
    assert f"`kill -9 {hung.pid}`, on {socket.gethostname()} ends it" in (tmp_path / "log1").read_text()
    assert other.poll() is None
    hung.kill()
    assert other.wait() == 3
    assert contents(tmp_path / "out") == alone


def test_a_process_that_stood_still_does_not_write_over_its_successor(tmp_path, monkeypatch, caplog):
    images.save(tmp_path / "in" / "a.nii.gz", derived.brain(), derived.GRID)
    detector, saved, (subject,) = derived.detector(), [], sources.find(str(tmp_path / "in"))
    found, save, folder = detector.found, write.write, tmp_path / "out"

    def take_over(worker) -> bool:
        os.utime(worker, (0, 0))  # no sign of life since 1970
        return successor.take(subject.identifier)

    with Claims(folder, restorations.task(detector)) as successor:

        def slow(*arguments):
            if not slow.taken:
                (worker,) = set((folder / FOLDER / "workers").iterdir()) - {successor.workers.file(successor.run)}
                until(lambda: take_over(worker))
                slow.taken = True
            return found(*arguments)

        def written(*arguments):
            saved.append(successor.confirm(subject.identifier))
            save(*arguments)

        slow.taken = False
        detector.found = slow
        monkeypatch.setattr(write, "write", written)
        monkeypatch.setattr(parallel.time, "sleep", lambda _: successor.release(subject.identifier))
        outcome = restorations.restore(detector, [subject], folder, 1)
    assert slow.taken
    assert "sub-a: this process stood still, and another one took the scan over" in caplog.text
    assert saved == [False]  # once, when the successor had let the scan go
    assert (outcome.total, outcome.failures, outcome.elsewhere) == (1, [], 0)


def test_maps_of_other_weights_or_settings_are_refused_while_the_first_process_is_at_work(tmp_path):
    images.save(tmp_path / "in" / "a.nii.gz", derived.brain(), derived.GRID)
    subjects, folder = sources.find(str(tmp_path / "in")), tmp_path / "out"
    restorations.restore(derived.detector(), subjects, folder, 1)
    before, other = contents(folder), derived.detector()
    other.about["WeightsSHA256"] = "others"
    with (
        Claims(folder, restorations.task(derived.detector()), "intensity"),
        pytest.raises(UsageError, match=rf"process {os.getpid()} on .* is at work there on intensity"),
    ):
        restorations.restore(other, subjects, folder, 1)
    assert contents(folder) == before
    assert restorations.restore(other, subjects, folder, 1).skipped == 0
