"""The axial view of arrays."""

import numpy as np
import pytest

from lgjax.scans import orientation


@pytest.mark.parametrize("shape", [(7,), (5, 6), (5, 6, 7)])
def test_a_box_holds_all_that_is_true_and_no_more(shape):
    for seed in range(20):
        inside = np.random.default_rng(seed).random(shape) < 2 / np.prod(shape)
        inside.flat[seed % inside.size] = True
        places = np.argwhere(inside)
        wanted = [slice(low, high + 1) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)]
        assert orientation.box(inside) == tuple(wanted)


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 3, 2), (0, 6, 7)])
@pytest.mark.parametrize("turned", [lambda array: array, lambda array: array[::-1, :, ::-1], np.transpose])
def test_picked_values_are_those_of_an_index_in_its_order(shape, turned):
    rng = np.random.default_rng(0)
    values, inside = turned(rng.normal(size=shape).astype(np.float32)), turned(rng.random(shape) < 0.4)
    found = orientation.picked(values, inside)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[inside])
