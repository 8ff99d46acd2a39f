"""results.json: what was done to which scan in how long, however the run ended."""

import contextlib
import json
import shutil
import signal
from datetime import datetime

import derived
import images
import pytest
import server
from conftest import PATIENCE, until
from server import Forked

from lgjax.batch import restorations, stages
from lgjax.derivatives import results, write
from lgjax.derivatives.results import FAILED, FINISHED, RESTORED, Results, Work
from lgjax.runtime import claims, files
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import EnvironmentFault, InputError
from lgjax.scans import sources

ABOUT = {"Method": "intensity", "Version": "1", "Thresholds": {"0.01": 1.0}}


@pytest.fixture
def scans(tmp_path):
    """A folder with a scan that is good and one that is cut short."""
    folder = tmp_path / "janedoe"
    images.save(folder / "a.nii.gz", derived.brain(), derived.GRID)
    images.save(folder / "b.nii.gz", derived.brain(1), derived.GRID)
    (folder / "b.nii.gz").write_bytes((folder / "b.nii.gz").read_bytes()[:300])
    return folder


def content(folder):
    return json.loads((folder / "results.json").read_text())


@contextlib.contextmanager
def recorded(folder, about=ABOUT):
    """A run of its own in a folder, as `restorations.restore` begins one."""
    with Claims(folder) as claims, Results(folder, about, claims) as record:
        yield record


def restored(scans, folder):
    return restorations.restore(derived.detector(), sources.find(str(scans)), folder, 1)


def test_runs_side_by_side_keep_each_other(tmp_path):
    """As jobs of a cluster do that share a folder, a participant each."""
    with recorded(tmp_path, {**ABOUT, "Device": "one"}) as one, recorded(tmp_path, {**ABOUT, "Device": "two"}) as other:
        one.note("sub-a", Work(RESTORED, "a"))
        other.note("sub-b", Work(FAILED, message="b"))
    found = content(tmp_path)
    assert {name: scan["Outcome"] for name, scan in found["Scans"].items()} == {"sub-a": RESTORED, "sub-b": FAILED}
    assert {(run["Device"], run["ExitCode"], run["Restored"]) for run in found["Runs"]} == {
        ("one", 0, 1),
        ("two", 3, 0),
    }
    assert len(found["Runs"]) == 2


def test_a_run_says_what_was_done_to_which_scan(scans, tmp_path):
    folder = tmp_path / "out"
    outcome = restored(scans, folder)
    assert outcome.code == 3
    found = content(folder)
    (run,) = found["Runs"]
    assert (run["ExitCode"], run["Restored"], run["FinishedBefore"], run["Failed"]) == (3, 1, 0, 1)
    assert (run["Method"], run["Version"]) == ("intensity", "made")
    seconds = (datetime.fromisoformat(run["End"]) - datetime.fromisoformat(run["Start"])).total_seconds()
    one, other = found["Scans"]["sub-a"], found["Scans"]["sub-b"]
    assert (one["Outcome"], one["InputSHA256"]) == ("restored", files.sha256(scans / "a.nii.gz"))
    parts = [one[f"{part}Seconds"] for part in ("Prepare", "Restore", "Write")]
    assert min(parts) > 0
    assert sum(parts) <= seconds + 1  # whose clock tells whole seconds
    assert other["Outcome"] == "failed"
    assert other["Message"].startswith("b.nii.gz: ")
    assert "janedoe" not in (folder / "results.json").read_text()
    ((name, said),) = outcome.failures
    assert (name, said.startswith(str(scans))) == ("sub-b", True)  # the terminal is told the whole path
    assert {"/results.json", "/.lgjax"} <= set((folder / ".bidsignore").read_text().splitlines())


