"""Proximal operators against closed forms and against L-BFGS-B on the dual, in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, sparse

from lgjax.models import convolutions
from lgjax.restoration import operators
from lgjax.restoration.data_terms import DATA_TERMS, tv

MASK = np.ones((6, 5, 1), np.float32)
MASK[0], MASK[3, 2], MASK[4:, :2] = 0, 0, 0  # a border, a hole, a corner


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def solve(term, b, sigma2, mask, strength, steps=2000, state=None):
    """D of one call, float32."""
    operator = DATA_TERMS[term].prox(steps)
    state = operator.init(jnp.asarray(b)) if state is None else state
    found, state = jax.jit(operator.apply)(b * mask, sigma2 * mask, jnp.float32(strength), state)
    return np.asarray(found), state


def matrix(shape):
    """G as a sparse matrix: the differences of every pair of neighbours in an image of this shape."""
    size = shape[0] * shape[1]
    number = np.arange(size).reshape(shape[:2])
    pairs = np.concatenate(
        [
            np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1),
            np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1),
        ]
    )
    rows = np.repeat(np.arange(len(pairs)), 2)
    return sparse.csr_matrix((np.tile([-1.0, 1.0], len(pairs)), (rows, pairs.ravel())), (len(pairs), size))


def by_bounded_quasi_newton(b, sigma2, mask, strength):
    """The same minimum from SciPy: L-BFGS-B on the dual box problem of the pixels inside the mask."""
    g = matrix(b.shape)
    s, b = (np.asarray(part, np.float64).ravel() * mask.ravel() for part in (sigma2, b))

    def dual(p):
        d = b - s * (g.T @ p)
        inside = s > 0
        return 0.5 * (d[inside] ** 2 / s[inside]).sum(), -(g @ d)

    found = optimize.minimize(
        dual,
        np.zeros(g.shape[0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-strength, strength)] * g.shape[0],
        options={"maxiter": 20000, "maxfun": 100000, "ftol": 1e-15, "gtol": 1e-9},
    )
    return (b - s * (g.T @ found.x)).reshape(mask.shape)


def objective(d, b, sigma2, mask, strength):
    inside = mask > 0
    squares = ((d - b)[inside].astype(np.float64) ** 2 / (2 * sigma2[inside])).sum()
    return squares + strength * float(tv(jnp.asarray(d), jnp.zeros_like(d)))


@pytest.mark.parametrize("strength", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("spread", [0.0, 1.5])  # of log sigma2: at 1.5 the variances cover three orders of magnitude
def test_total_variation_by_scipy(strength, spread):
    b, sigma2 = normal(6, 5, 1), np.exp(spread * normal(6, 5, 1, seed=1))
    found, _ = solve("tv", b, sigma2, MASK, strength)
    np.testing.assert_allclose(found, by_bounded_quasi_newton(b, sigma2, MASK, strength), atol=2e-3)
    np.testing.assert_array_equal(found[MASK == 0], 0)


def test_no_change_lowers_the_cost():
    """The definition itself, with the data term as the loop uses it."""
    b, sigma2 = normal(6, 5, 1), np.exp(normal(6, 5, 1, seed=1))
    found, _ = solve("tv", b, sigma2, MASK, 0.4)
    best = objective(found, b, sigma2, MASK, 0.4)
    for seed in range(40):
        other = found + 10.0 ** -(seed % 4) * normal(6, 5, 1, seed=seed + 2) * MASK
        assert objective(other.astype(np.float32), b, sigma2, MASK, 0.4) > best - 1e-4


def test_total_variation_of_two_pixels():
    """They approach each other by lambda sigma2 each, and where they would cross they meet in the weighted mean."""
    b, sigma2 = np.array([[[1.0], [-2.0]]], np.float32), np.array([[[0.5], [2.0]]], np.float32)
    mask = np.ones_like(b)
    found, _ = solve("tv", b, sigma2, mask, 0.4)
    np.testing.assert_allclose(found.ravel(), [1.0 - 0.2, -2.0 + 0.8], atol=1e-6)
    found, _ = solve("tv", b, sigma2, mask, 10.0)
    np.testing.assert_allclose(found.ravel(), (1 / 0.5 - 2 / 2.0) / (1 / 0.5 + 1 / 2.0), atol=1e-6)


@pytest.mark.parametrize("term", sorted(DATA_TERMS))
def test_no_strength_and_all_strength(term):
    b, sigma2 = normal(6, 5, 1), np.exp(normal(6, 5, 1, seed=1))
    np.testing.assert_array_equal(solve(term, b, sigma2, MASK, 0.0)[0], b * MASK)
    np.testing.assert_allclose(solve(term, b, sigma2, MASK, 1e3)[0], 0, atol=1e-4)  # the border of the mask is 0


def test_a_constant_is_free_where_the_mask_has_no_border():
    b, sigma2 = normal(6, 5, 1), np.exp(normal(6, 5, 1, seed=1))
    found, _ = solve("tv", b, sigma2, np.ones_like(MASK), 1e3)
    np.testing.assert_allclose(found, (b / sigma2).sum() / (1 / sigma2).sum(), atol=1e-3)


def test_soft_threshold_by_its_definition():
    b, sigma2, strength = 2 * normal(6, 5, 1), np.exp(normal(6, 5, 1, seed=1)), 0.7
    found, _ = solve("l1", b, sigma2, MASK, strength)
    expected = np.sign(b) * np.maximum(np.abs(b) - strength * sigma2, 0) * MASK
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0 < (found[MASK > 0] == 0).mean() < 1  # both branches occur, and what is kept is kept to the bit


def test_a_call_goes_on_where_the_last_one_ended():
    b, sigma2 = normal(6, 5, 1), np.exp(normal(6, 5, 1, seed=1))
    expected, dual = solve("tv", b, sigma2, MASK, 0.4)
    warm, _ = solve("tv", b, sigma2, MASK, 0.4, steps=1, state=dual)
    cold, _ = solve("tv", b, sigma2, MASK, 0.4, steps=1)
    assert np.abs(warm - expected).max() < 1e-4 < np.abs(cold - expected).max()


def test_transposed_differences():
    """<G u, p> = <u, G^T p>."""
    u, dual = normal(6, 5, 1), (normal(5, 5, 1, seed=1), normal(6, 4, 1, seed=2))
    forward = sum(float((a * b).sum()) for a, b in zip(operators.differences(u), dual, strict=True))
    assert forward == pytest.approx(float((u * operators.transposed_differences(dual)).sum()), rel=1e-5)


def on(kind, steps):
    """One call in the forms of a kind of device, lowered, and what the call is given."""
    b, sigma2 = normal(6, 5, 1), np.exp(normal(6, 5, 1, seed=1))
    operator = tv.prox(steps)
    given = b * MASK, sigma2 * MASK, jnp.float32(0.4), operator.init(jnp.asarray(b))
    with convolutions.forms(kind):
        return jax.jit(operator.apply).lower(*given), given


def turns(kind, steps):
    """How often the loop of one call turns; 0: there is none."""
    loop = on(kind, steps)[0].as_text().partition("stablehlo.while")[2]
    return max(map(int, re.findall(r"stablehlo.constant dense<(\d+)> : tensor<i32>", loop)), default=0)


@pytest.mark.parametrize(("steps", "on_gpu"), [(3, 0), (20, 0), (45, 2)])
def test_a_gpu_makes_many_steps_of_the_dual_before_its_loop_turns(steps, on_gpu):
    assert (turns("NVIDIA H200", steps), turns("cpu", steps)) == (on_gpu, steps)


def test_steps_before_the_loop_turns_are_those_of_the_loop(monkeypatch):
    """D differs by rounding alone: after two turns of three steps and one step more."""
    monkeypatch.setattr(operators, "UNROLLED", 3)
    assert turns("NVIDIA H200", 7) == 2
    found, expected = (lowered.compile()(*given)[0] for lowered, given in (on("NVIDIA H200", 7), on("cpu", 7)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
