"""Slices and networks that stand for real ones in a benchmark."""

import jax
import numpy as np
import pytest
from conftest import both, shrunk

from configs import bench as settings
from lgjax import models
from lgjax.preparation.slices import BACKGROUND
from lgjax.speed import synthetic
from lgjax.training import step


def test_slices_look_like_brains():
    y, mask, index = synthetic.brain_like(seed=1, count=3, height=128, width=96)
    assert y.shape == mask.shape == (3, 128, 96, 1)
    assert y.dtype == mask.dtype == np.float32
    assert (y[mask == 0] == BACKGROUND).all()
    np.testing.assert_allclose(mask.mean(axis=(1, 2, 3)), np.pi / 4 * np.prod(synthetic.AXES), rtol=0.05)
    assert abs(y[mask > 0].mean()) < 0.1
    assert y[mask > 0].std() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(index, [0, 1, 2])
    np.testing.assert_array_equal(synthetic.brain_like(1, 3, 128, 96).y, y)
    assert (synthetic.brain_like(2, 3, 128, 96).y != y).any()


@pytest.mark.parametrize("name", list(settings.EXPERIMENTS))
def test_random_states_are_those_of_training(name):
    made = both(shrunk(name))
    state = synthetic.random_state(*made)
    assert jax.eval_shape(lambda: state) == step.state_shapes(*made)
    kernels = [leaf for leaf in jax.tree.leaves(models.freeze(state.variables)) if leaf.ndim > 1]
    assert all(np.isfinite(kernel).all() and np.asarray(kernel).std() > 0 for kernel in kernels)
