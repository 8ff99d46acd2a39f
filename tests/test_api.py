"""The front entrance for Python: what a notebook types, against what the command writes."""

import json
import os
import pathlib
import re
import subprocess
import sys

import derived
import images
import nibabel as nib
import numpy as np
import pytest
import server
from conftest import ONE_DEVICE, ROOT, TINY
from scipy import ndimage
from test_docs import readme_python

import lgjax
from lgjax import detector
from lgjax.derivatives import lesions
from lgjax.methods.runner import Pace
from lgjax.methods.scan import Restored
from lgjax.models import convolutions
from lgjax.preparation.midplane import Plane
from lgjax.preparation.slices import every
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import phantom

LINES = readme_python().replace("lgjax.load()", 'lgjax.load("runs/vae")')
NOTEBOOK = """
import ast, json, sys
values = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"])).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), cell["id"], "exec"), values)
    shown = last and eval(compile(ast.Expression(last.value), cell["id"], "eval"), values)
    if hasattr(shown, "_repr_png_"):
        open("shown.png", "wb").write(shown._repr_png_())
    print(repr(shown))
"""


def python(*words, cwd) -> subprocess.CompletedProcess:
    """Types Python in a shell, in another folder than the clone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ONE_DEVICE}
    return ok(subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True))


def ok(result: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model in runs/vae and a scan, as the README's five lines name them."""
    folder = tmp_path_factory.mktemp("user")
    python(
        "-m",
        "lgjax",
        "train",
        "--config=vae:smoke",
        "--workdir=runs/vae",
        *TINY,
        "--config.restore.slice_step=4",
        "--config.restore.false_positive_rates=(0.2,0.01)",
        "--config.restore.mask_rate=0.2",
        cwd=folder,
    )
    ok(server.run("calibrate", "--workdir=runs/vae", folder=folder))
    scan = phantom.make_subject(phantom.load_anatomies(None), 9, 0, "glioma", slices=8)
    nib.save(nib.Nifti1Image(scan.image.data.astype(np.int16), scan.image.affine), folder / "scan.nii.gz")
    return folder


def same_files(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """All files of two outputs are equal, but for the time that an iteration took and where a command's input lay."""
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    for record in ("citations.bib", "methods.md", "results.json", "run.json"):  # of the command, not of the scan
        names.remove(pathlib.Path(record))
    assert len(names) > 10
    assert {name.name.rpartition("desc-")[2] for name in names if "lesion" in name.name and name.suffix == ".gz"} == {
        "fpr1_mask.nii.gz",
        "fpr20_dseg.nii.gz",
        "fpr20_mask.nii.gz",
    }
    assert sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file()) == names
    for name in names:
        pair = [(folder / name).read_bytes() for folder in (ours, theirs)]
        if name.suffix == ".json":
            pair = [{**json.loads(text), "SecondsPerIteration": None, "DatasetLinks": None} for text in pair]
        assert pair[0] == pair[1], name


OWN_FLAGS = f"""
import argparse, sys
import numpy
from absl import flags
flags.DEFINE_bool("debug", False, "of this program")
flags.DEFINE_string("device", "mine", "of this program")
argparse.ArgumentParser().parse_args([])
flags.FLAGS(["program", "--debug"])
{LINES}
assert found.anomaly.shape == found.restored.shape == found.brain.shape == found.masks["0.01"].shape
assert (found.anomaly[~found.brain] == 0).all()
assert found.trace.change.shape[1] == 3
assert list(found.masks) == list(found.about["Thresholds"]) == ["0.01", "0.2"]
assert sum(lesion.volume_ml for lesion in found.lesions) > 0
volume = found.masks["0.2"].sum() * abs(numpy.linalg.det(found.affine)) / 1000
assert numpy.isclose(sum(lesion.volume_ml for lesion in found.lesions), volume) and not found.masks["0.01"].all()
assert "glioma" not in str(detector) and "vae_lg_neural_tv" in str(detector)
found.figure().savefig("figure.png")
print(len(found.lesions), flags.FLAGS.device, "matplotlib.pyplot" in sys.modules)
"""


@pytest.fixture(scope="module")
def said(place):
    """What the five lines say that are typed in another program, which has flags of its own."""
    return python("-c", OWN_FLAGS, "--debug", cwd=place).stdout


