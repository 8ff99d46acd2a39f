"""Preparation, restoration and writing of many scans at once: in order, each with its own fault, few at a time."""

import shutil
import threading
import time

import derived
import images
import numpy as np
import pytest

from lgjax.batch import restorations
from lgjax.batch.stages import Stages
from lgjax.derivatives import results, sidecar, write
from lgjax.derivatives.results import FAILED, FINISHED, RESTORED
from lgjax.preparation import pipeline
from lgjax.preparation.kept import Kept
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import EnvironmentFault, InputError
from lgjax.scans import nifti, sources

COUNT = 24


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Small scans whose slices do not fill batches; the third is cut short."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(COUNT):
        images.save(folder / f"s{number:02}.nii.gz", derived.brain(number), derived.GRID)
    damaged = folder / "s02.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:300])
    return sources.find(str(folder))


@pytest.fixture
def detector():
    made = derived.detector()
    made.runner.micro = made.runner.wanted = 1
    assert made.runner.size == 8  # slices, on eight devices; a scan has four
    return made


@pytest.fixture
def undrawn(monkeypatch):
    """Writes scans without their pictures, which take most of the time."""
    monkeypatch.setattr(write, "picture", lambda *_: b"")


def worked(detector, scans, folder, workers=2):
    with Claims(folder) as claims:
        return list(Stages(detector, folder, claims, lambda *_: None, workers).work(scans))


def test_maps_are_those_of_one_scan_at_a_time(detector, scans, tmp_path):
    some = scans[:9]
    done = worked(detector, some, tmp_path / "together")
    assert [work.outcome for work in done] == [RESTORED, RESTORED, FAILED, *[RESTORED] * 6]
    for subject, work in zip(some, done, strict=True):
        if work.outcome == FAILED:
            assert "s02.nii.gz" in work.message
            continue
        assert min(work.prepare, work.restore, work.write) > 0
        detector(subject).save(tmp_path / "alone")
        for name in (sidecar.ANOMALY, sidecar.RESTORED):
            ours, theirs = (sidecar.file(tmp_path / place, subject.identifier, name) for place in ("together", "alone"))
            np.testing.assert_array_equal(nifti.read(ours).data, nifti.read(theirs).data)
    again = worked(detector, some, tmp_path / "together")
    assert [work.outcome for work in again] == [FINISHED, FINISHED, FAILED, *[FINISHED] * 6]


@pytest.mark.usefixtures("undrawn")
def test_scans_are_told_in_order_and_a_fault_of_writing_is_that_of_its_scan(detector, scans, tmp_path, monkeypatch):
    """However long the writing of each takes, and although others are written meanwhile."""
    written = write.write

    def slow(folder, subject, *rest):
        time.sleep(0.05 * (hash(subject) % 3))
        if subject == scans[5].identifier:
            raise InputError(subject, "is refused", "Never mind")
        written(folder, subject, *rest)

    monkeypatch.setattr(write, "write", slow)
    outcome = restorations.restore(detector, scans[:9], tmp_path / "out", 3)
    assert [name for name, _ in outcome.failures] == [scans[2].identifier, scans[5].identifier]
    assert "is refused" in outcome.failures[1][1]
    finished = {path.name.partition("_")[0] for path in (tmp_path / "out").rglob(f"*{sidecar.ANOMALY}.json")}
    assert finished == {one.identifier for one in scans[:9]} - {scans[2].identifier, scans[5].identifier}
    assert outcome.speed.scans == 7
    assert 0 < outcome.speed.busy < outcome.speed.seconds


def test_no_stage_runs_far_ahead_of_the_next_one(detector, scans, tmp_path, monkeypatch):
    """So the memory of a cohort is that of a few scans, however slow the disk."""
    prepared, done, most = [], [], []
    prepare = pipeline.prepare
    monkeypatch.setattr(pipeline, "prepare", lambda *given: prepared.append(1) or prepare(*given))

    def slow(*_):
        seen = 0 if not done else len(prepared)
        while seen < len(prepared):  # the first scan is written for as long as others are prepared
            seen = len(prepared)
            time.sleep(0.3)
        most.append(len(prepared) - len(done))
        done.append(1)

    monkeypatch.setattr(write, "write", slow)
    good = [one for number, one in enumerate(scans) if number != 2]
    worked(detector, good, tmp_path / "out", workers=1)
    # Two prepared ahead and one on its way; two that share a batch and one on its way; one written, and one behind it.
    assert 4 <= max(most) <= 2 + 1 + 2 + 1 + 2
    assert len(prepared) == len(done) == COUNT - 1


