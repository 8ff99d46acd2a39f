"""What is made of the seconds of repeated runs."""

import numpy as np
import pytest

from lgjax.speed import times
from lgjax.speed.times import Runs


def test_spread_is_median_and_quartiles():
    assert times.spread([5.0, 1.0, 4.0, 2.0, 3.0]) == (3.0, 2.0, 4.0)
    assert times.spread([7.0]) == (7.0, 7.0, 7.0)


def test_seconds_per_iteration_without_what_a_run_does_once():
    fixed = np.array([0.5, 3.0, 0.1])  # of each pair of runs
    slopes = np.array([0.01, 0.02, 0.04])
    short, long = (Runs(n, list(fixed + n * slopes)) for n in (2, 50))
    np.testing.assert_allclose(times.per_iteration(short, long), slopes)
    line = Runs(50, [0.5 + 50 * 0.01] * 3)
    assert times.run_seconds(line, 0.01, 800) == pytest.approx(0.5 + 800 * 0.01)
    assert times.run_seconds(line, 0.01, 50) == pytest.approx(1.0)
    with pytest.raises(ValueError):
        times.per_iteration(short, Runs(50, [1.0]))


def test_count_for():
    assert times.count_for(2.0, 0.1, 8, 800) == 20
    assert times.count_for(2.0, 1e-4, 8, 800) == 800
    assert times.count_for(2.0, 5.0, 8, 800) == 8
    assert times.count_for(2.0, 0.1, 8, 4) == 8


def test_ratio_of_what_is_known():
    assert times.ratio(0.098, 0.0004) == pytest.approx(245)
    assert times.ratio(None, 1.0) is None
    assert times.ratio(1.0, None) is None
    assert times.ratio(1.0, -1e-6) is None  # a slope lost in noise
