"""The traffic light of a scan: chances against SciPy's t-test, promises by simulation, measures against phantoms."""

import json
import re

import images
import numpy as np
import pytest
from scipy import ndimage, stats

import lgjax
from lgjax.methods import mirror
from lgjax.preparation import dataset, likeness, measures, pipeline, recipe
from lgjax.preparation.likeness import MEASURES, Measure
from lgjax.preparation.midplane import Plane
from lgjax.preparation.slices import Grid
from lgjax.scans import phantom
from lgjax.workdir import calibrations
from lgjax.workdir.recorded import SHIPPED

RECIPE = recipe.bare(Grid(64, 64, 3.0))
WIDE = Measure("w", 0.0, "c")  # as wide as the healthy values are


@pytest.mark.parametrize("n", [5, 16])
@pytest.mark.parametrize("value", [-1.3, 0.4, 2.9, 7.0])
def test_a_chance_is_that_of_the_t_test_of_one_scan_against_all_others(n, value):
    healthy = np.random.default_rng(n).normal(2, 1.5, n)
    spread = healthy.std(ddof=1)
    test = stats.ttest_ind_from_stats(value, 0, 1, healthy.mean(), spread, n)  # of equal variance, that of the healthy
    assert likeness.chance(WIDE, value, healthy) == pytest.approx(test.pvalue, rel=1e-9)
    above = likeness.chance(WIDE._replace(low=False), value, healthy)
    below = likeness.chance(WIDE._replace(high=False), value, healthy)
    assert above + below == pytest.approx(1)
    assert 2 * min(above, below) == pytest.approx(test.pvalue, rel=1e-9)
    assert (above < below) == (value > healthy.mean())


def test_values_that_are_held_against_others_by_their_logarithm():
    healthy, by_log = np.array([0.1, 0.2, 0.4, 0.15, 0.3]), WIDE._replace(log=True)
    expected = likeness.chance(WIDE, np.log(0.9), np.log(healthy))
    assert likeness.chance(by_log, 0.9, healthy) == pytest.approx(expected)
    nothing = likeness.chance(by_log, 0.0, healthy)  # a method that changes nothing
    assert nothing == likeness.chance(by_log, likeness.LEAST, healthy)


def test_healthy_scans_that_are_all_alike_are_not_the_only_healthy_ones():
    measure = Measure("w", 2.0, "c")
    chances = [likeness.chance(measure, 10 + far, [10.0] * 16) for far in (0.0, 2.0, 20.0)]
    t = 20 / (2 * np.sqrt(1 + 1 / 16))
    assert chances[0] == 1
    assert chances[2] == pytest.approx(2 * stats.t.sf(t, 15))
    assert chances[1] > 0.3


def test_the_light_keeps_its_promise_to_healthy_scans(monkeypatch):
    """Of scans like the healthy ones, few are amber, and fewer red: here nearly as many as allowed."""
    names = [f"m{number}" for number in range(10)]
    both = {name: WIDE._replace(low=number % 2 > 0) for number, name in enumerate(names)}
    monkeypatch.setattr(likeness, "MEASURES", both)
    rng, lights = np.random.default_rng(0), []
    for _ in range(2000):
        healthy = dict(zip(names, rng.normal(size=(10, 8)), strict=True))
        lights.append(likeness.judge(dict(zip(names, rng.normal(size=10), strict=True)), healthy).light)
    unlike, red = (np.isin(lights, kinds).sum() for kinds in (("amber", "red"), ("red",)))
    assert 0.03 < unlike / 2000 < likeness.AMBER + 3 * np.sqrt(likeness.AMBER / 2000)
    assert 0.001 < red / 2000 < likeness.RED + 3 * np.sqrt(likeness.RED / 2000)


def test_reasons_come_with_the_farthest_first():
    healthy = {"tilt": [0.0, 1, 2, 3, 4], "top": [0.0] * 5, "volume": [1400.0] * 5, "new": [0.0] * 5}
    scan = {"tilt": 2.0, "top": 0.9, "volume": 400.0, "bottom": 0.9, "new": 99.0}
    light, (first, second) = likeness.judge(scan, healthy)
    assert light == "red"
    assert first == "highest cross-section 0.9 of the largest, of healthy scans 0 to 0: cut at the top?"
    assert second == "brain 400 mL, of healthy scans 1400 to 1400: a part of a brain? a mask that cuts or leaks?"
    assert likeness.judge({"tilt": 2.0}, healthy) == ("green", ())


def test_what_cannot_be_told_is_not_green():
    light, (reason,) = likeness.judge({"tilt": 2.0}, None)
    assert (light, "calibrate again" in reason) == ("unknown", True)
    few = {"tilt": [1.0] * (likeness.LEAST_SCANS - 1)}
    for healthy in (few, {}, {"volume": [1.0] * 9}):
        light, (reason,) = likeness.judge({"tilt": 90.0}, healthy)
        assert (light, "fewer than 5" in reason) == ("unknown", True)


