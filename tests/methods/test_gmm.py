"""The Gaussian mixture against scikit-learn, NumPy and closed forms, and its promises on padding and outliers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

from lgjax.methods import gmm
from lgjax.methods.gmm import Mixture

TISSUES = Mixture(np.array([0.5, 0.3, 0.2]), np.array([-1.0, 0.2, 2.0]), np.array([0.09, 0.04, 0.25]))


def draw(n, seed=0):
    """Values of a known mixture and their classes, both [n]."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, n, p=TISSUES.weights)
    return rng.normal(TISSUES.means[label], np.sqrt(TISSUES.variances[label])).astype(np.float32), label


def nothing_known(values, classes=3):
    """Priors of an atlas that knows nothing, [K, n]."""
    return np.ones((classes, len(values)), np.float32)


def fit(values, mask=None, priors=None, **settings):
    mask = np.ones_like(values) if mask is None else mask
    priors = nothing_known(values) if priors is None else priors
    return jax.device_get(fitting(**settings)(values, mask, priors))


@functools.cache
def fitting(**settings):
    """A compiled fit."""
    return jax.jit(functools.partial(gmm.fit, **settings))


initial, distance = jax.jit(gmm.initial, static_argnums=2), jax.jit(gmm.distance)


def check(actual, desired, **tolerance):
    for a, b in zip(actual, desired, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("iterations", [1, 100])
def test_plain_em_is_that_of_scikit_learn(iterations):
    values, _ = draw(3000)
    start = jax.device_get(initial(values, np.ones_like(values), 3))
    oracle = GaussianMixture(
        3,
        tol=0,
        reg_covar=0,
        max_iter=iterations,
        weights_init=np.full(3, 1 / 3),
        means_init=start.means[:, None].astype(float),
        precisions_init=1 / start.variances[:, None, None].astype(float),
    )
    oracle.fit(values[:, None].astype(float))
    expected = oracle.weights_, oracle.means_[:, 0], oracle.covariances_[:, 0, 0]
    check(fit(values, kappa=math.inf, iterations=iterations), expected, rtol=1e-4, atol=1e-5)


def test_start_is_a_cut_into_equal_parts():
    values = np.random.default_rng(0).permutation(np.arange(9, dtype=np.float32))
    mixture = initial(np.append(values, [50, -50]), np.append(np.ones(9, np.float32), [0, 0]), 3)
    check(mixture, ([1 / 3] * 3, [1, 4, 7], [np.var(values) / 9] * 3), rtol=1e-6)


def test_padding_and_background_count_nowhere():
    values, _ = draw(1000)
    rng = np.random.default_rng(1)
    where = np.sort(rng.choice(1700, 1000, replace=False))
    padded, mask = rng.normal(-3.5, 50, 1700).astype(np.float32), np.zeros(1700, np.float32)
    padded[where], mask[where] = values, 1
    # Sums of other lengths round differently.
    check(fit(padded, mask, iterations=50), fit(values, iterations=50), rtol=1e-4, atol=1e-5)


def test_vmap_over_volumes():
    values = np.stack([draw(800, seed)[0] for seed in range(3)])
    mask = (np.arange(800)[None] < np.array([[800], [500], [0]])).astype(np.float32)
    priors = np.ones((3, 3, 800), np.float32)
    together = jax.jit(jax.vmap(functools.partial(gmm.fit, iterations=30)))(values, mask, priors)
    for i in range(3):
        check((part[i] for part in together), fit(values[i], mask[i], iterations=30), rtol=1e-4, atol=1e-5)


def test_outliers_do_not_move_robust_classes():
    values, _ = draw(20_000)
    values[:1000] = np.random.default_rng(1).uniform(5, 12, 1000)  # 5 %, brighter than any tissue
    robust, plain = fit(values, iterations=200), fit(values, kappa=math.inf, iterations=200)
    np.testing.assert_allclose(robust.means, TISSUES.means, atol=0.05)
    np.testing.assert_allclose(robust.weights, TISSUES.weights, atol=0.05)
    np.testing.assert_allclose(np.sqrt(robust.variances), np.sqrt(TISSUES.variances), rtol=0.1)
    assert np.abs(plain.means - TISSUES.means).max() > 0.5


def test_typicality_narrows_a_normal_class_by_what_the_docstring_says():
    quantiles = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
    mixture = fit(quantiles, priors=nothing_known(quantiles, 1))
    np.testing.assert_allclose(np.sqrt(mixture.variances), 0.964, atol=2e-3)
    np.testing.assert_allclose(mixture.means, 0, atol=1e-4)


def em_in_numpy(values, priors, kappa, mixture, iterations):
    """Van Leemput's EM with weights of an atlas's priors [K, n], voxel by voxel and class by class, float64."""
    weights, means, variances = (np.array(part, float) for part in mixture)
    classes = range(len(means))
    for _ in range(iterations):
        counts, offered = np.zeros((2, len(values), len(means)))
        for i, y in enumerate(values.astype(float)):
            density = [stats.norm.pdf(y, means[k], np.sqrt(variances[k])) for k in classes]
            evidence = sum(weights[k] * priors[k, i] * density[k] for k in classes)
            for k in classes:
                limit = np.exp(-(kappa**2) / 2) / np.sqrt(2 * np.pi * variances[k])
                belief = weights[k] * priors[k, i] * density[k] / evidence
                counts[i, k] = belief * density[k] / (density[k] + limit)
            for k in classes:
                offered[i, k] = counts[i].sum() * priors[k, i] / sum(weights[j] * priors[j, i] for j in classes)
        weights, means = counts.sum(0) / offered.sum(0), (counts * values[:, None]).sum(0) / counts.sum(0)
        weights = weights / weights.sum()
        variances = (counts * (values[:, None] - means) ** 2).sum(0) / counts.sum(0)
    return weights, means, variances


@pytest.mark.parametrize("atlas", [False, True])
def test_robust_em_by_numpy(atlas):
    kappa = 2.5
    values, _ = draw(120)
    priors = nothing_known(values)
    if atlas:
        priors = np.random.default_rng(1).uniform(0, 1, priors.shape).astype(np.float32)
        priors[2, :60] = 0  # half of the voxels cannot be of the last class
    start = initial(values, np.ones_like(values), 3)
    expected = em_in_numpy(values, priors, kappa, start, 4)
    check(fit(values, priors=priors, kappa=kappa, iterations=4), expected, rtol=1e-4, atol=1e-5)


def test_priors_that_are_equal_everywhere_are_none():
    values, _ = draw(500)
    check(fit(values, priors=nothing_known(values) / 3, iterations=20), fit(values, iterations=20), rtol=1e-4)


def test_a_voxel_is_of_no_class_that_its_priors_exclude():
    """Bright voxels where the atlas has no CSF leave the class of CSF alone, and are far from all classes."""
    values = np.concatenate([draw(2000)[0], np.full(400, 3.0, np.float32)])
    priors = nothing_known(values)
    priors[2, 2000:] = 0
    mixture = fit(values, priors=priors)
    check(mixture, fit(values[:2000]), rtol=0.02)
    others = [abs(3 - mixture.means[k]) / np.sqrt(mixture.variances[k]) for k in range(2)]
    np.testing.assert_allclose(distance(values, priors, mixture)[2000:], min(others), rtol=1e-5)


@pytest.mark.parametrize("values", [np.zeros(50), np.repeat([-1.0, 1.0], 25), np.zeros(0)])
def test_degenerate_volumes(values):
    """One intensity, fewer intensities than classes, no brain."""
    padded, mask = np.full(60, -3.5, np.float32), np.zeros(60, np.float32)
    padded[: len(values)], mask[: len(values)] = values, 1
    mixture = fit(padded, mask)
    assert all(np.isfinite(part).all() for part in mixture)
    assert (mixture.variances >= np.float32(gmm.VARIANCE_FLOOR)).all()
    found = distance(padded, nothing_known(padded), mixture)[: len(values)]
    np.testing.assert_allclose(found, 0, atol=0.1)


def test_distance_to_the_nearest_class():
    mixture = Mixture(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.0, 4.0, 9.0]), jnp.array([1.0, 0.25, 1.0]))
    values = jnp.array([-2.0, 0.5, 2.5, 3.5, 4.0, 9.0])  # nobody is of the third class
    np.testing.assert_allclose(distance(values, jnp.ones((3, 6)), mixture), [2, 0.5, 2.5, 1, 0, 9], rtol=1e-6)
    priors = jnp.array([[0.9], [0.1], [0.0]]) * jnp.ones((3, 6))  # to be of the second class costs 2 log 9
    costly = [np.hypot(3, np.sqrt(2 * np.log(9))), np.hypot(1, np.sqrt(2 * np.log(9))), np.sqrt(2 * np.log(9)), 9]
    expected = [2, 0.5, 2.5, min(3.5, costly[1]), min(4, costly[2]), 9]
    np.testing.assert_allclose(distance(values, priors, mixture), expected, rtol=1e-6)
