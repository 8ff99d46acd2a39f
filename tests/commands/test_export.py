"""Export of a work directory, in this process: what is copied, what is calibrated anew, and what is refused."""

import json

import images
import numpy as np
import pytest
from absl import flags
from conftest import both, random_variables, shrunk
from safetensors.numpy import load_file

import lgjax
from lgjax import calibrate, export, restore
from lgjax.calibration import procedure
from lgjax.cli import parse
from lgjax.methods import names
from lgjax.preparation import cohort, recipe
from lgjax.report import card
from lgjax.runtime.errors import UsageError
from lgjax.training import step as training
from lgjax.workdir import calibrations, checkpoints, experiment, sums, weights
from lgjax.workdir.recorded import RELEASED

METHOD = "restorer_reconstruction"


def scans(folder, seed, contrast):
    rng = np.random.default_rng(seed)
    for number in range(12):
        data = images.head((20, 24, 10), seed=number)
        noise = rng.gamma(2.0, contrast, data.shape)
        images.save(folder / f"s{number}.nii", np.where(data > 0, data + noise + 40, 0).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, mesh1):
    """A config and its work directory: random weights, calibrated on a folder of healthy scans."""
    folder = tmp_path_factory.mktemp("export")
    config = shrunk("restorer")
    config.data.source, config.data.spacing = str(scans(folder / "healthy", 0, 5.0)), 2.0
    workdir = folder / "w"
    experiment.record(config, workdir)
    recipe.write(workdir / "preprocessing.json", recipe.bare(experiment.grid(config), experiment.saturation(config)))
    state = training.initial_state(*both(config))._replace(variables=random_variables(config))
    checkpoints.save(workdir / "checkpoints", 3, state)
    about = {"TrainedOn": "5 healthy subjects", "Subjects": ["a" * 64]}
    (workdir / "training.json").write_text(json.dumps(about))
    procedure.from_config(config, workdir, mesh1)(names.parse(METHOD))
    return config, workdir


def released(made, mesh, output, dtype="float32", workdir=None, source=None, notes=None):
    config, own = made
    workdir = workdir or own
    export.export(config, workdir, output, dtype, [METHOD], export.calibration_of(config, workdir, mesh, source), notes)
    sums.verify(output)
    return output


def test_equal_weights_keep_their_calibration(made, mesh1, tmp_path):
    config, workdir = made
    model = released(made, mesh1, tmp_path / "m")
    before, after = (calibrations.read(folder, METHOD) for folder in (workdir, model))
    assert after == before._replace(weights_digest=weights.load(config, model).digest)
    assert not [path for path in tmp_path.iterdir() if path.name != "m"]


def test_rounded_weights_are_calibrated_with_themselves(made, mesh1, tmp_path):
    """The record is what calibration of the exported weights gives, and no copy."""
    config, workdir = made
    model = released(made, mesh1, tmp_path / "m", "float16")
    found, trained = calibrations.read(model, METHOD), weights.load(config, model)
    assert found.weights_digest == trained.digest
    assert found.thresholds != calibrations.read(workdir, METHOD).thresholds
    again = procedure.from_config(config, model, mesh1)(names.parse(METHOD))  # into the copy of this test
    assert again.thresholds == found.thresholds
    assert {array.dtype for array in load_file(model / "model.safetensors").values()} == {np.dtype(np.float16)}


def test_other_healthy_scans_give_other_thresholds(made, mesh1, tmp_path):
    """From a released model, whose own scans do not travel: all of the new ones but the test split."""
    model = released(made, mesh1, tmp_path / "m")
    config = experiment.get_config(str(model / "config.json"))
    assert config.data.source == "SCANS"
    with pytest.raises(UsageError, match=r"healthy scans of .*m do not travel with it\. Name healthy scans: --config"):
        released((config, model), mesh1, tmp_path / "n", "float16")
    assert not (tmp_path / "n").exists()
    config.data.source = str(scans(tmp_path / "mine", 1, 30.0))
    source = export.other_source(config, model)
    export.check(config, model, tmp_path / "n", source)
    released((config, model), mesh1, tmp_path / "n", source=source)
    found, before = (calibrations.read(folder, METHOD) for folder in (tmp_path / "n", model))
    assert found.thresholds != before.thresholds
    assert len(found.subjects) == min(config.data.calibration_subjects, len(cohort.healthy(source, "calibration")))
    assert found.weights_digest == before.weights_digest
    assert experiment.get_config(str(tmp_path / "n" / "config.json")).data.source == "SCANS"


