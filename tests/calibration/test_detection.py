"""Scores, SSIM, the search for lambda and thresholds, against definitions written out here."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from lgjax.calibration import strength
from lgjax.calibration.scores import anomaly, thresholds
from lgjax.evaluation.published import RATES


def rate_above(scores, threshold) -> float:
    return np.count_nonzero(np.asarray(scores) > threshold) / len(scores)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-3, 6), min_size=1, max_size=300),
    st.sampled_from([*RATES, "0.1", "0.2", "0.25", "0.5", "0.9"]),
)
def test_threshold_is_the_smallest_that_keeps_its_rate(values, rate):
    scores = np.array(values, np.float32)
    (threshold,), rate = thresholds(scores, [rate]).values(), float(rate)
    assert rate_above(scores, threshold) <= rate
    smaller = [v for v in set(values) if v < threshold]
    assert all(rate_above(scores, v) > rate for v in smaller)
    assert threshold in values


@pytest.mark.parametrize("n", [1000, 1999, 2000, 54_321])
def test_thresholds_of_distinct_scores_use_the_whole_rate(n):
    scores = np.random.default_rng(n).permutation(n).astype(np.float32)
    rates = {"0.001": 1, "0.005": 5, "0.01": 10, "0.05": 50, "0.3": 300}
    found = thresholds(scores, list(rates))
    assert list(found) == list(rates)
    for rate, threshold in zip(rates.values(), found.values(), strict=True):
        assert np.count_nonzero(scores > threshold) == rate * n // 1000  # integers: no rounding of the rate


def test_thresholds_survive_json():
    scores = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    found = thresholds(scores, RATES)
    assert json.loads(json.dumps(found)) == found
    assert all(np.float32(t) == t for t in found.values())


def test_thresholds_leave_the_scores_alone():
    scores = np.array([3, 1, 2, 5], np.float32)
    thresholds(scores, RATES)
    np.testing.assert_array_equal(scores, [3, 1, 2, 5])


def test_a_constant_score_detects_nothing():
    for threshold in thresholds(np.full(100, 2.0, np.float32), RATES).values():
        assert threshold == 2


def test_anomaly():
    change = np.array([[-2.0, 0.0], [0.5, 3.0]], np.float32)
    np.testing.assert_array_equal(anomaly(change, "absolute"), [[2, 0], [0.5, 3]])
    np.testing.assert_array_equal(anomaly(change, "positive"), [[0, 0], [0.5, 3]])
    np.testing.assert_array_equal(anomaly(change, "signed"), change)
    with pytest.raises(ValueError, match="expected a score"):
        anomaly(change, "bogus")


def test_the_relative_score_is_blind_to_how_much_a_scan_is_missed_everywhere():
    rng = np.random.default_rng(0)
    change = np.zeros((8, 9, 10), np.float32)
    brain = rng.random(change.shape) < 0.6
    change[brain] = rng.normal(size=brain.sum())
    expected = np.maximum(change, 0) / np.median(np.abs(change[brain]))
    np.testing.assert_allclose(anomaly(change, "relative", brain), expected, rtol=1e-6)
    np.testing.assert_allclose(anomaly(7 * change, "relative", brain), expected, rtol=1e-5)
    np.testing.assert_allclose(anomaly(change[brain], "relative"), expected[brain], rtol=1e-6)
    nothing = np.zeros(50, np.float32)
    nothing[3] = 0.5
    assert anomaly(nothing, "relative")[3] == pytest.approx(500)  # finite where most of a scan does not change


def test_data_range():
    assert strength.data_range(np.arange(1001.0)) == pytest.approx(990)  # from 5 to 995


def test_masked_ssim():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(20, 24)).astype(np.float32)
    x = (y + 0.3 * rng.normal(size=y.shape)).astype(np.float32)
    mask = np.hypot(*(np.mgrid[:20, :24] - np.array([[[9.5]], [[11.5]]]))) < 7
    similarity = structural_similarity(x, y, data_range=4.0, full=True)[1]
    inside = [similarity[i, j] for i in range(20) for j in range(24) if mask[i, j]]
    found = strength.masked_ssim(x, y, mask.astype(np.float32), 4.0)
    assert found == pytest.approx(math.fsum(inside) / len(inside), abs=1e-6)
    assert 0 < found < 0.99
    assert strength.masked_ssim(y, y, mask, 4.0) == pytest.approx(1, abs=1e-6)
    # What happens far outside the mask counts nowhere: the window is 7 pixels wide.
    elsewhere = x.copy()
    elsewhere[:, -1] += 100
    assert strength.masked_ssim(elsewhere, y, mask & (np.arange(24) < 20), 4.0) == strength.masked_ssim(
        x, y, mask & (np.arange(24) < 20), 4.0
    )


CANDIDATES = [0.1, 1.0, 10.0, 100.0]


class Curve:
    """An SSIM curve that remembers where it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, strengths):
        self.asked += [float(s) for s in strengths]
        return np.array([self.function(float(s)) for s in strengths])