def test_a_scan_under_two_names_is_told_while_both_are_there(scans, tmp_path, caplog):
    (tmp_path / "more").mkdir()
    shutil.copy(scans / "a.nii.gz", tmp_path / "more" / "copy.nii.gz")
    restored(scans, tmp_path / "out")
    assert results.repeated(tmp_path / "out") == []
    assert "are one scan" not in caplog.text
    restored(tmp_path / "more", tmp_path / "out")
    (same,) = results.repeated(tmp_path / "out")
    assert "sub-copy" in same
    (other,) = {*same} - {"sub-copy"}
    assert f"{same[0]} and {same[1]} are one scan" in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "out" / other)
    restored(tmp_path / "more", tmp_path / "out")
    assert results.repeated(tmp_path / "out") == []
    assert "are one scan" not in caplog.text


def test_a_later_run_does_not_erase_what_was_done(scans, tmp_path):
    folder = tmp_path / "out"
    restored(scans, folder)
    before = content(folder)
    images.save(scans / "b.nii.gz", derived.brain(1), derived.GRID)
    assert restored(scans, folder).code == 0
    found = content(folder)
    assert found["Runs"][:1] == before["Runs"]
    assert [found["Runs"][1][key] for key in ("Restored", "FinishedBefore", "Failed", "ExitCode")] == [1, 1, 0, 0]
    assert found["Scans"]["sub-a"] == before["Scans"]["sub-a"]
    assert found["Scans"]["sub-b"]["Outcome"] == "restored"


def test_what_an_earlier_version_finished_is_entered(scans, tmp_path):
    folder = tmp_path / "out"
    derived.detector()(sources.find(str(scans / "a.nii.gz"))[0]).save(folder)
    assert not (folder / "results.json").exists()
    restored(scans / "a.nii.gz", folder)
    entry = content(folder)["Scans"]["sub-a"]
    assert (entry["Outcome"], entry["InputSHA256"]) == ("finished before", files.sha256(scans / "a.nii.gz"))


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (EnvironmentFault("full"), 4), (ZeroDivisionError(), 1)]
)
def test_an_early_end_is_noted(tmp_path, error, code):
    def ends() -> None:
        with recorded(tmp_path) as record:
            record.note("sub-a", Work(RESTORED, "a", 1.0, 2.0, 0.5))
            raise error

    with pytest.raises(type(error)):
        ends()
    found = content(tmp_path)
    assert found["Runs"][0]["ExitCode"] == code
    assert found["Scans"]["sub-a"]["RestoreSeconds"] == 2.0


def test_sigterm_is_noted_before_the_process_ends(tmp_path):
    code = f"""
import os, pathlib, signal
from lgjax.derivatives.results import Results, Work
from lgjax.runtime.claims import Claims
folder = pathlib.Path({str(tmp_path)!r})
with Claims(folder) as claims, Results(folder, {ABOUT}, claims) as record:
    record.note("sub-a", Work("restored"))
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")
"""
    ended = server.python(code)
    assert (ended.returncode, ended.stdout) == (143, "")
    assert content(tmp_path)["Runs"][0]["ExitCode"] == 143
    assert list(content(tmp_path)["Scans"]) == ["sub-a"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]  # other hosts see at once that it has gone


def test_ctrl_c_is_noted_however_long_the_work_at_hand_takes(scans, tmp_path):
    """Of which Python waits for every thread: too long for who pressed it, and the process ends in the midst of it."""
    images.save(scans / "b.nii.gz", derived.brain(1), derived.GRID)
    code = f"""
import os, pathlib, signal, threading, time
import derived
from lgjax.batch import restorations
from lgjax.derivatives import results, write
from lgjax.runtime import signals
from lgjax.scans import sources
signals.GRACE = 0.2
signal.signal(signal.SIGINT, signals.interrupt)
written, note, noted = write.write, results.Results.note, threading.Event()
def told(record, *rest):
    note(record, *rest)
    noted.set()
def press():
    noted.wait()  # for sub-a
    os.kill(os.getpid(), signal.SIGINT)
def slow(folder, subject, *rest):
    if subject == "sub-b":
        threading.Thread(target=press).start()
        time.sleep(3600)
    written(folder, subject, *rest)
write.write, results.Results.note = slow, told
subjects = sources.find({str(scans)!r})
restorations.restore(derived.detector(), subjects, pathlib.Path({str(tmp_path / "out")!r}), 1)
"""
    ended = server.run("-c", code, optimised=True)
    assert ended.returncode == 130, ended.stderr
    found = content(tmp_path / "out")
    assert (found["Runs"][0]["ExitCode"], list(found["Scans"])) == (130, ["sub-a"])
    assert found["Runs"][0]["End"]
    assert not (tmp_path / "out" / ".lgjax").exists()  # other hosts see at once that it has gone


