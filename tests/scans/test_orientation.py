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
