"""The commands on a preset without a model: calibrated and restored without any training."""

import json

import pytest
import server
from test_end_to_end import lgjax, oblique_scan, ok, typed

from lgjax.workdir.recorded import SHIPPED

TINY = ["--config.data.calibration_subjects=2", "--config.data.height=32", "--config.data.width=32"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A work directory that `calibrate` made, and what it said."""
    folder = tmp_path_factory.mktemp("detection") / "w"
    spacing = "--config.data.spacing=6.0"
    said = ok(
        typed("calibrate", "--config=detection:smoke", f"--workdir={folder}", *TINY, spacing, "--method=intensity")
    )
    return folder, said.stdout


def test_calibration_makes_its_work_directory(calibrated):
    folder, said = calibrated
    assert f"no model: {folder}" in said.splitlines()[0]
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["calibration/intensity.json", "config.json", "preprocessing.json"]
    found = json.loads((folder / "calibration" / "intensity.json").read_text())
    assert found["TrainedOn"] == "nothing"
    assert max(found["Thresholds"]["signed"].values()) <= 1.5  # saturated


def test_it_restores_and_says_how_scans_were_prepared(calibrated, tmp_path):
    folder, _ = calibrated
    said = ok(
        lgjax("restore", f"--workdir={folder}", "--method=intensity", "--input=phantom:test:1", f"--output={tmp_path}")
    )
    assert said.stdout.splitlines()[0].endswith(f"no model: {folder}, thresholds from 2 healthy scans of phantom")
    sidecar = next(tmp_path.rglob("*desc-anomaly_T2w.json"))
    about = json.loads(sidecar.read_text())
    assert "saturated at -2 and 1.5 standard deviations" in about["Preparation"]
    assert about["TrainedOn"] == "nothing"


def test_nothing_can_be_trained(tmp_path):
    result = lgjax("train", "--config=detection", f"--workdir={tmp_path / 'w'}")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--config=detection is no config for training" in result.stderr
    assert "needs none, only thresholds: python -m lgjax.calibrate --config=detection --workdir=W\n" in result.stderr


def test_a_method_of_a_model_is_refused_before_anything_is_written(tmp_path):
    result = lgjax("calibrate", "--config=detection", f"--workdir={tmp_path / 'w'}", "--method=vae_lg_neural_tv")
    assert result.returncode == 2
    assert "needs the model vae" in result.stderr
    assert not (tmp_path / "w").exists()


def test_a_fresh_clone_restores_by_the_mirror_image(tmp_path):
    """Nothing is in runs/, and nothing is written beside the package's own files."""
    scan, before = oblique_scan(tmp_path), {path: path.read_bytes() for path in SHIPPED.rglob("*") if path.is_file()}
    said = ok(server.run("restore", "--method=mirror_tv3d", f"--input={scan}", folder=tmp_path, optimised=True))
    first = said.stdout.splitlines()[0]
    assert first.endswith("no model; thresholds from 16 synthetic healthy brains, shipped")
    about = json.loads(next((tmp_path / "runs" / "detection" / "restored").rglob("*desc-anomaly_T2w.json")).read_text())
    assert (about["Method"], about["TrainedOn"], about["Score"]) == ("mirror_tv3d", "nothing", "positive")
    assert {path: path.read_bytes() for path in SHIPPED.rglob("*") if path.is_file()} == before
    refused = lgjax("calibrate", "--method=mirror_tv3d", cwd=tmp_path)
    assert (refused.returncode, "nothing is trained" in refused.stderr) == (2, True)
