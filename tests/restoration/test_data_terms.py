"""Data terms against NumPy loops and closed forms of their gradients."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from lgjax.restoration.data_terms import DATA_TERMS, l1, tv


def tv_by_loops(x, y) -> float:
    change, total = (x - y)[..., 0].astype(np.float64), 0.0
    height, width = change.shape
    for i in range(height):
        for j in range(width):
            total += abs(change[i + 1, j] - change[i, j]) if i + 1 < height else 0.0
            total += abs(change[i, j + 1] - change[i, j]) if j + 1 < width else 0.0
    return total


def tv_gradient(x, y):
    """sign of the difference to each existing neighbour, summed: the derivative of |a - b| in a is sign(a - b)."""
    change = (x - y)[..., 0]
    result = np.zeros_like(change)
    height, width = change.shape
    for i in range(height):
        for j in range(width):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < height and 0 <= m < width:
                    result[i, j] += np.sign(change[i, j] - change[k, m])
    return result[..., None]


def images(height=7, width=9, seed=0):
    """X and Y whose changes X - Y are all different, at least 0.1 apart: no kink within reach."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(height, width, 1)).astype(np.float32)
    change = 0.1 * (rng.permutation(height * width) - height * width // 2 + 0.5)
    return y + change.reshape(y.shape).astype(np.float32), y


@pytest.mark.parametrize("shape", [(7, 9), (1, 5), (5, 1), (16, 16)])
def test_values(shape):
    x, y = images(*shape)
    np.testing.assert_allclose(tv(x, y), tv_by_loops(x, y), rtol=1e-5)
    np.testing.assert_allclose(l1(x, y), np.abs(x.astype(np.float64) - y).sum(), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(DATA_TERMS))
def test_gradient_by_finite_differences(name):
    x, y = images()
    # Piecewise linear: central differences are exact up to float32 rounding of a sum near 200, divided by eps.
    cost = jax.jit(lambda x: DATA_TERMS[name](x, y))
    check_grads(cost, (x,), order=1, modes=["rev"], eps=2e-2, atol=1e-2, rtol=1e-2)


def test_gradients_in_closed_form_with_ties():
    rng = np.random.default_rng(1)
    x, y = (rng.integers(-1, 2, (8, 6, 1)).astype(np.float32) for _ in range(2))
    assert (x == y).any()
    np.testing.assert_array_equal(jax.jit(jax.grad(tv))(x, y), tv_gradient(x, y))
    np.testing.assert_array_equal(jax.jit(jax.grad(l1))(x, y), np.sign(x - y))


@pytest.mark.parametrize("name", sorted(DATA_TERMS))
def test_nothing_at_the_observation(name):
    _, y = images()
    value, gradient = jax.jit(jax.value_and_grad(DATA_TERMS[name]))(y, y)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(y))


def test_tv_ignores_a_constant_change_and_l1_does_not():
    _, y = images()
    y = np.round(y)  # integers: X - Y is exact
    assert tv(y + 3, y) == 0
    assert l1(y + 3, y) == 3 * y.size


def test_tv_does_not_wrap_around():
    height, width = 5, 4
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    zero = np.zeros((height, width, 1), np.float32)
    assert tv(rows[..., None], zero) == (height - 1) * width
    assert tv(columns[..., None], zero) == height * (width - 1)
    corner = zero.copy()
    corner[-1, -1] = 1
    assert tv(corner, zero) == 2  # two neighbours, not four
