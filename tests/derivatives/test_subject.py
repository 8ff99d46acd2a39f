"""What is written for one subject, and what the sidecar of its anomaly map may hold; nothing is restored."""

from types import SimpleNamespace

import numpy as np
import pytest

from lgjax.derivatives import sidecar, write
from lgjax.methods import names
from lgjax.runtime.errors import UsageError
from lgjax.scans import pictures, scan_picture

SIDECAR = {"Method": "gmm", "Score": "absolute", "InputSHA256": "i"}


@pytest.fixture
def prepared():
    """What maps are made from: a brain of 6x6x3 voxels in a scan of 8x8x3, which is all that is looked at."""
    brain = np.zeros((8, 8, 3), bool)
    brain[1:7, 1:7] = True
    image = SimpleNamespace(affine=np.diag([-1.0, -1.0, 2.0, 1.0]), data=np.ones((8, 8, 3), np.float32))
    return SimpleNamespace(placement=SimpleNamespace(brain=brain), image=image)


def test_a_score_at_the_threshold_is_not_detected(prepared):
    """Calibration promises a rate of scores *above* a threshold; equal scores are common where X = Y."""
    anomaly = np.zeros((8, 8, 3), np.float32)
    above = np.nextafter(np.float32(2), np.float32(3))
    anomaly[2, 2, :], anomaly[4, 4, 1] = (1, 2, above), 0.5
    found = write.detect(prepared, None, anomaly, {"0.01": 2.0, "0.2": 0.5})
    assert np.argwhere(found.masks["0.01"]).tolist() == [[2, 2, 2]]
    assert np.argwhere(found.masks["0.2"]).tolist() == [[2, 2, 0], [2, 2, 1], [2, 2, 2]]
    assert found.anomaly[2, 2, 2] == above


def test_the_picture_shows_the_mask_of_the_mask_rate(prepared, monkeypatch):
    drawn = []
    monkeypatch.setattr(scan_picture, "scan_figure", lambda *given: drawn.append(given[:2]))
    anomaly = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    rates = {"0.002": 0.9, "0.07": 0.3}
    found = write.detect(prepared, None, anomaly, rates)
    write.figure(prepared, found, {"Method": "m", "Score": "absolute", "MaskRate": "0.07", "Thresholds": rates})
    ((rows, title),) = drawn
    assert title.startswith("m, score absolute")
    assert pictures.detected_at(rows.values()) == "Detected at 7 % FPR"
    assert {panels.threshold for panels in rows.values()} == {0.3}
    shown = sum(int(panels.detected.sum()) for panels in rows.values())
    assert shown == found.masks["0.07"].sum() > found.masks["0.002"].sum()
    one = next(iter(rows.values()))
    assert pictures.detected_at([one, one._replace(rate="0.01")]) == "Detected"


PLANE = {"normal": [-0.8, 0.0, 0.6], "offset_mm": 3.0, "uncertainty_mm": 0.5, "score": 0.4}


def test_the_picture_shows_the_plane_of_the_sidecar(prepared, monkeypatch):
    drawn = []
    monkeypatch.setattr(scan_picture, "scan_figure", lambda *given: drawn.append(given[:2]))
    found = write.detect(prepared, None, np.zeros((8, 8, 3), np.float32), {"0.01": 0.5})
    about = {"Method": "m", "Score": "absolute", "MaskRate": "0.01", "Thresholds": {"0.01": 0.5}}
    for plane in (PLANE, None, PLANE | {"score": 0.05}):  # the last one fits nothing
        write.figure(prepared, found, {**about, "MidsagittalPlane": plane})
    (rows, _), *others = drawn
    assert all(panels.midline is None for without, _ in others for panels in without.values())
    for name, panels in rows.items():  # mm: x = -column, z = 2 slice
        across, down, level = panels.midline
        height = 2.0 * int(name.split()[1])
        np.testing.assert_allclose((across, down, level), (0.8, 0.0, 3.0 - 0.6 * height), atol=1e-12)


def test_the_plane_of_a_sidecar():
    assert sidecar.parse(SIDECAR).midplane is None
    assert sidecar.parse(SIDECAR | {"MidsagittalPlane": PLANE}).midplane == sidecar.Midplane(**PLANE)
    for wrong in ([], {"normal": [1, 0, 0]}, PLANE | {"normal": [1, 0]}, PLANE | {"normal": [0, 0, 0]}):
        assert "MidsagittalPlane" in sidecar.problem_of(SIDECAR | {"MidsagittalPlane": wrong})
    assert sidecar.problem_of(SIDECAR | {"MidsagittalPlane": PLANE}) is None


def test_promised_volumes_are_checked_and_sorted():
    """They name files, and stand on pages."""
    assert sidecar.parse(SIDECAR).volume_thresholds == {}
    assert list(sidecar.parse(SIDECAR | {"VolumeThresholds": {"10": 1.0, "2.5": 2}}).volume_thresholds) == ["2.5", "10"]
    for wrong in ({"../1": 1.0}, {"1": "x"}, {"1": None}, [1.0], {"1e3": 1.0}, {"1": float("inf")}):
        assert "VolumeThresholds" in sidecar.problem_of(SIDECAR | {"VolumeThresholds": wrong})


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((0.05, 0.001), ("0.001", "0.05")),
        ([0.07], ("0.07",)),
        ((0.0001, 0.123456, 0.99), ("0.0001", "0.123456", "0.99")),
    ],
)
def test_rates_have_names(rates, expected):
    """As sidecars and the names of files take them."""
    found = names.rate_names(rates)
    assert found == expected
    content = SIDECAR | {"Thresholds": dict.fromkeys(found, 1.0), "MaskRate": found[0]}
    assert sidecar.problem_of(content) is None
    files = [sidecar.rate_name(rate) for rate in found]
    assert len(set(files)) == len(files)
    assert all(name.isalnum() for name in files)
    assert names.mask_rate(rates[0], found) == f"{rates[0]:g}"


@pytest.mark.parametrize("rates", [(), (0.0,), (1.0,), (0.01, 0.01), (-0.1,), (1e-5,), (0.1234567,), ("0.01",), (1,)])
def test_rates_that_are_none_are_refused(rates):
    with pytest.raises(UsageError, match=r"restore\.false_positive_rates="):
        names.rate_names(rates)


def test_a_mask_rate_without_threshold_is_refused():
    with pytest.raises(UsageError, match=r"mask_rate=0.02: expected one of the false positive rates 0.01, 0.05"):
        names.mask_rate(0.02, ("0.01", "0.05"))


def test_the_mask_rate_of_a_sidecar():
    content = SIDECAR | {"Thresholds": {"0.01": 2.0, "0.002": 3.0}}
    assert sidecar.parse(content).mask_rate == "0.01"  # as earlier versions had it
    assert sidecar.parse(content).shared["MaskRate"] == "0.01"
    found = sidecar.parse(content | {"MaskRate": "0.002"})
    assert (found.mask_rate, list(found.thresholds)) == ("0.002", ["0.002", "0.01"])
    for wrong in ("0.05", 0.01, [], ""):
        assert "MaskRate" in sidecar.problem_of(content | {"MaskRate": wrong})
    assert {"MaskRate", "Thresholds"} <= set(sidecar.SAME) & set(sidecar.DONE)
