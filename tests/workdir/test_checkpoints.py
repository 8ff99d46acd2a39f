"""Checkpoints: bit-exact round trips, and damage of every kind is found before a weight is believed."""

import errno
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from lgjax import models
from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError
from lgjax.training import settings
from lgjax.training import step as training
from lgjax.workdir import checkpoints


def state(step: int):
    """A small tree of arrays whose values depend on the step."""
    rng = np.random.default_rng(step)
    return {
        "params": {"kernel": rng.normal(size=(3, 5, 4)).astype(np.float32), "bias": np.full(4, np.nan, np.float32)},
        "step": np.asarray(step, np.int32),
    }


def like():
    return jax.tree.map(np.zeros_like, state(0))


def initial_state(config):
    """A training state of zeros: its arrays without the seconds that drawing them takes."""
    shapes = training.state_shapes(models.from_config(config, config.train.precision), settings.from_config(config))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2: copy it before doing harm."""
    folder = tmp_path_factory.mktemp("checkpoints") / "two"
    checkpoints.save(folder, 1, state(1))
    checkpoints.save(folder, 2, state(2))
    return folder


@pytest.fixture
def folder(two, tmp_path):
    return pathlib.Path(shutil.copytree(two, tmp_path / "checkpoints"))


def flip(path: pathlib.Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


def assert_falls_back(folder, caplog):
    restored, step = checkpoints.restore_newest(folder, like())
    assert step == 1
    assert_same_bits(restored, state(1))
    out = caplog.text
    caplog.clear()
    assert "warning" in out
    assert str(folder / "2") in out


def test_round_trip(folder):
    restored, step = checkpoints.restore_newest(folder, like())
    assert step == 2
    assert_same_bits(restored, state(2))


def test_round_trip_of_a_training_state(config, tmp_path):
    initial = initial_state(config)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: np.asarray(x) + rng.integers(1, 9, x.shape).astype(x.dtype), initial)
    checkpoints.save(tmp_path, 5, noisy)
    restored, step = checkpoints.restore_newest(tmp_path, initial)
    assert step == 5
    assert_same_bits(restored, noisy)


def test_nothing_there(tmp_path):
    assert checkpoints.restore_newest(tmp_path / "none", like()) is None
    assert checkpoints.restore_newest(tmp_path, like()) is None
    assert checkpoints.steps(tmp_path / "none") == []


def test_the_newest_two_by_number_and_the_best_are_kept(tmp_path):
    """Losses of 7 to 12; the best is the first of equals, and a loss that is not finite is none."""
    kept = []
    for step, loss in enumerate((None, 3.0, math.nan, 2.0, 2.0, -math.inf), 7):
        checkpoints.save(tmp_path, step, state(step), loss)
        kept.append((checkpoints.best(tmp_path), checkpoints.steps(tmp_path)))
    assert kept == [(None, [7]), (8, [8, 7]), (8, [9, 8]), (10, [10, 9]), (10, [11, 10]), (10, [12, 11, 10])]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "11", "12"]
    found = [checkpoints.validation(tmp_path, step) for step in (10, 11, 12)]
    assert found == [(2.0, 2), (2.0, 3), (None, 3)]
    words = [checkpoints.describe(tmp_path, step) for step in (10, 11, 12)]
    assert words == ["best of 3 checkpoints on held-out slices", "an earlier checkpoint", "the newest checkpoint"]
    checkpoints.save(tmp_path, 11, state(0), 1.0)  # trained again from 10 on
    assert checkpoints.validation(tmp_path, 11) == (1.0, 3)


def test_the_best_is_restored_or_the_newest_where_it_is_damaged(tmp_path, caplog):
    assert checkpoints.restore_best(tmp_path, like()) is None
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        checkpoints.save(tmp_path, step, state(step), loss)
    restored, step = checkpoints.restore_best(tmp_path, like())
    assert step == 1
    assert_same_bits(restored, state(1))
    assert checkpoints.restore_newest(tmp_path, like())[1] == 3
    manifest = tmp_path / "3" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("3.0", "0.5"))
    assert checkpoints.best(tmp_path) == 1  # a manifest that was changed is not believed
    manifest.write_text(text)
    flip(next(p for p in (tmp_path / "1" / "state").rglob("*") if p.is_file() and p.stat().st_size), 7)
    assert checkpoints.restore_best(tmp_path, like())[1] == 3
    assert str(tmp_path / "1") in caplog.text


def test_a_step_saved_again_replaces_the_old_one(tmp_path):
    checkpoints.save(tmp_path, 3, state(1))
    checkpoints.save(tmp_path, 3, state(2))
    restored, step = checkpoints.restore_newest(tmp_path, like())
    assert step == 3
    assert_same_bits(restored, state(2))


def test_digest_tells_weights_apart(folder, tmp_path):
    assert checkpoints.weights_digest(folder, 1) != checkpoints.weights_digest(folder, 2)
    checkpoints.save(tmp_path / "again", 2, state(2))
    assert checkpoints.weights_digest(folder, 2) == files.sha256(folder / "2" / "manifest.json")


def test_every_bit_flip_in_the_arrays_is_found(folder, caplog):
    rng = np.random.default_rng(1)
    newest = folder / "2" / "state"
    found = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    for k in range(40):
        path = found[k % len(found)]
        bit = int(rng.integers(8 * path.stat().st_size))
        flip(path, bit)
        assert_falls_back(folder, caplog)
        flip(path, bit)
    assert checkpoints.restore_newest(folder, like())[1] == 2


def test_every_bit_flip_in_the_manifest_is_found(folder, caplog):
    """A flipped digit in the format or in a shape is damage, not a newer format or another architecture."""
    path = folder / "2" / "manifest.json"
    text = path.read_text()
    rng = np.random.default_rng(2)
    values = [text.index(f'"{key}": ') + len(f'"{key}": ') for key in ("format", "step")]
    shape = text.index("3", text.index('"arrays"'))
    bits = [8 * position for position in (*values, shape)] + list(rng.integers(8 * len(text), size=40))
    wrong = []
    for bit in map(int, bits):
        flip(path, bit)
        try:
            assert_falls_back(folder, caplog)
        except (AssertionError, UsageError) as error:
            wrong.append((bit, text[max(0, bit // 8 - 12) : bit // 8 + 4], type(error).__name__))
        flip(path, bit)
    assert not wrong


@pytest.mark.parametrize("harm", ["empty folder", "no manifest", "empty manifest", "half a manifest", "no state"])
def test_partial_checkpoints_are_passed_over(folder, caplog, harm):
    newest = folder / "2"
    manifest = newest / "manifest.json"
    if harm == "empty folder":
        shutil.rmtree(newest)
        newest.mkdir()
    elif harm == "no manifest":
        manifest.unlink()
    elif harm == "no state":
        shutil.rmtree(newest / "state")
    else:
        text = manifest.read_text()
        manifest.write_text("" if harm == "empty manifest" else text[: len(text) // 2])
    assert_falls_back(folder, caplog)


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"format": 1}', '{"format": 1, "sha256": [], "arrays": {}}'])
def test_a_manifest_of_another_kind_is_passed_over(folder, caplog, text):
    (folder / "2" / "manifest.json").write_text(text)
    assert_falls_back(folder, caplog)


def test_missing_truncated_and_additional_files_are_found(folder, caplog):
    newest = folder / "2" / "state"
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    assert_falls_back(folder, caplog)
    path.unlink()
    assert_falls_back(folder, caplog)
    path.write_bytes(raw)
    (newest / "more").write_bytes(b"x")
    assert_falls_back(folder, caplog)
    (newest / "more").unlink()
    assert checkpoints.restore_newest(folder, like())[1] == 2


def test_all_damaged_is_an_input_error(folder, caplog):
    for step in ("1", "2"):
        (folder / step / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="no valid checkpoint"):
        checkpoints.restore_newest(folder, like())
    assert caplog.text.count("warning: ") == 2


@pytest.mark.parametrize("change", ["shape", "dtype", "name", "more"])
def test_another_architecture_is_refused(folder, change):
    wanted = like()
    if change == "shape":
        wanted["params"]["kernel"] = np.zeros((3, 5, 5), np.float32)
    elif change == "dtype":
        wanted["params"]["kernel"] = np.zeros((3, 5, 4), np.float16)
    elif change == "name":
        wanted["params"]["weight"] = wanted["params"].pop("kernel")
    else:
        wanted["params"]["scale"] = np.zeros(4, np.float32)
    with pytest.raises(UsageError, match="another architecture"):
        checkpoints.restore_newest(folder, wanted)


def test_another_config_is_refused(config, tmp_path):
    checkpoints.save(tmp_path, 1, initial_state(config))
    config.model.channels = (4, 16)
    with pytest.raises(UsageError, match="another architecture"):
        checkpoints.restore_newest(tmp_path, initial_state(config))


def test_a_newer_format_is_refused(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    checkpoints.save(tmp_path / "newer", 7, state(7))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="format"):
        checkpoints.restore_newest(tmp_path / "newer", like())


def test_a_checkpoint_without_the_range_of_log_variances_says_to_train_again(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "FORMAT", 1)
    checkpoints.save(tmp_path, 7, state(7))
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"did not keep the range of the log variances\. Train again"):
        checkpoints.restore_newest(tmp_path, like())


def test_a_stray_temporary_folder_is_ignored(folder):
    shutil.copytree(folder / "2", folder / ".3.tmp")
    (folder / ".3.tmp" / "manifest.json").unlink()
    (folder / "notes.txt").write_text("not a checkpoint")
    assert checkpoints.restore_newest(folder, like())[1] == 2
    checkpoints.save(folder, 3, state(3))
    restored, step = checkpoints.restore_newest(folder, like())
    assert step == 3
    assert_same_bits(restored, state(3))
    assert not (folder / ".3.tmp").exists()


def test_a_full_disk_leaves_the_old_checkpoints(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "atomic_write", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        checkpoints.save(folder, 3, state(3))
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]
    assert checkpoints.restore_newest(folder, like())[1] == 2


CHILD = """
import pathlib, sys
import test_checkpoints as t
for step in range(1, 10_000):
    t.checkpoints.save(pathlib.Path(sys.argv[1]), step, t.state(step), step)
    print(step, flush=True)
