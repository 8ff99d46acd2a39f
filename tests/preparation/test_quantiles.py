"""Percentiles by sorting against those of NumPy."""

import numpy as np
import pytest

from lgjax.preparation import quantiles

PERCENTS = (0, 0.5, 1, 12.5, 37, 50, 63, 99, 99.8, 100)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 997, 4000])
def test_percentiles_are_those_of_numpy_to_the_bit(size):
    rng = np.random.default_rng(size)
    for values in (rng.normal(size=size).astype(np.float32), rng.integers(0, 9, size).astype(np.int16)):
        expected = np.percentile(values.astype(np.float64), PERCENTS)
        np.testing.assert_array_equal(quantiles.percentiles(values, PERCENTS), expected)
        assert quantiles.median(values) == np.median(values.astype(np.float64))


def test_values_stay_as_they_are():
    values = np.array([[3.0, 1.0], [2.0, 5.0]], np.float32)
    assert quantiles.median(values) == 2.5
    assert values.tolist() == [[3.0, 1.0], [2.0, 5.0]]