def test_the_main_thread_alone_drives_the_devices(detector, scans, tmp_path, monkeypatch):
    threads, run = set(), detector.runner.batch
    monkeypatch.setattr(
        detector.runner, "batch", lambda part: threads.add(threading.current_thread().name) or run(part)
    )
    worked(detector, scans[:2], tmp_path)
    assert threads == {threading.current_thread().name}


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_ends_the_run_and_nothing_is_half_done(detector, scans, tmp_path, monkeypatch):
    written = write.write

    def full(folder, subject, *rest):
        if subject == scans[1].identifier:
            raise EnvironmentFault("the disk is full")
        written(folder, subject, *rest)

    monkeypatch.setattr(write, "write", full)
    with pytest.raises(EnvironmentFault, match="full"):
        restorations.restore(detector, scans[:9], tmp_path / "out", 2)
    assert threading.active_count() <= 1 + sum(thread.daemon for thread in threading.enumerate())
    assert not list((tmp_path / "out").rglob("*.tmp"))
    monkeypatch.undo()
    outcome = restorations.restore(detector, scans[:9], tmp_path / "out", 2)
    assert [name for name, _ in outcome.failures] == [scans[2].identifier]
    assert outcome.skipped >= 1


@pytest.mark.usefixtures("undrawn")
def test_the_record_says_how_fast_the_scans_were_restored(detector, scans, tmp_path):
    speed = restorations.restore(detector, scans[:2], tmp_path, 1).speed
    (run,) = results._read(tmp_path / results.NAME)["Runs"]
    assert run["Seconds"] == pytest.approx(speed.seconds, abs=1e-3)
    assert run["DeviceSeconds"] == pytest.approx(speed.busy, abs=1e-3)
    assert run["ScansPerHour"] == pytest.approx(2 * 3600 / speed.seconds, rel=1e-3)
    assert 0 < speed.busy < speed.seconds


@pytest.mark.usefixtures("undrawn")
def test_finished_scans_behind_one_that_waits_for_its_batch_are_held_by_nobody(detector, scans, tmp_path, monkeypatch):
    """Else a process would hold all of a cohort but one, and ask for each among the claims of all before."""
    worked(detector, scans[3:9], tmp_path)
    waits, held, run = [scans[0], *scans[3:9]], [], detector.runner.batch
    with Claims(tmp_path) as claims:
        folder = tmp_path / ".lgjax" / "claims"
        monkeypatch.setattr(detector.runner, "batch", lambda part: held.append(len([*folder.iterdir()])) or run(part))
        done = list(Stages(detector, tmp_path, claims, lambda *_: None, 1).work(waits))
    assert [work.outcome for work in done] == [RESTORED, *[FINISHED] * 6]
    assert held == [1]


@pytest.mark.usefixtures("undrawn")
def test_what_another_process_restored_meanwhile_was_not_finished_before(detector, scans, tmp_path, monkeypatch):
    folder, check = tmp_path / "out", write.check_place
    detector(scans[3]).save(folder)
    detector(scans[4]).save(tmp_path / "theirs")

    def meanwhile(*given):
        shutil.copytree(tmp_path / "theirs", folder, dirs_exist_ok=True)
        check(*given)

    monkeypatch.setattr(write, "check_place", meanwhile)
    outcome = restorations.restore(detector, [scans[3], scans[0], scans[4]], folder, 1)
    assert (outcome.speed.scans, outcome.skipped, outcome.elsewhere) == (1, 1, 1)


@pytest.mark.usefixtures("undrawn")
def test_a_scan_that_another_process_took_over_is_left_alone(detector, scans, tmp_path):
    with Claims(tmp_path) as claims:
        stages = Stages(detector, tmp_path, claims, lambda *_: None, 1)
        claims.confirm = lambda identifier: identifier != scans[1].identifier
        done = list(stages.work(scans[:4]))
    assert [work and work.outcome for work in done] == [RESTORED, None, FAILED, RESTORED]
    assert not sidecar.file(tmp_path, scans[1].identifier, sidecar.ANOMALY).exists()


@pytest.mark.usefixtures("undrawn")
def test_the_next_method_takes_scans_as_they_were_prepared(detector, scans, tmp_path, monkeypatch):
    prepared, prepare = [], pipeline.prepare
    monkeypatch.setattr(pipeline, "prepare", lambda *given: prepared.append(1) or prepare(*given))
    kept, two = Kept(1e9), scans[:2]
    for name in ("one", "other"):
        outcome = restorations.restore(detector, two, tmp_path / name, 1, kept=kept)
        assert outcome.speed.scans == 2
    assert len(prepared) == 2
    for subject in two:
        ours, theirs = (sidecar.file(tmp_path / name, subject.identifier, sidecar.ANOMALY) for name in ("one", "other"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_what_a_killed_process_left_half_written_goes_when_the_scan_is_written(detector, scans, tmp_path):
    one, out = scans[0], tmp_path / "out"
    maps, figures = sidecar.file(out, one.identifier, sidecar.ANOMALY), sidecar.picture(out, one.identifier)
    litter = [path.with_name(f".{path.name}.0123456789ab.tmp") for path in (maps, figures)]
    others = [
        maps.with_name(f".{one.identifier}_run-2_space-orig_mask.nii.gz.0123456789ab.tmp"),  # another scan's
        maps.with_name(f"{one.identifier}_space-orig_notes.tmp"),  # a user's
    ]
    for path in (*litter, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    worked(detector, [one], out)
    assert [path.exists() for path in (*litter, *others)] == [False, False, True, True]
    assert maps.exists()