# SSIM over lambda: an S in log lambda, 1 - a / lambda, and a step, each crossing 0.95 at `wanted`.
SHAPES = [
    lambda s, wanted: 0.95 + 0.04 * math.tanh(math.log(s / wanted)),
    lambda s, wanted: 1 - 0.05 * wanted / s,
    lambda s, wanted: 0.96 if s >= wanted else 0.40,
]
TRIED = 4 + math.ceil(math.log2(math.log(10) / math.log(1.02))) + 1  # candidates, and one more than bisections


@pytest.mark.parametrize("shape", range(3))
@pytest.mark.parametrize("wanted", [0.11, 0.7, 3.3, 9.99, 64.0, 99.0])
def test_search_finds_the_crossing_of_a_monotone_curve(wanted, shape):
    curve = Curve(lambda s: SHAPES[shape](s, wanted))
    found = strength.smallest_strength(curve, CANDIDATES, 0.95, 0.02)
    assert found.reached
    assert found.monotone
    assert found.ssim == curve.function(found.strength) >= 0.95
    assert wanted <= found.strength <= wanted * 1.02 * (1 + 1e-9)
    assert found.failing < wanted <= found.strength <= found.failing * 1.02 * (1 + 1e-9)
    assert [s for s, _ in found.curve] == sorted(curve.asked)
    assert len(curve.asked) <= (TRIED if shape == 2 else TRIED - 1)
    assert all(value == curve.function(s) for s, value in found.curve)


def test_search_of_a_smooth_curve_takes_half_of_bisections():
    """Each lambda costs the restoration of all slices."""
    tried = []
    for wanted in np.geomspace(0.15, 90, 40):
        curve = Curve(lambda s, wanted=wanted: 1 - 0.05 * (wanted / s) ** 1.5)
        strength.smallest_strength(curve, np.geomspace(0.05, 100, 7), 0.95, 0.02)
        tried.append(len(curve.asked) - 7)
    assert np.mean(tried) < 3.5  # bisection: 6


@pytest.mark.parametrize("wanted", [2e-4, 0.04, 250.0, 9e4])
def test_search_goes_beyond_the_candidates(wanted):
    """Up to a thousand times below the smallest and above the largest; no end of the candidates counts as found."""
    curve = Curve(lambda s: SHAPES[0](s, wanted))
    found = strength.smallest_strength(curve, CANDIDATES, 0.95, 0.02)
    assert found.reached
    assert wanted <= found.strength <= wanted * 1.02 * (1 + 1e-9)
    assert 0 < found.failing < wanted


@pytest.mark.parametrize("value", [0.95, 0.97])
def test_search_where_everything_passes(value):
    curve = Curve(lambda s: value)
    found = strength.smallest_strength(curve, CANDIDATES, 0.95, 0.02)
    assert (found.strength, found.ssim, found.reached, found.failing) == (1e-4, value, True, 0.0)
    assert sorted(curve.asked) == pytest.approx([1e-4, 1e-3, 1e-2, *CANDIDATES])


def test_search_where_nothing_passes():
    curve = Curve({0.1: 0.5, 1: 0.7, 10: 0.9, 100: 0.8, 1e3: 0.8, 1e4: 0.85, 1e5: 0.8}.get)
    found = strength.smallest_strength(curve, CANDIDATES, 0.95, 0.02)
    assert (found.strength, found.ssim, found.reached, found.failing) == (10, 0.9, False, 1e5)
    assert not found.monotone
    assert curve.asked == [*CANDIDATES, 1e3, 1e4, 1e5]


def test_search_skips_a_pass_that_a_larger_lambda_breaks():
    """A dip at 10: lambda must be one from which all larger candidates pass."""
    curve = Curve(lambda s: 0.90 if 5 < s < 20 else 0.96)
    found = strength.smallest_strength(curve, CANDIDATES, 0.95, 0.02)
    assert found.reached
    assert not found.monotone
    assert 20 <= found.strength <= 20 * 1.02 * (1 + 1e-9)


def test_search_of_a_noisy_curve_ends():
    """Rounding, which the sign in TV amplifies, makes SSIM jump: all larger ones tried pass nevertheless."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        curve = Curve(lambda s: 0.95 + 0.01 * math.log(s / 3) + 2e-3 * rng.normal())
        found = strength.smallest_strength(curve, CANDIDATES, 0.95, 0.02)
        assert len(curve.asked) <= TRIED
        assert all(value >= 0.95 for s, value in found.curve if s >= found.strength)
        assert found.strength <= found.failing * 1.02 * (1 + 1e-9)


def test_search_is_json():
    found = strength.smallest_strength(Curve(lambda s: np.float32(s / 100)), np.geomspace(0.1, 100, 4), 0.05, 0.5)
    assert json.loads(json.dumps(found._asdict()))["strength"] == found.strength