INTERRUPTED = """
import pathlib, sys
import derived
from conftest import until
from lgjax.batch import restorations
from lgjax.cli import app
from lgjax.derivatives import write
from lgjax.runtime import signals
from lgjax.scans import sources

signals.GRACE = 300.0
place, written = pathlib.Path(sys.argv[1]), write.write

def slow(folder, subject, *rest):
    if subject == "sub-b":
        (place / "reached").touch()
        until((place / "go on").exists)
    written(folder, subject, *rest)

write.write = slow
app.run(lambda _: restorations.restore(derived.detector(), sources.find(str(place / "in")), place / "out", 1).code)
"""


def test_what_an_interrupted_run_counts_is_what_is_on_disk(tmp_path):
    """The scan that is being written at that time, too, and the same command does the others."""
    for number, name in enumerate("abcd"):
        images.save(tmp_path / "in" / f"{name}.nii.gz", derived.brain(number), derived.GRID)
    first = Forked(["-c", INTERRUPTED, str(tmp_path)], tmp_path / "log")
    until((tmp_path / "reached").exists)
    first.send_signal(signal.SIGINT)
    until(lambda: b"interrupted" in (tmp_path / "log").read_bytes())
    (tmp_path / "go on").touch()
    assert first.wait(PATIENCE) == 130
    (run,) = content(tmp_path / "out")["Runs"]
    finished = sorted(path.name[:5] for path in (tmp_path / "out").rglob("*desc-anomaly_T2w.json"))
    assert finished == ["sub-a", "sub-b"]
    assert list(content(tmp_path / "out")["Scans"]) == finished
    assert (run["Restored"], run["ExitCode"]) == (2, 130)
    assert "intensity: 2 of 4 scans in " in (tmp_path / "log").read_text()
    assert Forked(["-c", INTERRUPTED, str(tmp_path)], tmp_path / "log").wait(PATIENCE) == 0
    again = content(tmp_path / "out")["Runs"][1]
    assert [again[key] for key in ("Restored", "FinishedBefore", "ExitCode")] == [2, 2, 0]


def test_who_is_interrupted_waits_no_longer_than_patience_for_another_process(tmp_path, monkeypatch):
    """Which may hang while it holds the record; then the run stays open, as that of a killed process."""
    monkeypatch.setattr(results, "PATIENCE", 0.1)

    def interrupted(other, held):
        with recorded(tmp_path):
            held.enter_context(other.lock(results.NAME))
            raise KeyboardInterrupt

    with Claims(tmp_path) as other, contextlib.ExitStack() as held, pytest.raises(KeyboardInterrupt):
        interrupted(other, held)
    assert content(tmp_path)["Runs"][0]["End"] is None


