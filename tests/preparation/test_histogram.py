"""Histogram matching against closed forms and NumPy, and what it must never do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgjax.preparation import histogram
from lgjax.preparation.histogram import Histogram

PERCENTILES = (1.0, 25.0, 50.0, 75.0, 99.0)


def marks(values):
    return histogram.landmarks(np.asarray(values, np.float32), PERCENTILES)


def test_landmarks_are_percentiles_in_any_order():
    values = np.random.default_rng(0).normal(100, 20, 5001).astype(np.float32)
    expected = np.sort(values.astype(np.float64))[[50, 1250, 2500, 3750, 4950]]  # 5000 steps: no interpolation
    np.testing.assert_array_equal(marks(values), expected)
    np.testing.assert_array_equal(marks(values[::-1]), expected)


def test_the_reference_of_one_subject_is_its_own_shape():
    values = np.random.default_rng(1).gamma(3, 10, 4000)
    reference = histogram.learn([marks(values)], PERCENTILES)
    assert reference.values[0] == 0
    assert reference.values[-1] == histogram.SCALE
    change = histogram.transfer(marks(values), reference)
    matched = histogram.apply(change, values)
    slope = histogram.SCALE / (marks(values)[-1] - marks(values)[0])
    middle = (values >= marks(values)[0]) & (values <= marks(values)[-1])
    np.testing.assert_allclose(matched[middle], ((values - marks(values)[0]) * slope)[middle], rtol=1e-4, atol=1e-3)


def test_units_of_the_scanner_do_not_matter():
    """A linear change of a scan changes neither the reference it teaches nor what it is matched to."""
    values = np.random.default_rng(2).gamma(3, 10, 4000).astype(np.float32)
    other = 7 * values + 300
    reference = histogram.learn([marks(values), marks(values**1.1)], PERCENTILES)
    again = histogram.learn([marks(other), marks(values**1.1)], PERCENTILES)
    np.testing.assert_allclose(again.values, reference.values, rtol=1e-5)
    first, second = (histogram.apply(histogram.transfer(marks(v), reference), v) for v in (values, other))
    np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-2)


def test_landmarks_meet_those_of_the_reference():
    rng = np.random.default_rng(3)
    cohort = [marks(rng.gamma(shape, 10, 3000)) for shape in (2, 3, 4)]
    reference = histogram.learn(cohort, PERCENTILES)
    values = rng.gamma(8, 3, 3000)
    matched = histogram.apply(histogram.transfer(marks(values), reference), values)
    np.testing.assert_allclose(marks(matched), reference.values, rtol=1e-3, atol=1e-2)


def test_between_landmarks_it_is_linear_and_beyond_them_clamped():
    reference = Histogram(PERCENTILES, (0.0, 10.0, 50.0, 70.0, 100.0))
    change = histogram.transfer([0, 100, 200, 300, 400], reference)
    values = [0, 50, 150, 400, 500, 600, 1e30, -100, -200, -1e30]
    expected = [0, 5, 30, 100, 125, 150, 150, -25, -50, -50]
    np.testing.assert_allclose(histogram.apply(change, np.array(values)), expected, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=30, max_size=200), st.integers(0, 2**32 - 1))
def test_monotone_finite_and_invertible_whatever_the_histogram(counts, seed):
    """Integers with many ties: landmarks coincide, and the map still orders intensities as they were."""
    values = np.array(counts, np.float32)
    found = marks(values)
    rng = np.random.default_rng(seed)
    reference = Histogram(PERCENTILES, tuple(np.cumsum(rng.uniform(0, 5, 5)).tolist()))
    if found[0] == found[-1]:
        return
    change = histogram.transfer(found, reference)
    line = np.linspace(-5, 20, 101)
    matched = histogram.apply(change, line)
    assert np.isfinite(matched).all()
    assert (np.diff(matched) >= 0).all()
    inner = (line > change.source[0]) & (line < change.source[-1])
    np.testing.assert_allclose(histogram.invert(change, matched)[inner], line[inner], atol=1e-3)


def test_a_bright_lesion_stays_brighter_than_all_healthy_tissue():
    rng = np.random.default_rng(4)
    healthy = rng.normal(100, 10, 9900)
    scan = np.concatenate([healthy, np.full(90, 160.0)])
    change = histogram.transfer(marks(scan), histogram.learn([marks(healthy)], PERCENTILES))
    assert histogram.apply(change, np.array([160.0])) > histogram.apply(change, healthy).max()


def test_a_flat_reference_changes_nothing_into_nan():
    change = histogram.transfer([0, 0, 0, 0, 8], Histogram(PERCENTILES, (0.0, 1.0, 2.0, 3.0, 4.0)))
    assert histogram.apply(change, np.array([4.0])) == pytest.approx(2.0)