def test_every_measure_has_words():
    for name, measure in MEASURES.items():
        assert all((measure.words, measure.cause)), name
        assert measure.spread > 0
        assert measure.low or measure.high


def ellipsoid(radii, zooms=(2.0, 2.0, 2.0), shape=(64, 72, 56)) -> np.ndarray:
    """A brain of half the brightness inside as within 12 mm of its outline, [X, Y, Z]."""
    axes = [(np.arange(n) - (n - 1) / 2) * zoom for n, zoom in zip(shape, zooms, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = sum((axis / radius) ** 2 for axis, radius in zip((x, y, z), radii, strict=True)) < 1
    depth = ndimage.distance_transform_edt(inside, sampling=(2, 2, 1e6))
    return np.where(inside, np.where(depth <= 12, 200, 100), 0).astype(np.float32)


def prepared(data, affine=None, wanted=RECIPE):
    affine = np.diag([2.0, 2, 2, 1]) if affine is None else affine
    noise = np.random.default_rng(0).normal(0, 1, data.shape)
    return pipeline.prepare(lgjax.read(np.where(data > 0, data + noise, 0).astype(np.float32), affine), wanted)


def measured(data, affine=None, plane=None):
    scan = prepared(data, affine)
    return measures.measure(scan, np.array([1.0, -3, 2]), plane)


def test_an_ellipsoid_measures_what_it_was_made_with():
    data = ellipsoid((50, 60, 40))
    found = measured(data)
    values = data[data > 0]
    np.testing.assert_allclose(found["volume"], 4 / 3 * np.pi * 50 * 60 * 40 / 1000, rtol=0.01)
    np.testing.assert_allclose(found["cortex"], 100 / values.std(), rtol=0.03)
    assert found["dark"] + found["bright"] == pytest.approx(100 / values.std(), rel=0.05)
    assert (found["error"], found["voxel"]) == (2, 2)
    assert max(found["top"], found["bottom"]) < 0.1
    assert not {"tilt", "symmetry"} & set(found)
    assert set(found) < set(MEASURES)


def test_depth_is_measured_from_the_outline_of_a_slice():
    """Of a block, whose sides lie along the axes and whose slices are alike: depth is the way to the nearest side."""
    across, down = (np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) for n in (40, 50))
    depth = 2 * np.minimum(across, down[:, None])  # mm, [rows, columns]
    data = np.zeros((64, 64, 40), np.float32)
    data[12:52, 7:57, 5:35] = (300 - 5 * depth).T[..., None]
    scan = prepared(data, wanted=RECIPE._replace(grid=Grid(64, 64, 2.0)))
    values = scan.slices.y[:, 7:57, 12:52, 0]
    outer, inner = values[:, (depth > 3) & (depth <= 12)], values[:, depth > 12]
    found = measures.measure(scan, np.ones(1), None)["cortex"]
    assert found == pytest.approx(np.median(outer) - np.median(inner), rel=1e-5)


def test_a_slab_ends_in_large_cross_sections():
    data = ellipsoid((50, 60, 40))
    data[..., 35:] = 0  # 13 to 15 mm above the middle: the plane that is left ends at (14 / 40)^2 of the height
    found = measured(data)
    assert found["top"] == pytest.approx(1 - (13 / 40) ** 2, abs=0.02)
    assert found["bottom"] < 0.1
    upside_down = measured(data, np.diag([2.0, 2, -2, 1]))
    assert (upside_down["bottom"], upside_down["top"]) == (found["top"], found["bottom"])


@pytest.mark.parametrize("sd", [3.0, 9.0])
def test_noise_is_that_which_was_added(sd):
    ramp = np.arange(100, 164, dtype=np.float32)[:, None, None]  # which has no Laplacian
    data = np.where(ellipsoid((50, 60, 40)) > 0, ramp, 0)
    noisy = np.where(data > 0, data + np.random.default_rng(1).normal(0, sd, data.shape), 0)
    one_pixel_a_voxel = RECIPE._replace(grid=Grid(64, 64, 2.0))
    scan = prepared(noisy.astype(np.float32), wanted=one_pixel_a_voxel)
    found = measures.measure(scan, np.ones(1), None)["noise"]
    assert found * scan.placement.std == pytest.approx(np.hypot(sd, 1), rel=0.05)


@pytest.mark.parametrize("degrees", [0.0, 5.0, 20.0])
def test_tilt_is_the_angle_between_plane_and_scanner(degrees):
    turn = np.radians(degrees)
    plane = Plane((np.cos(turn), 0.0, np.sin(turn)), 1.0, 0.5, 0.4)
    found = measured(ellipsoid((50, 60, 40)), plane=plane)
    assert found["tilt"] == pytest.approx(degrees, abs=1e-4)
    assert found["symmetry"] == 0.4
    assert "tilt" not in measured(ellipsoid((50, 60, 40)), plane=plane._replace(score=0.05))
    oblique = np.diag([2.0, 2, 2, 1])
    oblique[:3, :3] = [[2 * np.cos(turn), 0, 2 * np.sin(turn)], [0, 2, 0], [-2 * np.sin(turn), 0, 2 * np.cos(turn)]]
    assert measured(ellipsoid((50, 60, 40)), oblique, plane)["tilt"] in (
        pytest.approx(0, abs=1e-4),
        pytest.approx(2 * degrees, abs=1e-4),
    )


def test_brightness_and_contrast_of_a_scanner_change_nothing():
    data = ellipsoid((50, 60, 40))
    found, other = (measures.measure(prepared(data), np.ones(1), None) for data in (data, data.copy()))
    assert found == other
    scan = prepared(data)
    scaled = pipeline.prepare(lgjax.read(3 * scan.image.data + 7 * (data > 0), scan.image.affine), RECIPE)
    theirs = measures.measure(scaled, np.ones(1), None)
    assert theirs == pytest.approx(found, rel=1e-3)


def test_a_bias_field_that_was_removed_has_no_say():
    scan = prepared(ellipsoid((50, 60, 40)))
    plain = measures.measure(scan, np.ones(1), None)
    field = np.linspace(0.5, 2, scan.image.data.size, dtype=np.float32).reshape(scan.image.data.shape)
    biased = scan._replace(image=images.volume(scan.image.data * field, scan.image.affine), field=field)
    assert measures.measure(biased, np.ones(1), None) == pytest.approx(plain, rel=1e-3)


def test_what_is_not_there_is_left_out():
    thin = np.zeros((64, 72, 56), np.float32)
    thin[20:44, 30:34, 20:40] = 100  # nothing lies deeper than 12 mm
    found = measured(thin)
    assert "cortex" not in found
    json.dumps(found, allow_nan=False)


@pytest.fixture(scope="module")
def brain():
    """A healthy synthetic brain that no calibration has seen."""
    anatomies = phantom.load_anatomies(None)
    return phantom.make_subject(anatomies, 9, 0, "healthy", thickness=2.0, gap=0.0).image


def light(data, affine, tilted=False) -> likeness.Likeness:
    """How like the healthy scans of the shipped calibration a scan is, whose restoration is as theirs."""
    scan = pipeline.prepare(lgjax.read(data.astype(np.float32), affine), recipe.read(SHIPPED / dataset.RECIPE))
    healthy = calibrations.read(SHIPPED, "mirror_tv3d").healthy_scans
    plane = mirror.of(scan).plane if tilted else None
    return likeness.judge(measures.measure(scan, np.array([np.median(healthy["error"])]), plane), healthy)


def test_a_healthy_brain_that_nobody_has_seen_is_green(brain):
    assert light(brain.data, brain.affine, tilted=True) == ("green", ())


def inverted(brain):
    return np.where(brain.data > 0, (1.05 * np.percentile(brain.data[brain.data > 0], 99.5) - brain.data).clip(1), 0)


def noisy(brain):
    inside = brain.data > 0
    noise = np.random.default_rng(0).normal(0, brain.data[inside].std(), brain.data.shape)
    return np.where(inside, np.abs(brain.data + noise) + 1, 0)


def cropped(brain, low, high):
    """What lies between two heights, shares of the brain's own; the last axis runs upwards."""
    heights = np.flatnonzero((brain.data > 0).any(axis=(0, 1)))
    first, last = np.quantile(heights, [low, high])
    kept = (np.arange(brain.data.shape[2]) >= first) & (np.arange(brain.data.shape[2]) <= last)
    return np.where(kept, brain.data, 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (inverted, "99th percentile"),
        (noisy, "noise"),
        (lambda brain: cropped(brain, 0.4, 0.6), "brain 4"),
        (lambda brain: cropped(brain, 0, 0.8), "cut at the top"),
        (lambda brain: cropped(brain, 0.3, 1), "cut at the bottom"),
    ],
)
def test_a_scan_that_is_far_off_is_red(brain, changed, reason):
    found = light(changed(brain), brain.affine)
    assert found.light == "red"
    assert any(reason in line for line in found.reasons), found.reasons


def test_a_tilted_head_is_told(brain):
    turn = np.radians(30)
    turned = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    affine = brain.affine.copy()
    affine[:3, :3] = turned @ affine[:3, :3]  # the head turns with its voxels
    found = light(brain.data, affine, tilted=True)
    assert found.light == "red"
    assert float(re.match(r"tilt (\d+) degrees", found.reasons[0])[1]) == pytest.approx(30, abs=4)


def test_thick_slices_are_told(brain):
    lights = [light(brain.data[..., ::step], brain.affine @ np.diag([1, 1, step, 1])).light for step in (1, 2, 4, 6)]
    assert lights == ["green", "green", "amber", "red"]