"""


def test_killed_while_saving(tmp_path, caplog):
    """SIGKILL at any moment: what is found afterwards is whole, and at most one step behind what was reported.

    The first step is the best, and stays so."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "checkpoints")]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        reported = [int(child.stdout.readline()) for _ in range(2)]
        time.sleep(0.07)
        child.send_signal(signal.SIGKILL)
        reported += [int(line) for line in child.stdout]
    restored, step = checkpoints.restore_newest(tmp_path / "checkpoints", like())
    assert step >= reported[-1]
    assert_same_bits(restored, state(step))
    assert checkpoints.restore_best(tmp_path / "checkpoints", like())[1] == 1
    assert "warning" not in caplog.text
    assert json.loads((tmp_path / "checkpoints" / str(step) / "manifest.json").read_text())["step"] == step


CONFINED = """
import pathlib, resource, sys
import numpy as np
import test_checkpoints as t
folder = pathlib.Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    t.checkpoints.save(folder, 3, {"a": np.random.default_rng(0).normal(size=100_000)})
except t.EnvironmentFault:
    print("EnvironmentFault")
"""


def test_a_disk_that_refuses_the_arrays(folder):
    """Orbax reports a failed write as ValueError: still a fault of the environment, still nothing left behind."""
    command = [sys.executable, "-c", CONFINED, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]
    assert result.stdout.strip() == "EnvironmentFault", result.stderr[-500:]
