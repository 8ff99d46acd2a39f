"""Training from a prepared data set: the same bits resident and streamed, killed and resumed, on one host and two."""

import functools
import json
import logging
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile

import forked
import jax
import numpy as np
import pytest
import remembered
from conftest import both, until
from prepared import make, source
from server import Forked

from lgjax import train
from lgjax.preparation import dataset, recipe
from lgjax.preparation.slices import Grid
from lgjax.runtime import devices as runtime_devices
from lgjax.runtime import hosts as runtime_hosts
from lgjax.runtime import memory
from lgjax.runtime.errors import InputError, UsageError
from lgjax.training import feeding, settings
from lgjax.training import step as training
from lgjax.workdir import checkpoints, experiment


@pytest.fixture(autouse=True, scope="module")
def one_program():
    """Trainings of one config share their programs, which each of them would compile anew."""
    with remembered.programs():
        yield


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Curves are not drawn and pictures are empty, which no test looks at: they take longer than all steps."""
    monkeypatch.setattr(train.Log, "draw", lambda *_: None)
    monkeypatch.setattr(train.pictures, "samples_figure", lambda rows: b"")


@pytest.fixture
def folder(tmp_path):
    """A prepared data set with thirty training slices, 16x16."""
    make(tmp_path / "prepared")
    return tmp_path / "prepared"


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """The same, for several tests."""
    folder = tmp_path_factory.mktemp("intact") / "prepared"
    make(folder)
    return folder


@pytest.fixture
def ours(config, folder):
    """The tiny config, trained on it."""
    config.data.source = str(folder)
    return config


def weights(workdir):
    """The newest checkpoint's step and the bytes of its arrays."""
    config = experiment.get_config(str(workdir / "config.json"))
    state, step = checkpoints.restore_newest(workdir / "checkpoints", training.state_shapes(*both(config)))
    return step, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def metrics(workdir) -> list[dict]:
    """The lines of metrics.jsonl, but for the only value that is another in every run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def test_resident_and_streamed_training_are_equal_bit_for_bit(ours, folder, mesh1, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name, resident, workers in (("a", "always", 1), ("b", "never", 3)):
        ours.data.resident, ours.data.workers = resident, workers
        train.train(ours, tmp_path / name, mesh1)
        place = "kept on" if resident == "always" else "streamed to"
        assert f"30 training slices, 0.00 GB: {place} the device (--config.data.resident={resident})" in caplog.text
        assert weights(tmp_path / name) == weights(tmp_path / "a")
        assert metrics(tmp_path / name) == metrics(tmp_path / "a")
    assert weights(tmp_path / "a")[0] == len(metrics(tmp_path / "a")) == 6
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["TrainedOn"] == f"4 healthy subjects, 30 slices, 16x16: {folder.name}"
    assert record["Subjects"] == ["raw sub-1", "raw sub-2", "raw sub-3", "raw sub-4"]
    assert record["ValidationSubjects"] == ["raw sub-0"]
    prepared = recipe.read(tmp_path / "a" / "preprocessing.json")
    assert prepared == dataset.read_index(folder).recipe
    assert record["RecipeSHA256"] == prepared.digest


def test_auto_streams_what_does_not_fit(ours, folder, mesh1, mesh8, monkeypatch):
    stored = source(folder, dataset.read_index(folder))
    need = stored.nbytes / feeding.MACHINE_SHARE  # bytes of memory at which they just fit
    for pages, mesh, expected in ((need, mesh1, True), (need - 1, mesh1, False), (need, mesh8, False)):
        monkeypatch.setattr(memory, "total", lambda pages=pages: pages)
        assert feeding.fits(settings.from_config(ours), stored, mesh)[0] == expected
        for choice, decided in (("always", True), ("never", False)):
            ours.data.resident = choice
            assert feeding.fits(settings.from_config(ours), stored, mesh)[0] == decided
        ours.data.resident = "auto"


def test_an_accelerator_s_own_memory_decides(ours, folder):
    class Device:
        def __init__(self, limit):
            self.memory_stats = lambda: {"bytes_limit": limit}

    class Mesh:
        def __init__(self, *limits):
            self.local_devices = [Device(limit) for limit in limits]

    stored = source(folder, dataset.read_index(folder))
    need = stored.nbytes / feeding.DEVICE_SHARE
    assert feeding.fits(settings.from_config(ours), stored, Mesh(need, 2 * need))[0]
    assert not feeding.fits(settings.from_config(ours), stored, Mesh(need - 1, 2 * need))[0]


def untouched(workdir) -> dict:
    """What a work directory holds."""
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_another_grid_is_refused(ours, mesh1, tmp_path):
    ours.data.spacing, ours.data.height = 1.5, 32
    flags = r"--config.data.height=16 --config.data.width=16 --config.data.spacing=3\.0"
    with pytest.raises(UsageError, match=flags):
        train.train(ours, tmp_path / "w", mesh1)
    assert not (tmp_path / "w").exists()


def test_another_saturation_is_refused(ours, folder, mesh1, tmp_path):
    ours.data.saturation = (-2.0, 1.5)
    with pytest.raises(UsageError, match=r"another saturation.*Give --config\.data\.saturation='\(\)', or prepare"):
        train.train(ours, tmp_path / "w", mesh1)
    index = dataset.read_index(folder)
    dataset.write_index(folder, index._replace(recipe=index.recipe._replace(saturation=(-2.0, 1.5))))
    prepared, _ = train.check(ours, tmp_path / "w")
    assert prepared.saturation == (-2, 1.5)
    ours.data.saturation = ()
    with pytest.raises(UsageError, match=r"Give --config\.data\.saturation='\(-2\.0,1\.5\)', or prepare"):
        train.check(ours, tmp_path / "w")


def test_a_set_prepared_anew_in_another_way_or_of_others_is_refused(ours, folder, mesh1, tmp_path):
    train.train(ours, tmp_path / "w", mesh1)
    before = untouched(tmp_path / "w")
    index = dataset.read_index(folder)
    entries = index.subjects
    held_out = entries[0]._replace(input_sha256="another")
    other = [entry._replace(input_sha256="another") if entry.identifier == "sub-2" else entry for entry in entries]
    ours.train.steps = 9
    for changed, message in (
        (index._replace(recipe=index.recipe._replace(stripper="none")), "trained on scans prepared in another way"),
        (index._replace(subjects=tuple(other)), r"trained on other subjects.*of 4, 1 are gone, 1 are new"),
        (
            index._replace(subjects=(held_out, *entries[1:])),
            r"validated on other subjects.*of 1, 1 are gone, 1 are",
        ),
        (index._replace(subjects=entries[:-1]), r"trained on other subjects.*of 4, 1 are gone, 0 are new"),
        (index._replace(subjects=entries[::-1]), r"trained on other subjects.*of 4, their order has changed"),
    ):
        dataset.write_index(folder, changed)
        with pytest.raises(UsageError, match=f"w was {message}.*another --workdir"):
            train.train(ours, tmp_path / "w", mesh1)
        assert untouched(tmp_path / "w") == before
    (tmp_path / "w" / "training.json").write_text("{}")
    with pytest.raises(InputError, match=r"training\.json: cannot be read"):
        train.train(ours, tmp_path / "w", mesh1)


def test_before_the_first_checkpoint_subjects_may_change(ours, mesh1, tmp_path, monkeypatch):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "training.json").write_text('{"Subjects": ["another"]}')
    monkeypatch.setattr(train, "run", lambda *_: None)
    monkeypatch.setattr(training, "initial_state", training.state_shapes)
    monkeypatch.setattr(runtime_devices, "replicate", lambda tree, mesh: tree)
    train.train(ours, tmp_path / "w", mesh1)
    assert len(json.loads((tmp_path / "w" / "training.json").read_text())["Subjects"]) == 4


def test_the_recipe_of_other_sources_is_recorded_too(config, tmp_path):
    prepared, index = train.check(config, tmp_path)
    train.record(config, tmp_path, prepared)
    assert index is None
    assert prepared == recipe.read(tmp_path / "preprocessing.json") == recipe.bare(experiment.grid(config))
    assert prepared.grid == Grid(16, 16, config.data.spacing)


def test_damaged_slices_are_found_before_training(ours, folder, mesh1, tmp_path):
    path = dataset.file(folder, "sub-3", "desc-slices_mask.npy")
    np.save(path, ~np.load(path))
    with pytest.raises(InputError, match=r"sub-3_desc-slices_mask\.npy.*repare it again"):
        train.train(ours, tmp_path / "w", mesh1)
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_a_set_that_is_too_small_or_whose_splits_share_a_scan_is_refused_unread(ours, folder, tmp_path):
    index = dataset.read_index(folder)
    first, *others = index.subjects
    shared = first._replace(input_sha256=others[2].input_sha256)
    for subjects, message in (
        ([first], "no subject of it falls into the train split"),
        (others, "no subject of it falls into the calibration split"),
        ([shared, *others], "1 of 1 scans of the calibration set are in the training set too"),
    ):
        dataset.write_index(folder, index._replace(subjects=tuple(subjects)))
        with pytest.raises(UsageError, match=message):
            train.check(ours, tmp_path / "w")


def test_slices_held_out_are_those_of_as_many_subjects_as_calibration_takes(ours, folder):
    index = dataset.read_index(folder)
    entries = [entry._replace(split="calibration") for entry in index.subjects[:3]] + list(index.subjects[3:])
    ours.data.calibration_subjects = 2
    given = experiment.source(ours), index.recipe, index._replace(subjects=tuple(entries)), 1
    held_out, subjects = feeding.find_slices(*given, "calibration")
    assert subjects == ["raw sub-0", "raw sub-1"]
    assert len(held_out) == 3 + 4


def test_a_batch_that_devices_cannot_share(ours, folder, mesh8):
    ours.train.batch_size = 12
    with pytest.raises(UsageError, match=r"batch_size=12.*multiple of the 8 devices"):
        next(feeding.steps(*both(ours), source(folder, dataset.read_index(folder)), mesh8, 0))


@pytest.mark.parametrize(("size", "remedy"), [(12, "such as 8. Or train on 6"), (7, "such as 8. Or train on 7")])
def test_such_a_batch_is_refused_before_slices_are_read_and_before_anything_is_written(
    ours, mesh8, tmp_path, monkeypatch, size, remedy
):
    monkeypatch.delattr(feeding, "find_slices")
    ours.train.batch_size = size
    with pytest.raises(UsageError, match=rf"batch_size={size}.*{re.escape(remedy)} of them"):
        train.train(ours, tmp_path / "w", mesh8)
    assert not (tmp_path / "w").exists()


def test_a_finished_training_shares_no_batch(ours, mesh8, tmp_path, monkeypatch):
    ours.train.batch_size = 12
    monkeypatch.setattr(checkpoints, "restore_newest", lambda *_: (None, ours.train.steps))
    train.train(ours, tmp_path / "w", mesh8)


TINY = [  # of the model that is traced and compiled soonest: how a training is fed, killed and joined hangs on no model
    "--config=configs/dae.py:smoke",
    "--config.data.height=16",
    "--config.data.width=16",
    "--config.model.channels=(4,)",
    "--config.train.batch_size=8",
    "--config.train.steps=20",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=5",
]


def start(folder: pathlib.Path, workdir: pathlib.Path, *arguments, devices=2, before=forked.undrawn) -> Forked:
    """Starts lgjax.train in a process group of its own."""
    words = ["train", *TINY, f"--config.data.source={folder}", f"--workdir={workdir}"]
    out, err = (pathlib.Path(tempfile.mkdtemp(dir=workdir.parent), name) for name in ("out", "err"))
    return Forked([*words, *arguments], out, before, err=err, devices=devices, optimised=False)


def finish(process: Forked) -> tuple[str, str]:
    """Waits for the end of the process and of its children: what they said."""
    out, err = process.communicate(300)
    return out, "\n".join(line for line in err.splitlines() if "step/s" not in line)  # without progress bars


def silent(said: str) -> bool:
    return not re.search(r"Traceback|[Ww]arning|Exception|[Ll]eaked", said)


def group(process: Forked) -> list[int]:
    """Other processes of its group."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in found.splitlines()]
    return [int(pid) for pid, pgid, stat in lines if int(pgid) == process.pid != int(pid) and stat[0] != "Z"]