def test_the_handler_of_before_is_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with recorded(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_killed_process_leaves_what_was_done_until_shortly_before(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "INTERVAL", 0.0)
    with recorded(tmp_path) as record:
        assert content(tmp_path)["Runs"][0]["ExitCode"] is None
        record.note("sub-a", Work(FAILED, message="no"))
        record.keep()
        assert content(tmp_path)["Scans"]["sub-a"]["Message"] == "no"


def test_the_next_run_says_of_a_killed_one_that_it_was_killed_and_of_one_at_work_nothing(tmp_path):
    code = f"""
import os, pathlib, signal
from lgjax.derivatives.results import Results
from lgjax.runtime.claims import Claims
folder = pathlib.Path({str(tmp_path)!r})
with Claims(folder) as claims, Results(folder, {ABOUT}, claims):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    old = {"Start": "2026-01-01T00:00:00+00:00", "End": None, "ExitCode": None}  # which an earlier version wrote
    (tmp_path / "results.json").write_text(json.dumps({"Runs": [old], "Scans": {}}))
    assert server.python(code).returncode == -signal.SIGKILL
    assert ["Killed" in run for run in content(tmp_path)["Runs"]] == [False, False]
    with recorded(tmp_path), recorded(tmp_path):
        runs = content(tmp_path)["Runs"]
    assert [run.get("Killed") for run in runs] == [None, True, None, None]
    assert [run["End"] for run in runs] == [None] * 4
    assert runs[0] == old


def test_processes_that_write_at_a_time_lose_no_line(tmp_path, monkeypatch):
    code = f"""
import pathlib, sys
from lgjax.derivatives import results
from lgjax.derivatives.results import Results, Work
from lgjax.runtime.claims import Claims
results.INTERVAL = 0.0
folder = pathlib.Path({str(tmp_path)!r})
with Claims(folder) as claims, Results(folder, {ABOUT}, claims) as record:
    for number in range(10):
        record.note(f"sub-{{sys.argv[1]}}{{number}}", Work("restored"))
        record.keep()
"""
    processes = [Forked(["-c", code, name], tmp_path / f"{name}.log") for name in "abc"]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    found = content(tmp_path)
    assert sorted(found["Scans"]) == [f"sub-{name}{number}" for name in "abc" for number in range(10)]
    assert [(run["Restored"], run["ExitCode"]) for run in found["Runs"]] == [(10, 0)] * 3
    assert {scan["Run"] for scan in found["Scans"].values()} == {run["Id"] for run in found["Runs"]}


def test_a_failure_replaces_and_is_replaced(tmp_path):
    for outcome in (RESTORED, FAILED, FINISHED):
        with recorded(tmp_path) as record:
            record.note("sub-a", Work(outcome))
        assert content(tmp_path)["Scans"]["sub-a"]["Outcome"] == outcome


@pytest.mark.parametrize("text", ["{", "[]", '{"Runs": {}, "Scans": {}}', '{"Runs": [], "Scans": {"sub-a": 1}}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match="Remove it"), recorded(tmp_path):
        pass
    assert (tmp_path / "results.json").read_text() == text


def test_a_replaced_scan_that_fails_is_finished_no_more(scans, tmp_path):
    """The map of the scan that was there before would pass for one of the scan that is there now."""
    out = tmp_path / "out"
    restored(scans, out)
    done = write.file(out, "sub-a", write.ANOMALY, "json")
    whole = (scans / "a.nii.gz").read_bytes()
    assert done.exists()
    (scans / "a.nii.gz").write_bytes(whole[:300])
    assert [name for name, _ in restored(scans, out).failures] == ["sub-a", "sub-b"]
    assert not done.exists()
    (scans / "a.nii.gz").write_bytes(whole)
    restored(scans, out)
    write.retract(out, "sub-a", stages.digest_of(sources.find(str(scans / "a.nii.gz"))[0]))  # of the very same scan
    assert done.exists()


def test_masks_of_rates_that_are_asked_no_more_go(scans, tmp_path):
    out = tmp_path / "out"
    restored(scans, out)
    old = write.file(out, "sub-a", "label-lesion_desc-fpr7_mask")
    old.write_bytes(b"of another calibration")
    write.file(out, "sub-a", write.ANOMALY, "json").unlink()
    restored(scans, out)
    assert not old.exists()


def test_a_run_that_is_told_to_end_while_it_takes_the_lock_ends_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PATIENCE", 0.05)
    with recorded(tmp_path) as record:
        before = content(tmp_path)
        unsigned = tmp_path / ".lgjax" / "claims" / f"{claims._key(results.NAME)}.1"
        unsigned.touch()  # as between the making of a claim and its signature
        record._terminated(143)
        assert record._claims.others() == []
        assert content(tmp_path) == before
        unsigned.unlink()
