"""On a GPU that has TensorFloat-32, commands whose networks compute in float32 say once what is faster."""

import types

import jax
import pytest
from absl import flags
from conftest import shrunk

from lgjax import bench, bids, calibrate, restore, train
from lgjax.batch import restorations
from lgjax.calibration import procedure
from lgjax.cli import app, bids_app, opening, parse
from lgjax.runtime import devices
from lgjax.scans import validator
from lgjax.speed import contestants
from lgjax.workdir.recorded import RELEASED

WORK = {  # of each command: what comes after its first lines
    "train": (train, "train"),
    "calibrate": (procedure, "from_config"),
    "restore": (restore, "restore"),
    "bids": (restorations, "checked_place"),
    "bench": (contestants, "entrants"),
}
MAIN = {door.__name__.removeprefix("lgjax."): door.main for door in (train, calibrate, restore, bids, bench)}
BOTH = "--config.train.precision=tensorfloat32 --config.restore.precision=tensorfloat32"
ALIKE = "; calibrate and restore with the same value"


class Begun(Exception):
    """A command has come to its work."""


def begun(*_):
    raise Begun


@pytest.fixture
def said(monkeypatch, tmp_path, capsys, trained_into):
    """Runs a command to its work, in this process; returns the lines about precision."""
    workdir = tmp_path / "w"
    trained_into(shrunk("vae"), workdir)
    (tmp_path / "raw" / "sub-1" / "anat").mkdir(parents=True)
    (tmp_path / "raw" / "sub-1" / "anat" / "sub-1_T2w.nii.gz").touch()
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    told = {
        "train": ["--config=vae:smoke", f"--workdir={tmp_path / 'new'}"],
        "calibrate": [f"--workdir={workdir}"],
        "restore": [f"--workdir={workdir}", "--input=phantom:test:1", f"--output={tmp_path / 'out'}"],
        "bids": [str(tmp_path / "raw"), str(tmp_path / "out"), "participant", f"--workdir={workdir}"],
        "bench": ["--config=bench:smoke"],
    }
    monkeypatch.setattr(app, "start", lambda threads=None: devices.mesh(jax.devices()[:1]))
    monkeypatch.setattr(validator, "executable", lambda: None)

    def run(command: str, *words: str) -> list[str]:
        values, given = flags.FlagValues(), [*told[command], *words]
        with monkeypatch.context() as patch:
            patch.setattr(flags, "FLAGS", values)
            patch.setattr(*WORK[command], begun)
            as_app = command == "bids"
            parsed = bids_app.parse_arguments(given, values) if as_app else parse.parse(command, ["", *given], values)
            with pytest.raises(Begun):
                MAIN[command](parsed)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("precision:")]

    return run


@pytest.mark.parametrize(
    ("command", "words", "asked"),
    [
        ("train", [], BOTH),
        ("train", BOTH.split()[:1], BOTH.split()[1]),
        ("train", BOTH.split(), None),
        ("calibrate", [], BOTH.split()[1]),
        ("calibrate", ["--method=intensity"], None),
        ("restore", [], BOTH.split()[1]),
        ("restore", ["--method=mirror_tv3d"], None),
        ("restore", ["--config.restore.precision=bfloat16"], None),
        ("bids", [], BOTH.split()[1]),
        ("bids", ["--method=intensity"], None),
        ("bench", [], None),
        ("bench", ["--config.precision=float32"], "--config.precision=tensorfloat32"),
    ],
)
def test_a_command_says_what_is_faster_on_this_gpu(said, monkeypatch, command, words, asked):
    """Unless that is chosen, and of networks alone."""
    monkeypatch.setattr(devices, "rounds_products", lambda _: True)
    first = f"precision: float32, the paper's. This GPU is faster with {asked}: {opening.PUBLISHED}"
    assert said(command, *words) == ([first + ALIKE * (command != "bench")] if asked else [])


@pytest.mark.parametrize("command", ["calibrate", "restore", "bids"])
def test_the_precision_that_training_recorded_is_that_of_calibration_and_restoration(
    said, monkeypatch, tmp_path, trained_into, command
):
    monkeypatch.setattr(devices, "rounds_products", lambda _: True)
    config = shrunk("vae")
    config.restore.precision = "tensorfloat32"
    trained_into(config, tmp_path / "w")
    assert said(command) == []


@pytest.mark.parametrize("command", WORK)
def test_nothing_is_faster_on_a_cpu(said, command):
    assert said(command, *["--config.precision=float32"] * (command == "bench")) == []


def test_thresholds_of_a_released_model_are_of_its_precision(monkeypatch, mesh1):
    monkeypatch.setattr(devices, "rounds_products", lambda _: True)
    assert opening.restoring(mesh1, shrunk("vae"), RELEASED, ["restorer_reconstruction"]) == []


@pytest.mark.parametrize(
    ("capability", "has"),
    [("8.0", True), ("9.0", True), ("10.0", True), ("7.5", False), ("7.0", False), ("gfx90a", False)],
)
def test_gpus_from_ampere_on_have_tensor_float_32(capability, has):
    device = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    assert devices.rounds_products(device) is has
    assert not devices.rounds_products(jax.devices()[0])