def logged(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def whole(intact, tmp_path_factory):
    """What one process with two devices trains that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    process = start(intact, workdir, "--config.data.resident=always")
    assert silent(finish(process)[1])
    assert process.returncode == 0
    return workdir


def test_killed_in_the_middle_of_an_epoch_training_goes_on_to_the_same_end(intact, whole, tmp_path):
    """Steps of 8 of 30 slices: a checkpoint of step 5 or 10 lies inside an epoch. Nothing is left running."""
    killed = tmp_path / "killed"
    streamed = "--config.data.resident=never", "--config.data.read_processes=1"
    for number, at, code in ((signal.SIGKILL, 6, -9), (signal.SIGTERM, 10, 143), (signal.SIGINT, 14, 130)):
        place = tmp_path / number.name
        place.mkdir()
        process = start(intact, killed, *streamed, before=functools.partial(forked.stand_still, at, place))
        until((place / "reached").exists)
        assert group(process)
        # Ctrl-C goes to the children as well.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        (place / "go on").touch()
        said = finish(process)[1]
        assert process.returncode == code
        assert silent(said) or number == signal.SIGKILL  # Python tells of the locks that it cleans up
        until(lambda process=process: not group(process))
        newest = checkpoints.steps(killed / "checkpoints")[0]
        assert newest == 5 if number == signal.SIGKILL else newest == logged(killed)  # no step is lost
    process = start(intact, killed, *streamed[:1])
    out, said = finish(process)
    assert process.returncode == 0
    assert "streamed to the device" in out
    assert silent(said)
    assert weights(killed) == weights(whole)
    assert metrics(killed) == metrics(whole)


def start_hosts(folder: pathlib.Path, workdir: pathlib.Path, before=forked.undrawn) -> list[Forked]:
    """Two hosts of one device each, on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        flags = f"--coordinator=localhost:{free.getsockname()[1]}", "--hosts=2"
    return [start(folder, workdir, *flags, f"--host={host}", devices=1, before=before) for host in range(2)]


def test_two_hosts_killed_half_way_train_to_the_same_end_as_one(intact, whole, tmp_path):
    """Against one process with as many devices. Only the first host writes and speaks."""
    workdir = tmp_path / "two"
    hosts = start_hosts(intact, workdir, functools.partial(forked.stand_still, 13, tmp_path))
    until((tmp_path / "reached").exists)
    for host in hosts:
        host.kill()
    for host in hosts:
        finish(host)
    assert [host.returncode for host in hosts] == [-9, -9]
    assert checkpoints.steps(workdir / "checkpoints")[0] == 10
    hosts = start_hosts(intact, workdir)
    (out, _), others = (finish(host) for host in hosts)
    assert [host.returncode for host in hosts] == [0, 0]
    assert "lgjax" in out
    assert "30 training slices" in out
    assert "trained: " in out
    assert not [line for said in others for line in said.splitlines() if not line.startswith("[Gloo]")]
    assert weights(workdir) == weights(whole)
    assert metrics(workdir) == metrics(whole)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (workdir, workdir / "samples")]
    assert names == [sorted(path.name for path in folder.iterdir()) for folder in (whole, whole / "samples")]
    assert len(list((workdir / "tensorboard").iterdir())) == 2  # of one host, started twice


def test_hosts_with_different_work_are_refused(ours, folder, mesh1, tmp_path, monkeypatch):
    """As where the work directory of one of them is not that of the others."""
    seen = []
    monkeypatch.setattr(runtime_hosts, "differing", lambda digests: seen.append(digests) or ["data", "checkpoint"])
    with pytest.raises(UsageError, match=r"hosts differ in their data and checkpoint\..*same command"):
        train.train(ours, tmp_path / "w", mesh1)
    assert not (tmp_path / "w").exists()
    ours.train.steps += 1
    index = dataset.read_index(folder)
    dataset.write_index(folder, index._replace(subjects=index.subjects[::-1]))
    with pytest.raises(UsageError):
        train.train(ours, tmp_path / "w", mesh1)
    first, second = seen
    assert {name for name in first if first[name] != second[name]} == {"config", "data"}
