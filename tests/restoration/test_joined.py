"""Total variation of volumes and products of experts, against SciPy, closed forms and the same of slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import optimize, sparse

from lgjax.restoration import data_terms, loop, operators, priors, solvers

SHAPE = (4, 6, 5, 1)
ACROSS = np.array([2.0, 0.5, 1.0], np.float32)
MASK = np.ones(SHAPE, np.float32)
MASK[:, 0], MASK[2, 3, 2], MASK[0, 4:, :2] = 0, 0, 0  # a border, a hole, a corner of one slice


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def solve(b, sigma2, mask, strength, across=ACROSS, steps=1500):
    """D of one call, float32."""
    operator = data_terms.joined(across).prox(steps)
    found, _ = jax.jit(operator.apply)(b * mask, sigma2 * mask, jnp.float32(strength), operator.init(jnp.asarray(b)))
    return np.asarray(found)


def matrix(shape, across):
    """G as a sparse matrix, a row a pair of neighbours, by NumPy's index arithmetic."""
    number = np.arange(np.prod(shape)).reshape(shape[:3])
    rows = [(number[:, :-1], number[:, 1:], 1.0), (number[:, :, :-1], number[:, :, 1:], 1.0)]
    rows += [(number[k], number[k + 1], float(weight)) for k, weight in enumerate(across)]
    first, second = (np.concatenate([pair[i].ravel() for pair in rows]) for i in (0, 1))
    weight = np.concatenate([np.full(pair[0].size, pair[2]) for pair in rows])
    place = np.arange(len(weight))
    parts = [sparse.csr_array((sign * weight, (place, at)), (len(weight), number.size)) for sign, at in
             ((-1, first), (1, second))]  # fmt: skip
    return parts[0] + parts[1]