def test_beside_another_programs_flags(place, said):
    assert re.fullmatch(r"\d+ mine False\n", said)  # and nothing else is printed
    assert (place / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("said")
def test_the_five_lines_of_the_readme_write_what_the_command_writes(place):
    python("-m", "lgjax.restore", "--workdir=runs/vae", "--input=scan.nii.gz", "--output=typed", cwd=place)
    same_files(place / "out", place / "typed")
    description = json.loads((place / "typed" / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": ".."}  # from the first restoration on


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
def test_the_five_lines_on_a_real_scan(place):
    scan = images.REAL / "brats18" / "Brats18_2013_3_1" / "Brats18_2013_3_1_t2.nii.gz"
    code = LINES.replace("scan.nii.gz", str(scan)).replace('"out"', '"real"')
    ok(server.python(code, folder=place))
    ok(server.run("restore", "--workdir=runs/vae", f"--input={scan}", "--output=realtyped", folder=place))
    same_files(place / "real", place / "realtyped")


def test_the_notebook_runs(place, monkeypatch):
    """Cell by cell, as Jupyter runs it and shows the value of a cell's last line."""
    monkeypatch.setenv("LGJAX_WORKDIR", "runs/vae")
    told = ok(server.python(NOTEBOOK, ROOT / "docs" / "quickstart.ipynb", folder=place)).stdout
    _, maps, figure, lesions, dice, _, change = told.splitlines()
    assert "'0.01'" in maps
    assert "Picture" in figure
    assert (place / "shown.png").read_bytes().startswith(b"\x89PNG")
    assert lesions.startswith("[Lesion(")
    number = re.compile(r"float\w*\(([\d.e+-]+)\)")
    assert 0 <= float(number.search(dice)[1]) <= 1
    inside, outside = map(float, number.findall(change))
    assert inside > outside  # the neighbourhood prior, which needs no training, finds the tumour


def test_an_image_in_memory_gives_the_maps_of_its_file(place):
    code = """
import lgjax, nibabel, numpy as np
detector = lgjax.load("runs/vae")
image = nibabel.load("scan.nii.gz")
expected = detector(lgjax.read("scan.nii.gz"))
for scan in (lgjax.read(image), lgjax.read(image.get_fdata(), image.affine, name="a b")):
    found = detector(scan)
    assert np.array_equal(found.anomaly, expected.anomaly) and np.array_equal(found.restored, expected.restored)
found.save("memory")
written = nibabel.load("memory/sub-ab/anat/sub-ab_space-orig_desc-anomaly_T2w.nii.gz")
assert np.array_equal(written.get_fdata(dtype=np.float32), expected.anomaly)
assert np.allclose(written.affine, image.affine)
"""
    ok(server.python(code, folder=place))


def test_import_is_light():
    code = "import sys, lgjax; print(sorted({'jax', 'matplotlib', 'numpy', 'absl'} & set(sys.modules)), dir(lgjax))"
    said = python("-c", code, cwd=ROOT).stdout
    assert said.startswith("[] ['Detection', 'Detector'")
    code = "import time; t = time.process_time(); import lgjax; print(time.process_time() - t)"
    assert float(python("-c", code, cwd=ROOT).stdout) < 0.1


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="detect"):
        lgjax.detect  # noqa: B018


def test_what_read_refuses(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        lgjax.read(tmp_path)
    with pytest.raises(InputError, match="affine"):
        lgjax.read(np.zeros((4, 4, 4)))
    with pytest.raises(InputError, match="inverted"):
        lgjax.read(np.zeros((4, 4, 4)), np.zeros((4, 4)))
    with pytest.raises(InputError, match="one volume"):
        lgjax.read(np.zeros((4, 4, 4, 2)), np.eye(4))
    with pytest.raises(InputError, match="another affine"):
        lgjax.read(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), np.eye(4))


def test_scans_in_memory_differ_by_what_they_hold():
    """The digest that marks outputs as finished follows voxels, affine and mask."""
    from lgjax.scans import sources

    data, other = np.zeros((4, 4, 4), np.float32), np.ones((4, 4, 4), np.float32)
    scans = [
        lgjax.read(data, np.eye(4)),
        lgjax.read(other, np.eye(4)),
        lgjax.read(data, 2 * np.eye(4)),
        lgjax.read(data, np.eye(4), mask=other),
    ]
    assert len({sources.digest(scan) for scan in scans}) == 4


def test_lesions_are_the_components_of_the_mask():
    """Against boxes whose volume, centre, side and scores are known, in an oblique, flipped grid."""
    affine = np.diag([-2.0, 1.5, 3.0, 1.0])
    affine[:3, 3] = 40, -30, 10
    brain, mask = np.ones((40, 30, 20), bool), np.zeros((40, 30, 20), bool)
    mask[2:6, 3:5, 4:5], mask[30:32, 10:14, 10:14] = True, True
    mask[32, 14, 14] = True  # touches a corner of the second
    anomaly = np.where(mask, np.random.default_rng(0).uniform(1, 2, mask.shape), 0)
    found = lesions.measure(lesions.label(mask, affine), anomaly, brain, affine)
    assert [lesion.label for lesion in found] == [1, 2]
    assert [lesion.volume_ml for lesion in found] == pytest.approx([33 * 9 / 1000, 8 * 9 / 1000])
    assert [lesion.side for lesion in found] == ["left", "right"]  # the first axis runs to the left
    centre = np.array([3.5, 3.5, 4.0]) * [-2, 1.5, 3] + [40, -30, 10]
    assert found[1].centroid_mm == pytest.approx(centre)
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    inside = anomaly[labels == labels[32, 14, 14]]
    assert (found[0].peak, found[0].mean) == pytest.approx((inside.max(), inside.mean()))
    assert lesions.measure(lesions.label(np.zeros_like(mask), affine), anomaly, brain, affine) == []


@pytest.mark.parametrize(("score", "doubted"), [(0.4, 0), (0.05, 1)])
def test_a_detection_says_where_the_mirror_stood(monkeypatch, caplog, score, doubted):
    """Also where every second slice alone was looked at: the plane's origin is that of all."""
    plane = Plane((0.8, 0.0, 0.6), 3.0, 0.5, score)

    def restore_scan(runner, prepared, strength, step):
        kept, placement = every(prepared.slices, prepared.placement, 2)
        change = np.zeros(prepared.image.data.shape, np.float32)
        looked_at = prepared._replace(slices=kept, placement=placement)
        return Restored(looked_at, change, None, None, Pace(1, None), "XLA", plane)

    monkeypatch.setattr(detector, "restore_scan", restore_scan)
    about = derived.detector()(lgjax.read(nib.Nifti1Image(derived.brain(), derived.GRID))).about
    middle = np.array([76.0, 92.0, 50.0])  # of a brain of 20 x 24 x 6 voxels, in mm (RAS+)
    found = about["MidsagittalPlane"]
    np.testing.assert_allclose(found["normal"], [-0.8, 0, 0.6], atol=1e-9)  # to the left
    np.testing.assert_allclose(found["offset_mm"], 3.0 + middle @ [-0.8, 0, 0.6], atol=1e-6)
    assert (found["uncertainty_mm"], found["score"]) == (0.5, score)
    assert sum("mirror image" in warning for warning in about["Warnings"]) == doubted
    assert sum("mirror image" in line for line in caplog.messages) == doubted


@pytest.mark.parametrize(
    ("calibrated", "fused", "doubted"),
    [("XLA", None, 0), ("XLA", convolutions.PARTS, 1), ("lgjax", convolutions.PARTS, 0), (None, convolutions.PARTS, 0)],
)
def test_a_detection_says_whose_kernels_computed_its_map(tmp_path, caplog, calibrated, fused, doubted):
    """And warns once where the thresholds are from others; earlier calibrations do not say."""
    made = derived.detector()
    made.about = {**made.about, "CalibrationKernels": calibrated}
    made.runner.programs.fused = fused  # as on a GPU that is trusted
    scan = lgjax.read(nib.Nifti1Image(derived.brain(), derived.GRID))
    _, found = made(scan), made(scan)
    about = json.loads(found.save(tmp_path).with_name("sub-scan_space-orig_desc-anomaly_T2w.json").read_text())
    assert about["Kernels"] == ("lgjax" if fused else "XLA")
    doubts = [line for line in caplog.messages if "computed thresholds" in line]
    assert len(doubts) == doubted
    assert all("intensity: kernels of lgjax compute maps, those of XLA computed thresholds" in line for line in doubts)


def test_what_a_notebook_shows_is_one_line():
    scan = lgjax.read(nib.Nifti1Image(derived.brain(), derived.GRID), name="a b")
    found = derived.detector()(scan)
    volume = sum(lesion.volume_ml for lesion in found.lesions)
    assert found.lesions
    assert repr(scan) == "Subject(sub-ab)"
    assert re.fullmatch(r"Detection\(sub-ab, intensity, (\d+) lesions? of ([\d.]+) mL\)", repr(found)).groups() == (
        str(len(found.lesions)),
        f"{volume:.1f}",
    )


def test_a_detector_says_what_it_takes():
    image = nib.Nifti1Image(derived.brain(), derived.GRID)
    for wrong in (image, derived.brain(), "scan.nii.gz", [lgjax.read(image)]):
        with pytest.raises(UsageError, match=r"lgjax\.read\(image\)"):
            derived.detector()(wrong)


def test_a_detector_says_where_it_is_from():
    made = derived.detector()
    made.workdir = pathlib.Path("runs/mine")
    made.about = {**made.about, "CalibrationSubjects": ["a", "b"]}
    assert repr(made) == "Detector(intensity, runs/mine, trained on nothing, thresholds from 2 healthy scans)"
    shipped = lgjax.load(method="intensity_tv3d", device="cpu")
    expected = "Detector(intensity_tv3d, shipped, trained on nothing, thresholds from 16 healthy scans)"
    assert repr(shipped) == expected
