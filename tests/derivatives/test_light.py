"""The traffic light of a scan where people see it: in Python, on the screen, in the sidecar, in the picture."""

import json
from types import SimpleNamespace

import derived
import nibabel as nib
import numpy as np
import pytest

import lgjax
from lgjax.derivatives import read, sidecar
from lgjax.scans import scan_picture

QUALITY = {"light": "amber", "reasons": ["tilt 20 degrees"], "measures": {"tilt": 20.5, "volume": 1200}}


def scan(data: np.ndarray, name: str = "x"):
    return lgjax.read(nib.Nifti1Image(data, derived.GRID), name=name)


@pytest.fixture(scope="module")
def detector():
    """A method whose healthy scans are six of the same making."""
    made = derived.detector()
    measured = [made(scan(derived.brain(seed))).quality.measures for seed in range(6)]
    made.healthy = {name: sorted(each[name] for each in measured) for name in measured[0]}
    return made


def test_a_scan_of_the_same_making_is_green_and_says_nothing(detector, caplog):
    found = detector(scan(derived.brain(9)))
    assert (found.quality.light, found.quality.reasons, found.quality.unlike) == ("green", [], False)
    assert not caplog.messages


def test_a_scan_that_is_far_off_is_told_everywhere(detector, caplog, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(scan_picture, "scan_figure", lambda rows, title: drawn.append(title) or SimpleNamespace())
    monkeypatch.setattr(scan_picture, "encode", lambda figure: b"")
    half = derived.brain(9)
    half[..., 3:] = 0
    found = detector(scan(half))
    assert found.quality.light == "amber"
    assert "cut at the top?" in found.quality.reasons[0]
    (line,) = caplog.messages
    assert line.startswith("sub-x: amber, unlike healthy scans: highest cross-section")
    found.save(tmp_path)
    about = json.loads(sidecar.file(tmp_path, "sub-x", sidecar.ANOMALY, "json").read_text())
    assert about["Quality"]["light"] == "amber"
    assert read.read_predictions(tmp_path)[0]["sub-x"].sidecar.quality == found.quality
    (title,) = drawn
    assert title.splitlines()[1].startswith("amber: this scan is unlike the healthy scans")


def test_earlier_calibrations_tell_nothing(caplog):
    found = derived.detector()(scan(derived.brain()))
    assert found.quality.light == "unknown"
    assert "calibrate again" in found.quality.reasons[0]
    assert not caplog.messages


def test_the_quality_of_a_sidecar():
    plain = {"Method": "gmm", "Score": "absolute", "InputSHA256": "i"}
    assert sidecar.parse(plain).quality is None  # of earlier versions
    assert sidecar.problem_of(plain | {"Quality": QUALITY}) is None
    assert sidecar.parse(plain | {"Quality": QUALITY}).quality == sidecar.Quality(**QUALITY)
    for change in (
        {"light": "blue"},
        {"reasons": "tilt"},
        {"reasons": [3]},
        {"measures": {"tilt": "x"}},
        {"measures": 3},
    ):
        assert "Quality" in sidecar.problem_of(plain | {"Quality": QUALITY | change})
    assert "Quality" in sidecar.problem_of(plain | {"Quality": []})