def test_what_is_refused_before_anything_is_written(made, mesh1, tmp_path):
    config, workdir = made
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="there is there already"):
        export.check(config, workdir, tmp_path / "there", None)
    other = config.copy_and_resolve_references()
    other.data.saturation = ()
    with pytest.raises(UsageError, match=r"other values of data\.saturation"):
        export.check(other, workdir, tmp_path / "m", None)


def test_an_export_that_fails_leaves_nothing(made, mesh1, tmp_path):
    config, workdir = made

    def fails(*_):
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        export.export(config, workdir, tmp_path / "m", "float32", [METHOD], fails, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("false_positive_volumes", (2.0,), "false_positive_volumes=2: was not calibrated"),
        ("false_positive_rates", (0.01, 0.2), "no threshold for the false positive rate 0.2"),
        ("score", "signed", "no thresholds for the score signed"),
    ],
)
def test_a_model_that_could_not_be_loaded_is_not_written(made, mesh1, tmp_path, name, value, told):
    config = made[0].copy_and_resolve_references()
    config.restore[name] = value
    with pytest.raises(UsageError, match=told) as caught:
        released((config, made[1]), mesh1, tmp_path / "m")
    assert ".tmp" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_no_fault_of_the_disk(made, mesh1, tmp_path, monkeypatch):
    def unreadable(*_):
        raise FileNotFoundError(2, "No such file or directory", "scan.nii")

    with pytest.raises(FileNotFoundError, match=r"scan\.nii"):
        export.export(*made, tmp_path / "m", "float32", [METHOD], unreadable, None)
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_is_in_the_folder(made, mesh1, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "notes.md").write_text("## Known failures\n\n![missed](missed.png) a < b\n")
    (notes / "missed.png").write_bytes(b"\x89PNG")
    model = released(made, mesh1, tmp_path / "m", notes=notes)
    about = (model / card.NAME).read_text()
    for said in ("Research use only", "5 healthy subjects", "a < b", "restorer_reconstruction", "SHA-256"):
        assert said in about
    listed = sums.read(model)
    for name in ("model.safetensors", "missed.png", f"calibration/{METHOD}.json"):
        assert f"| `{name}` | `{listed[name]}` |" in about
    assert "Thresholds were measured on healthy scans. They promise" in about
    assert "None are stated" not in about
    assert "None are stated" in (released(made, mesh1, tmp_path / "n") / "MODEL_CARD.md").read_text()


def test_the_card_of_the_shipped_model_says_that_synthetic_brains_calibrated_it():
    assert "Thresholds were measured on synthetic healthy brains. They promise" in (RELEASED / card.NAME).read_text()


def test_no_command_writes_into_a_released_model(made, mesh1, tmp_path, monkeypatch):
    model = released(made, mesh1, tmp_path / "m")
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    monkeypatch.setattr(flags, "FLAGS", given("calibrate", f"--workdir={model}"))
    with pytest.raises(UsageError, match="is a released model and stays as it is"):
        calibrate.main()
    words = (f"--model={model}", f"--input={tmp_path}", f"--output={model / 'restored'}")
    monkeypatch.setattr(flags, "FLAGS", given("restore", *words))
    with pytest.raises(UsageError, match="lies in a released model"):
        restore.main()
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def given(command, *words):
    values = flags.FlagValues()
    parse.parse(command, [command, *words], values)
    return values


def test_python_loads_it(made, mesh1, tmp_path):
    model = released(made, mesh1, tmp_path / "m")
    found = lgjax.load(model, method=METHOD, device="cpu")
    assert found.about["TrainedOn"].startswith("5 healthy subjects; 3 of 3 steps")
    assert repr(found).startswith(f"Detector({METHOD}, {model}, trained on 5 healthy subjects")