def by_bounded_quasi_newton(b, sigma2, mask, strength, across):
    """The same minimum from SciPy: L-BFGS-B on the dual box problem, in float64."""
    g = matrix(b.shape, across)
    s, b = (np.asarray(part, np.float64).ravel() * mask.ravel() for part in (sigma2, b))

    def dual(p):
        d = b - s * (g.T @ p)
        inside = s > 0
        return 0.5 * (d[inside] ** 2 / s[inside]).sum(), -(g @ d)

    options = {"maxiter": 20000, "maxfun": 100000, "ftol": 1e-16, "gtol": 1e-10}
    bounds = [(-strength, strength)] * g.shape[0]
    found = optimize.minimize(dual, np.zeros(g.shape[0]), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return (b - s * (g.T @ found.x)).reshape(mask.shape)


@pytest.mark.parametrize("strength", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("spread", [0.0, 1.0])  # of log sigma2
def test_total_variation_of_a_volume_by_scipy(strength, spread):
    b, sigma2 = normal(*SHAPE), np.exp(spread * normal(*SHAPE, seed=1))
    found = solve(b, sigma2, MASK, strength)
    np.testing.assert_allclose(found, by_bounded_quasi_newton(b, sigma2, MASK, strength, ACROSS), atol=1e-4)
    np.testing.assert_array_equal(found[MASK == 0], 0)


def test_slices_that_nothing_joins_are_alone():
    """With weights 0, each slice of a volume is what the operator of slices makes of it, at any number of steps."""
    b, sigma2 = normal(*SHAPE), np.exp(normal(*SHAPE, seed=1))
    for steps in (1, 7, 60):
        found = solve(b, sigma2, MASK, 0.4, np.zeros(3, np.float32), steps)
        operator = operators.of_total_variation(steps)
        apply = jax.jit(operator.apply)
        for k in range(4):
            state = operator.init(jnp.asarray(b[k]))
            alone, _ = apply(b[k] * MASK[k], sigma2[k] * MASK[k], jnp.float32(0.4), state)
            np.testing.assert_allclose(found[k], alone, atol=1e-6)


def test_an_axis_has_no_name():
    """With weights 1, a volume turned on another axis has the same solution, turned."""
    b, sigma2, ones = normal(*SHAPE), np.exp(normal(*SHAPE, seed=1)), np.ones(3, np.float32)
    turned = [np.moveaxis(part, (0, 1, 2), (1, 2, 0)) for part in (b, sigma2, MASK)]
    found = solve(*turned, 0.4, np.ones(turned[0].shape[0] - 1, np.float32))
    np.testing.assert_allclose(np.moveaxis(found, (1, 2, 0), (0, 1, 2)), solve(b, sigma2, MASK, 0.4, ones), atol=1e-4)


def test_transposed_differences_of_a_volume():
    """<G u, p> = <u, G^T p>."""
    u = normal(*SHAPE)
    forward = jax.jit(operators.differences)(u, ACROSS)
    dual = tuple(normal(*part.shape, seed=i) for i, part in enumerate(forward))
    inner = sum(float((np.asarray(a) * b).sum()) for a, b in zip(forward, dual, strict=True))
    back = np.asarray(jax.jit(operators.transposed_differences)(dual, ACROSS))
    assert inner == pytest.approx(float((u * back).sum()), rel=1e-5)


def test_cost_by_its_matrix():
    x, y = normal(*SHAPE), normal(*SHAPE, seed=1)
    expected = np.abs(matrix(SHAPE, ACROSS) @ (x - y).astype(np.float64).ravel()).sum()
    assert float(data_terms.joined(ACROSS)(x, y)) == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_cost_by_finite_differences():
    change = 0.1 * (np.random.default_rng(0).permutation(120) - 59.5).reshape(SHAPE)  # no kink within reach
    y = normal(*SHAPE)
    x = jnp.asarray(y + change, jnp.float32)
    cost = jax.jit(lambda x: data_terms.joined(ACROSS)(x, y))
    check_grads(cost, (x,), order=1, modes=["rev"], eps=1e-2, atol=0.05, rtol=0.05)


def restore(y, prior, strength, solver, across=ACROSS, iterations=1):
    """A volume by the product's loop."""
    term = data_terms.joined(across)
    keys = loop.slice_keys(0, jnp.arange(len(y)))
    options = {"data_term": term, "solver": solver(term), "strength": jnp.float32(strength), "iterations": iterations}
    return jax.jit(lambda: loop.restore(jnp.asarray(y), jnp.asarray(MASK), keys, prior=prior, **options))()


def to_the_mode(term):
    return solvers.proximal(term, float("inf"), 1, 1500)


def test_one_step_ends_at_the_mode():
    """The Gaussian and TV, by SciPy; a second step stays."""
    y, mu, variance = (normal(*SHAPE, seed=seed) for seed in range(3))
    variance = np.exp(variance)
    x, _ = restore(y, priors.gaussian(mu, variance), 0.4, to_the_mode)
    expected = y + by_bounded_quasi_newton(mu - y, variance, MASK, 0.4, ACROSS)
    np.testing.assert_allclose(x, expected, atol=1e-4)


def test_the_product_of_two_gaussians():
    """Mean and variance in closed form, and the mode that one proximal step finds without a data term."""
    y, first, second = (normal(*SHAPE, seed=seed) for seed in range(3))
    v1, v2 = (np.exp(normal(*SHAPE, seed=seed)) for seed in (3, 4))
    prior = priors.product(priors.gaussian(first, v1), priors.gaussian(second, v2))
    near = prior(y, None)
    variance = v1 * v2 / (v1 + v2)
    mean = (first * v2 + second * v1) / (v1 + v2)
    np.testing.assert_allclose(near.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(y + near.variance * near.gradient, mean, rtol=1e-4, atol=1e-5)
    x, _ = restore(y, prior, 0.0, to_the_mode)
    np.testing.assert_allclose(x, np.where(MASK > 0, mean, y), rtol=1e-4, atol=1e-5)


def test_an_infinite_variance_says_nothing():
    y, first, second = (normal(*SHAPE, seed=seed) for seed in range(3))
    one, nothing = np.full(SHAPE, 0.5, np.float32), np.full(SHAPE, np.inf, np.float32)
    for prior in (
        priors.product(priors.gaussian(first, one), priors.gaussian(second, nothing)),
        priors.beside(priors.gaussian(first, one), second, nothing),
    ):
        near = prior(y, None)
        np.testing.assert_allclose(near.variance, one, rtol=1e-6)
        np.testing.assert_allclose(near.gradient, -(y - first) / one, rtol=1e-5)


def test_the_mirror_is_trusted_less_where_both_sides_are_ill():
    """Beyond two of its standard deviations, its variance grows with the squared distance of the two means."""
    y, first, second = (normal(*SHAPE, seed=seed) for seed in range(3))
    v1, v2 = np.full(SHAPE, 0.5, np.float32), np.full(SHAPE, 0.2, np.float32)
    near = priors.beside(priors.gaussian(first, v1), second, v2)(y, None)
    far = np.abs(second - first) > 2 * np.sqrt(v2)
    assert 0.2 < far.mean() < 0.8
    wide = np.where(far, (second - first) ** 2 / 4, v2)
    np.testing.assert_allclose(near.variance, 1 / (1 / v1 + 1 / wide), rtol=1e-4)
    np.testing.assert_allclose(near.gradient, -(y - first) / v1 - (y - second) / wide, rtol=1e-4, atol=1e-5)


def test_adam_comes_to_the_same_mode():
    y, mu = normal(*SHAPE), normal(*SHAPE, seed=1)
    prior = priors.gaussian(mu, np.ones(SHAPE, np.float32))
    slow, _ = restore(y, prior, 0.3, lambda term: solvers.adam(2e-3, term), iterations=3000)
    fast, _ = restore(y, prior, 0.3, to_the_mode)
    np.testing.assert_allclose(slow, fast, atol=0.03)
