"""Experiments without a model: a work directory that no training makes, and what is calibrated there."""

import os
import pathlib
import re
import shutil

import images
import numpy as np
import pytest
from absl import flags
from conftest import ROOT

import lgjax
from configs import detection
from lgjax import detector
from lgjax.cli import commands, configs, recorded
from lgjax.methods import names
from lgjax.preparation import cohort, dataset, recipe
from lgjax.preparation.splits import splits_of
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.finding import listing
from lgjax.workdir import calibrations, experiment, preparation, weights
from lgjax.workdir.recorded import RELEASED, SHIPPED


@pytest.fixture
def config():
    return detection.get_config("smoke")


def test_the_preset_fits_its_method(config):
    for variant in detection.VARIANTS:
        found = detection.get_config(variant)
        experiment.check(found)
        assert names.parse(found.restore.method).model == ""
        assert found.data.saturation == (-2.0, 1.5)
        assert found.restore.score == "positive"


def test_a_work_directory_is_begun_once_and_records_how_scans_are_prepared(config, tmp_path):
    experiment.check_used(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()  # a check writes nothing
    preparation.begin(config, tmp_path / "w")
    assert recipe.read(tmp_path / "w" / dataset.RECIPE) == recipe.bare(recipe.Grid(64, 64, 3.0), (-2.0, 1.5))
    again = experiment.get_config(str(tmp_path / "w" / "config.json"))
    assert experiment.as_json(again) == experiment.as_json(config)
    experiment.check_used(again, tmp_path / "w")
    again.data.saturation = ()
    with pytest.raises(UsageError, match=r"w was made with other values of data\.saturation"):
        experiment.check_used(again, tmp_path / "w")
    before = (tmp_path / "w" / "config.json").stat().st_mtime_ns
    preparation.begin(config, tmp_path / "w")
    assert (tmp_path / "w" / "config.json").stat().st_mtime_ns == before


def test_a_model_needs_a_work_directory_that_a_training_made(experiments, tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        experiment.check_used(experiments.smoke(), tmp_path)
    preparation.begin(experiments.smoke(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_model_has_no_weights_and_one_digest(config, tmp_path):
    with pytest.raises(InputError, match=dataset.RECIPE):
        weights.load(config, tmp_path)
    preparation.begin(config, tmp_path)
    found, other = (weights.load(config, tmp_path) for _ in range(2))
    assert weights.model(config) is None
    assert (found.params, found.trained_on, found.subjects) == (None, "nothing", frozenset())
    assert found.digest == other.digest
    assert found.recipe.saturation == (-2.0, 1.5)


def test_methods_of_a_model_are_refused_before_anything_is_done(config):
    with pytest.raises(UsageError, match=r"needs the model vae.*lgjax\.train --config=configs/vae\.py"):
        names.check_model(names.parse("vae_lg_neural_tv"), config.model.name)


def test_where_nobody_trains_all_but_the_test_scans_calibrate(config, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        images.save(tmp_path / f"s{number}.nii", images.head() + rng.integers(1, 9), images.affine())
    config.data.source = str(tmp_path)
    config.data.calibration_subjects = 20
    splits = splits_of(sources.find(str(tmp_path)))
    assert set(splits.values()) == {"train", "calibration", "test"}
    found = cohort.healthy(experiment.source(config), "calibration")
    assert {one.identifier for one in found} == {name for name, split in splits.items() if split != "test"}
    told = cohort.calibrating(experiment.source(config)._replace(calibration_subjects=2))
    held_out = [name for name, split in splits.items() if split == "test"]
    assert told.startswith(f"calibration 2: {found[0].identifier}, {found[1].identifier}; left out, the test split: ")
    assert f"{len(held_out)} ({listing.shown(held_out)}); {18 - len(held_out)} not needed" in told
    assert cohort.calibrating(experiment.source(detection.get_config("smoke"))) == ""
    trained = experiment.source(config)._replace(train_subjects=5)
    assert {splits[one.identifier] for one in cohort.healthy(trained, "calibration")} == {"calibration"}


@pytest.fixture
def shipped(tmp_path, monkeypatch, config):
    """A folder in the place of the one that travels with lgjax, with two calibrated methods; nothing is in runs/."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shipped"
    preparation.begin(config, folder)
    (folder / "calibration").mkdir()
    for name in ("mirror_tv3d", "intensity_tv3d"):
        (folder / "calibration" / f"{name}.json").write_text("{}")
    monkeypatch.setattr(recorded, "SHIPPED", folder)
    return folder


def workdir_of(command, *argv):
    """The work directory that a command line means."""
    values = flags.FlagValues()
    commands.COMMANDS[command].define(values)
    argv = ["lgjax", *argv]
    values(configs.define(recorded.recorded_config(argv, values, shipped=command == "restore"), argv, values))
    return values.workdir


def test_what_travels_with_lgjax_restores_by_its_own_methods_alone(shipped, tmp_path):
    for names_of_it in ("mirror_tv3d", "intensity_tv3d,mirror_tv3d"):
        assert workdir_of("restore", f"--method={names_of_it}") == str(shipped)
    for others in (["--method=mirror_tv3d,vae_lg_neural_tv"], ["--method=vae_lg_neural_tv"]):
        with pytest.raises(UsageError, match=r"nothing is trained in runs/.*--model=released needs no training"):
            workdir_of("restore", *others)
    with pytest.raises(UsageError, match="nothing is trained"):  # which would be written into
        workdir_of("calibrate", "--method=mirror_tv3d")


def test_a_newcomer_gets_the_released_model(shipped):
    for given in ([], ["--method=restorer_reconstruction"], ["--method=table1"], ["scan.nii.gz", "--model=released"]):
        assert workdir_of("restore", *given) == str(RELEASED)
    with pytest.raises(UsageError, match="nothing is trained"):
        workdir_of("calibrate")


def test_a_model_in_runs_goes_before_the_released_one(shipped, tmp_path, experiments, trained_into):
    trained_into(experiments.smoke(), tmp_path / "runs" / "mine")
    assert workdir_of("restore") == workdir_of("calibrate") == "runs/mine"
    assert workdir_of("restore", "--model=released") == str(RELEASED)
    assert workdir_of("restore", "--method=mirror_tv3d") == str(shipped)
    for known in ("restorer_reconstruction", "restorer_reconstruction,restorer_reconstruction_tv3d"):
        assert workdir_of("restore", f"--method={known}") == str(RELEASED)
        assert workdir_of("calibrate", f"--method={known}") == "runs/mine"  # which says what it needs
    for others in ("vae_lg_neural_tv", "restorer_reconstruction,vae_lg_neural_tv", "gmm", "table1"):
        assert workdir_of("restore", f"--method={others}") == "runs/mine"


def test_a_method_takes_the_model_in_runs_that_it_is_one_of(shipped, tmp_path, experiments, trained_into):
    for age, model in enumerate(("restorer", "vae", "gmvae")):
        config = experiments.smoke()
        config.model.name = model
        trained_into(config, tmp_path / "runs" / model)
        os.utime(tmp_path / "runs" / model / "config.json", (1000 + age, 1000 + age))
    for method in ("restorer_reconstruction", "vae_lg_neural_tv", "gmvae_elbo_tv"):
        for command in ("restore", "calibrate"):
            assert workdir_of(command, f"--method={method}") == f"runs/{method.partition('_')[0]}"
    assert workdir_of("restore", "--method=dae_lg_neural_tv") == workdir_of("restore") == "runs/gmvae"


@pytest.mark.parametrize("left", [(), (".4.tmp/manifest.json",), ("4/state/array",), ("best/manifest.json",)])
def test_a_training_without_a_whole_checkpoint_is_no_model(shipped, tmp_path, experiments, left):
    experiment.record(experiments.smoke(), tmp_path / "runs" / "x")
    for name in left:
        (tmp_path / "runs" / "x" / "checkpoints" / name).parent.mkdir(parents=True)
        (tmp_path / "runs" / "x" / "checkpoints" / name).touch()
    assert workdir_of("restore") == str(RELEASED)
    with pytest.raises(UsageError, match="nothing is trained"):
        workdir_of("calibrate")
    with pytest.raises(UsageError, match="nothing is trained"):
        workdir_of("restore", "--method=vae_lg_neural_tv")


def test_a_work_directory_without_networks_needs_no_checkpoint(config, shipped, tmp_path):
    preparation.begin(config, tmp_path / "runs" / "own")
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "config.json").write_text('{"model": 3}')
    assert workdir_of("restore") == workdir_of("calibrate", "--method=gmm") == "runs/own"


def test_python_takes_what_a_command_takes_in_a_fresh_folder(tmp_path, monkeypatch):
    """The same of all that travels, by every method of each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "get_config", pathlib.Path)  # which goes no further
    monkeypatch.setattr(detector, "from_config", lambda _config, folder, *_: str(folder))
    for folder in (SHIPPED, RELEASED):
        for name in recorded.calibrated(folder):
            assert lgjax.load(method=name) == workdir_of("restore", f"--method={name}") == str(folder)


def test_a_released_model_is_named_by_its_folder(shipped, tmp_path):
    shutil.copytree(RELEASED, tmp_path / "runs" / "m")
    assert workdir_of("restore", "--model=runs/m") == workdir_of("restore", "--workdir=runs/m") == "runs/m"
    assert workdir_of("export", "--model=runs/m") == "runs/m"
    assert workdir_of("restore") == str(RELEASED)  # what lies in runs/ is no training
    with pytest.raises(UsageError, match="--model=shipped is no released model"):
        workdir_of("restore", "--model=shipped")
    with pytest.raises(UsageError, match="--model and --workdir are both given"):
        workdir_of("restore", "--model=runs/m", "--workdir=runs/m")
    with pytest.raises(UsageError, match=r"released model m has no thresholds for gmm\. Choose among restorer_"):
        workdir_of("restore", "--model=runs/m", "--method=gmm")


def test_a_damaged_model_is_found_on_the_command_line(shipped, tmp_path):
    shutil.copytree(RELEASED, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"m/model\.safetensors: is not there"):
        workdir_of("restore", "--model=m")


def test_a_method_without_a_network_is_told_how_it_comes_by_thresholds(shipped):
    made = re.escape("python -m lgjax.calibrate --config=detection --workdir=runs/detection --method=")
    for command, asked in (("restore", "intensity"), ("restore", "gmm,mirror_tv3d"), ("calibrate", "mirror_tv3d")):
        with pytest.raises(UsageError, match=f"{asked} needs thresholds alone. Run {made}{asked},"):
            workdir_of(command, f"--method={asked}")


def test_a_wrong_method_is_told_before_a_work_directory_is_looked_for(shipped):
    for wrong in ("vae_elbo_mirror_tv3d", "mirror_tv", "intensity_mirror_tv3d", "restorer_mirror", "../x"):
        with pytest.raises(UsageError, match=f"^there is no method '{re.escape(wrong)}'"):
            workdir_of("restore", f"--method=mirror_tv3d,{wrong}")


def test_other_values_of_data_than_those_of_what_travels_with_lgjax():
    config = experiment.get_config(str(SHIPPED / "config.json"))
    config.data.saturation = ()
    with pytest.raises(UsageError) as caught:
        experiment.check_used(config, SHIPPED)
    assert "Use another --workdir" not in str(caught.value)
    assert str(caught.value).endswith(
        "python -m lgjax.calibrate --config=detection --workdir=W --config.data.saturation='()'"
    )


def test_a_work_directory_that_is_named_is_taken(shipped, tmp_path, config):
    preparation.begin(config, tmp_path / "mine")
    assert workdir_of("restore", "--method=mirror_tv3d", "--workdir=mine") == "mine"
    with pytest.raises(UsageError, match="does not exist"):
        workdir_of("restore", "--method=mirror_tv3d", "--workdir=other")
    assert workdir_of("calibrate", "--config=detection", "--workdir=other") == "other"  # made when all is checked
    assert workdir_of("restore", "--config=detection") == "runs/detection"


def test_what_travels_with_lgjax_is_the_preset_and_calibrated_for_it():
    """Else: make it anew, see lgjax/shipped/README.md."""
    config, preset = experiment.get_config(str(SHIPPED / "config.json")), detection.get_config()
    trained = weights.load(config, SHIPPED)
    assert trained.recipe == preparation.find(preset)[0]
    rates = names.rate_names(preset.restore.false_positive_rates)
    for method in ("intensity_tv3d", "mirror_tv3d"):
        found = calibrations.load(preset, SHIPPED, method, trained.digest, trained.recipe.digest)
        assert len(set(found.subjects)) == preset.data.calibration_subjects
        values = [found.thresholds[config.restore.score][rate] for rate in rates]
        assert sorted(values, reverse=True) == values
        assert 0 < values[-1] < values[0] < 3.5  # between the ends of saturation
    assert config.restore.method == preset.restore.method == "mirror_tv3d"
    assert config.data.source == preset.data.source


def test_what_travels_with_lgjax_is_in_the_package():
    patterns = re.findall(r'"(shipped/[^"]+)"', (ROOT / "setup.py").read_text())
    files = [path for path in SHIPPED.parent.glob("*/**/*") if path.is_file()]
    packed = {path for pattern in patterns for path in (ROOT / "lgjax").glob(pattern)}
    assert len(files) >= 4 + 10
    assert set(files) <= packed
    assert sum(path.stat().st_size for path in files) < 8e6


def test_python_loads_it_without_a_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = lgjax.load(method="mirror_tv3d", device="cpu")
    assert (found.about["TrainedOn"], found.about["Score"]) == ("nothing", "positive")
    trained = lgjax.load(device="cpu")
    assert trained.method.name == "restorer_reconstruction_mirror_tv3d"
    assert repr(trained).startswith("Detector(restorer_reconstruction_mirror_tv3d, released, trained on 240 healthy")
    with pytest.raises(UsageError, match="vae_lg_neural_tv needs the model vae"):
        lgjax.load(method="vae_lg_neural_tv", device="cpu")
    with pytest.raises(InputError) as caught:
        lgjax.load(method="gmm", device="cpu")
    assert "python -m lgjax.calibrate --config=detection --workdir=runs/detection --method=gmm," in str(caught.value)
    assert str(SHIPPED) not in str(caught.value)
