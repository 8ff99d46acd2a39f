"""The four binaries as a user runs them, on a few tiny phantom subjects and a real-looking NIfTI file."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import server
from conftest import ONE_DEVICE, ROOT, TINY

from lgjax.scans import nifti, phantom


def lgjax(binary: str, *arguments, cwd=ROOT, optimised: bool = False) -> subprocess.CompletedProcess:
    """Runs a binary as from a shell into log files, which no carriage return may reach."""
    result = server.run(binary, *arguments, folder=cwd, optimised=optimised)
    assert "\r" not in result.stdout + result.stderr
    return result


def typed(binary: str, *arguments, cwd=ROOT, optimised: bool = False) -> subprocess.CompletedProcess:
    """Types a binary in a shell, where nothing is imported yet; takes three seconds longer than `lgjax`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ONE_DEVICE}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(not optimised).lower()
    command = [sys.executable, "-m", f"lgjax.{binary}", *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=900)
    assert b"\r" not in result.stdout + result.stderr
    return subprocess.CompletedProcess(command, result.returncode, result.stdout.decode(), result.stderr.decode())


def ok(result: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A tiny model, trained and calibrated."""
    folder = tmp_path_factory.mktemp("run")
    ok(lgjax("train", "--config=configs/vae.py:smoke", f"--workdir={folder}", *TINY))
    ok(lgjax("calibrate", f"--workdir={folder}", "--method=intensity,vae_lg_neural_tv"))
    return folder


def oblique_scan(folder: pathlib.Path) -> pathlib.Path:
    """A phantom patient as a scan with permuted, flipped axes, different qform and sform codes, and units."""
    scan = phantom.make_subject(phantom.load_anatomies(None), 9, 0, "glioma", slices=6, thickness=5.0)
    image = nib.Nifti1Image(scan.image.data.astype(np.int16), scan.image.affine)
    image = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    path = folder / "a scan.nii.gz"
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def restored(workdir, tmp_path_factory):
    """A scan, and the folder of what `restore` wrote about it."""
    folder = tmp_path_factory.mktemp("restored")
    path = oblique_scan(folder)
    ok(lgjax("restore", f"--workdir={workdir}", f"--input={path}", f"--output={folder / 'out'}"))
    return path, folder / "out"


def test_train_writes_what_it_promises(workdir):
    assert json.loads((workdir / "config.json").read_text())["name"] == "vae_smoke"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert list((workdir / "tensorboard").iterdir())
    for picture in (workdir / "samples" / "0000004.png", workdir / "curves.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_training_again_changes_nothing(workdir):
    before = (workdir / "metrics.jsonl").read_text()
    said = ok(lgjax("train", "--config=configs/vae.py:smoke", f"--workdir={workdir}", *TINY)).stdout
    assert "trained already" in said
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_workdir_of_other_networks_is_refused(workdir):
    result = lgjax(
        "train", "--config=configs/vae.py:smoke", f"--workdir={workdir}", *TINY[:-1], "--config.data.height=128"
    )
    assert result.returncode == 2
    assert "data.height" in result.stderr
    assert "Traceback" not in result.stderr


def test_restored_outputs_lie_on_the_scans_own_grid(restored):
    path, out = restored
    source = nib.load(path)
    anat = out / "sub-ascan" / "anat"
    images = sorted(anat.glob("*.nii.gz"))
    assert [p.name.removeprefix("sub-ascan_space-orig_") for p in images] == [
        "desc-anomaly_T2w.nii.gz",
        "desc-brain_mask.nii.gz",
        "desc-pvalue_T2w.nii.gz",
        "desc-restored_T2w.nii.gz",
        "label-lesion_desc-fpr0p1_mask.nii.gz",
        "label-lesion_desc-fpr0p5_mask.nii.gz",
        "label-lesion_desc-fpr1_mask.nii.gz",
        "label-lesion_desc-fpr5_mask.nii.gz",
        "seg-lesions_desc-fpr1_dseg.nii.gz",
    ]
    for p in images:
        image = nib.load(p)
        assert image.shape == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
        for code in ("qform_code", "sform_code", "xyzt_units"):
            assert image.header[code] == source.header[code], (p, code)
        np.testing.assert_allclose(image.get_qform(), source.get_qform(), atol=1e-5)
        expected = np.uint8 if "mask" in p.name else np.int32 if "dseg" in p.name else np.float32
        assert image.get_data_dtype() == expected
        assert np.isfinite(image.get_fdata()).all()
        sidecar = json.loads(p.with_name(p.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Method"] == "vae_lg_neural_tv"
    assert (
        (out / "sub-ascan" / "figures" / "sub-ascan_space-orig_desc-anomaly_T2w.png")
        .read_bytes()
        .startswith(b"\x89PNG")
    )
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_the_anomaly_map_is_the_restorations_difference(restored):
    path, out = restored
    anat = out / "sub-ascan" / "anat"
    image = nib.load(path).get_fdata()
    restoration, anomaly, mask = (
        nib.load(anat / f"sub-ascan_space-orig_{name}.nii.gz").get_fdata()
        for name in ("desc-restored_T2w", "desc-anomaly_T2w", "label-lesion_desc-fpr1_mask")
    )
    brain = image > 0
    expected = np.abs(image - restoration) / image[brain].std()
    np.testing.assert_allclose(anomaly, np.where(brain, expected, 0), atol=1e-3)
    sidecar = json.loads((anat / "sub-ascan_space-orig_desc-anomaly_T2w.json").read_text())
    np.testing.assert_array_equal(mask > 0, anomaly > np.float32(sidecar["Thresholds"]["0.01"]))
    np.testing.assert_array_equal(restoration[~brain], image[~brain])


def test_one_bad_scan_fails_and_the_others_are_done_once(workdir, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    oblique_scan(folder)
    data = (folder / "a scan.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    arguments = (
        "restore",
        f"--workdir={workdir}",
        f"--input={folder}",
        f"--output={tmp_path / 'out'}",
        "--method=intensity",
    )
    first = lgjax(*arguments)
    assert first.returncode == 3
    assert (first.stdout + first.stderr).count("cut.nii.gz: is truncated") == 1  # told once, last
    assert first.stdout.startswith(f"input: {folder} (2 scans); model: {workdir}, trained ")
    assert "Traceback" not in first.stderr
    assert "1 restored, 0 finished before, 1 failed of 2 scans" in first.stdout
    assert not (tmp_path / "out" / "sub-cut").exists()
    anomaly = tmp_path / "out" / "sub-ascan" / "anat" / "sub-ascan_space-orig_desc-anomaly_T2w.nii.gz"
    written = anomaly.stat().st_mtime_ns
    second = lgjax(*arguments, "--viewer")
    assert "0 restored, 1 finished before, 1 failed" in second.stdout
    assert f"Viewer: {tmp_path / 'out' / 'viewer' / 'index.html'}" in second.stdout
    page = (tmp_path / "out" / "viewer" / "sub-ascan.html").read_text()
    assert 'id="data-anomaly"' in page
    assert 'id="data-reference"' not in page
    assert anomaly.stat().st_mtime_ns == written
    anomaly.with_name(anomaly.name.replace(".nii.gz", ".json")).unlink()
    assert "1 restored, 0 finished before" in lgjax(*arguments).stdout


def test_a_released_model_restores_as_its_work_directory_does(workdir, restored, tmp_path):
    """Elsewhere, to the bit; and nothing is written into the model."""
    (path, theirs), model = restored, tmp_path / "m"
    before = sorted(path for path in workdir.rglob("*") if path.is_file())
    said = ok(typed("export", f"--workdir={workdir}", f"--output={model}")).stdout
    assert f"released: {model}. Next: python -m lgjax.restore --model={model}" in said
    assert sorted(path for path in workdir.rglob("*") if path.is_file()) == before
    shutil.move(model, tmp_path / "elsewhere")
    files = {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()}
    said = ok(lgjax("restore", "--model=elsewhere", f"--input={path}", cwd=tmp_path)).stdout
    assert f"input: {path} (1 scan); model: vae_smoke, released in elsewhere; thresholds from 2 synthetic" in said
    ours = tmp_path / "runs" / "vae_smoke_released" / "restored"
    images = sorted(path.relative_to(theirs) for path in theirs.rglob("*.nii.gz"))
    assert len(images) > 5
    for name in images:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()} == files
    digest = hashlib.sha256(files[tmp_path / "elsewhere" / "model.safetensors"]).hexdigest()
    (sidecar,) = ours.rglob("*desc-anomaly_T2w.json")
    assert json.loads(sidecar.read_text())["WeightsSHA256"] == digest


def test_eval_of_the_phantom_writes_what_it_promises(workdir, tmp_path):
    out, result = tmp_path / "out", tmp_path / "evaluation"
    ok(lgjax("restore", f"--workdir={workdir}", "--input=phantom:test:1", f"--output={out}"))
    said = ok(lgjax("eval", f"--predictions={out}", "--labels=phantom:test:1", f"--output={result}")).stdout
    metrics = json.loads((result / "metrics.json").read_text())
    assert metrics["method"] == "vae_lg_neural_tv"
    assert metrics["n_subjects"] == len(phantom.KINDS)
    assert set(metrics["groups"]) == set(phantom.KINDS)
    assert set(metrics["dice"]) == {"0.001", "0.005", "0.01", "0.05"}
    assert 0 <= metrics["auc"] <= 1
    assert "glioma" in said
    assert (result / "report.html").stat().st_size > 10_000
    assert len((result / "subjects.tsv").read_text().splitlines()) == 1 + len(phantom.KINDS)


def test_restore_calibrates_what_nobody_calibrated(workdir, tmp_path):
    record = workdir / "calibration" / "vae_reconstruction.json"
    assert not record.exists()
    scan = oblique_scan(tmp_path)
    arguments = (
        f"--workdir={workdir}",
        f"--input={scan}",
        f"--output={tmp_path / 'out'}",
        "--method=vae_reconstruction",
    )
    said = ok(lgjax("restore", *arguments)).stdout
    assert "calibrating" in said
    assert json.loads(record.read_text())["Method"] == "vae_reconstruction"
    assert (tmp_path / "out" / "sub-ascan" / "anat").is_dir()


def test_every_second_slice_of_a_method_that_restores_no_image(workdir, tmp_path):
    path = oblique_scan(tmp_path)
    anat = tmp_path / "out" / "sub-ascan" / "anat"
    anat.mkdir(parents=True)
    left = anat / "sub-ascan_space-orig_desc-restored_T2w.nii.gz"  # by another method
    left.write_bytes(b"left")
    arguments = ("--method=gmm", "--config.restore.slice_step=2", f"--output={tmp_path / 'out'}")
    ok(lgjax("restore", f"--workdir={workdir}", f"--input={path}", *arguments))
    assert not list(anat.glob("*desc-restored*"))
    anomaly, brain = (
        nib.as_closest_canonical(nib.load(anat / f"sub-ascan_space-orig_{name}.nii.gz")).get_fdata()
        for name in ("desc-anomaly_T2w", "desc-brain_mask")
    )
    whole = nib.as_closest_canonical(nib.load(path)).get_fdata() > 0
    np.testing.assert_array_equal(brain[..., ::2] > 0, whole[..., ::2])
    assert not brain[..., 1::2].any()
    assert not anomaly[..., 1::2].any()
    assert (anomaly[..., ::2].max(axis=(0, 1)) > 0).any()
    sidecar = json.loads((anat / "sub-ascan_space-orig_desc-anomaly_T2w.json").read_text())
    assert sidecar["SliceStep"] == 2
    assert sidecar["TrainedOn"] == "nothing"
    assert sidecar["Lambda"] is None


def test_a_method_of_another_model_is_refused(workdir, tmp_path):
    told = ("--method=dae_reconstruction", "--input=phantom:test:1", f"--output={tmp_path / 'out'}")
    result = lgjax("restore", f"--workdir={workdir}", *told)
    assert result.returncode == 2
    assert "configs/dae.py" in result.stderr
    assert not (tmp_path / "out").exists()


def test_table1_explains_itself():
    result = subprocess.run(["bash", ROOT / "launch" / "table1.sh", "--help"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "--data=FOLDER" in result.stderr


def test_slices_without_a_skull_stripped_scan_ask_for_a_mask(workdir, tmp_path):
    head = nifti.Volume(
        np.random.default_rng(0).uniform(50, 900, (40, 40, 8)).astype(np.float32), np.eye(4), None, "", "head"
    )
    nifti.write(tmp_path / "head.nii.gz", head.data, head, np.float32)
    result = lgjax(
        "restore", f"--workdir={workdir}", f"--input={tmp_path / 'head.nii.gz'}", f"--output={tmp_path / 'o'}"
    )
    assert result.returncode == 3
    assert "--mask" in result.stderr


@pytest.mark.parametrize(
    ("binary", "arguments", "code", "words"),
    [
        ("restore", ["--workdir=/nonexistent"], 2, "/nonexistent does not exist"),
        ("calibrate", ["--config=configs/vae.py:smoke", "--nonsense=1"], 2, "nonsense"),
        ("train", ["--config=configs/vae.py:nonsense"], 2, "nonsense"),
        ("train", ["--config=configs/vae.py:smoke", "--config.train.nonsense=1"], 2, "nonsense"),
        ("train", ["--config=configs/vae.py:smoke", "--device=gpu"], 4, "gpu"),
        ("eval", ["--predictions=/nonexistent"], 2, "/nonexistent"),
    ],
)
def test_mistakes_end_with_a_message_and_the_right_code(binary, arguments, code, words, tmp_path):
    result = lgjax(binary, *arguments, *([f"--workdir={tmp_path}"] if binary == "train" else []))
    if "--device=gpu" in arguments and result.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
