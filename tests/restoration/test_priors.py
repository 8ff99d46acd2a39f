"""Local Gaussian priors against jax.scipy and NumPy on the very draws they made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lgjax import models
from lgjax.models.base import BoundModel
from lgjax.restoration import data_terms, loop, priors, solvers

KEY = jax.random.key(5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Recorder:
    """Networks on 4x4 images that remember what they were called with."""

    def __init__(self):
        self.draws, self.seen = [], []

    @property
    def networks(self) -> BoundModel:
        return BoundModel(samples=self.samples, variance=self.variance)

    def samples(self, x, key, count):
        draws = jnp.sin(x[None] + jax.random.normal(key, (count, *x.shape)))
        self.draws.append(np.asarray(draws))
        return draws

    def variance(self, x):
        self.seen.append(np.asarray(x))
        return x**2 + 0.5


def test_gaussian_gradient_by_autodiff():
    x, mu, sigma2 = normal(5, 4, 1), normal(5, 4, 1, seed=1), normal(5, 4, 1, seed=2) ** 2 + 0.1
    expected = jax.grad(lambda x: jax.scipy.stats.norm.logpdf(x, mu, jnp.sqrt(sigma2)).sum())(x)
    np.testing.assert_allclose(priors.gaussian_gradient(x, mu, sigma2), expected, rtol=1e-5)


@pytest.mark.parametrize("samples", [2, 10])
def test_lg_est_by_numpy(samples):
    recorder, x, floor = Recorder(), normal(4, 4, 1), 0.05
    gradient = priors.local_gaussian_estimated(recorder.networks, samples, floor)(x, KEY).gradient
    (draws,) = recorder.draws
    assert draws.shape == (samples, 4, 4, 1)
    assert len(np.unique(draws[:, 0, 0, 0])) == samples
    draws = draws.astype(np.float64)
    expected = -(x - draws.mean(axis=0)) / (draws.var(axis=0, ddof=1) + floor)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    assert not recorder.seen  # the variance network has no say


@pytest.mark.parametrize("samples", [-1, 0, 1])
def test_lg_est_needs_two_samples(samples):
    with pytest.raises(ValueError, match="at least 2 samples"):
        priors.local_gaussian_estimated(Recorder().networks, samples, 0.1)


@pytest.mark.parametrize("samples", [1, 4])
def test_lg_neural_by_numpy(samples):
    recorder, x = Recorder(), normal(4, 4, 1)
    gradient = priors.local_gaussian_neural(recorder.networks, samples)(x, KEY).gradient
    (draws,), (seen,) = recorder.draws, recorder.seen
    np.testing.assert_array_equal(seen, x)  # at X^i
    expected = -(x - draws.mean(axis=0)) / (x**2 + 0.5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_lg_neural_with_the_variance_kept_from_the_observation():
    recorder, x, y = Recorder(), normal(4, 4, 1), normal(4, 4, 1, seed=1)
    prior = priors.local_gaussian_neural(recorder.networks, 2, observed=y)
    for key in (KEY, jax.random.key(1)):
        gradient = prior(x, key).gradient
        expected = -(x - recorder.draws[-1].mean(axis=0)) / (y**2 + 0.5)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    (seen,) = recorder.seen  # once
    np.testing.assert_array_equal(seen, y)


def test_pixels_beyond_the_deviation_limit_feel_no_prior():
    recorder, x = Recorder(), 3 * normal(4, 4, 1)
    free = np.asarray(priors.local_gaussian_neural(recorder.networks, 1)(x, KEY).gradient)
    limited = np.asarray(priors.local_gaussian_neural(recorder.networks, 1, deviation_limit=1.0)(x, KEY).gradient)
    deviation = np.abs(recorder.draws[0][0] - x) / np.sqrt(x**2 + 0.5)
    assert 0 < (deviation > 1).mean() < 1
    np.testing.assert_array_equal(limited, np.where(deviation > 1, 0, free))


def test_elbo_gradient_by_finite_differences(config, params):
    """Along random directions, central differences of the bound at one draw, in float64."""
    with jax.enable_x64(True):
        to64 = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)  # noqa: E731
        networks = models.from_config(config, config.restore.precision).bind(to64(params))
        rng = np.random.default_rng(0)
        x = rng.normal(size=(16, 16, 1))  # without flat parts, where a kink of the activation may lie on many pixels
        gradient = np.asarray(jax.jit(priors.elbo(networks, 4.0))(x, KEY).gradient)
        bound = jax.jit(networks.elbo)
        for _ in range(5):
            direction, step = rng.normal(size=x.shape), 1e-5
            ends = [float(bound(x + sign * step * direction, KEY)) for sign in (1, -1)]
            assert (gradient * direction).sum() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("name", ["elbo", "est", "neural"])
def test_batch_by_vmap_equals_a_loop(config, params, slices, name):
    networks = models.from_config(config, config.restore.precision).bind(params)
    prior = {
        "elbo": priors.elbo(networks, 4.0),
        "est": priors.local_gaussian_estimated(networks, 3, 1e-3),
        "neural": priors.local_gaussian_neural(networks, 2),
    }[name]
    keys = jax.random.split(KEY, len(slices.y))
    together = jax.jit(jax.vmap(prior))(slices.y, keys)
    single = jax.jit(prior)
    alone = np.stack([single(y, key).gradient for y, key in zip(slices.y, keys, strict=True)])
    np.testing.assert_allclose(together.gradient, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["est", "neural"])
def test_nothing_is_differentiated_through_the_networks(config, params, slices, name):
    bound = models.from_config(config, config.restore.precision).bind(params)
    networks = BoundModel(samples=guarded_samples(bound.samples), variance=forbidden(bound.variance))
    prior = {
        "est": priors.local_gaussian_estimated(networks, 2, 1e-3),
        "neural": priors.local_gaussian_neural(networks, 1),
    }[name]
    with pytest.raises(AssertionError, match="differentiated"):  # the guard works
        jax.eval_shape(jax.grad(lambda x: prior(x, KEY).gradient.sum()), slices.y[0])
    solver = solvers.ascent(optax.adam(1e-2), data_terms.tv)
    options = {"prior": prior, "data_term": data_terms.tv, "solver": solver, "iterations": 2}
    restore = functools.partial(loop.restore, **options)
    x, _ = jax.jit(restore)(slices.y[0], slices.mask[0], KEY, strength=jnp.float32(1.0))
    assert np.isfinite(x).all()


def guarded_samples(samples):
    """Samples of which only the image is differentiable."""
    return lambda x, key, count: forbidden(lambda x: samples(x, key, count))(x)


def forbidden(function):
    guarded = jax.custom_jvp(function)

    @guarded.defjvp
    def jvp(primals, tangents):
        raise AssertionError("a network was differentiated")

    return guarded


@pytest.mark.parametrize("name", ["est", "neural"])
def test_variance_of_the_local_gaussian(name):
    """With the gradient it gives the Gaussian's mean back, except where a pixel feels no prior: there x itself."""
    recorder, x = Recorder(), 3 * normal(4, 4, 1)
    prior = {
        "est": priors.local_gaussian_estimated(recorder.networks, 3, 0.05),
        "neural": priors.local_gaussian_neural(recorder.networks, 3, deviation_limit=1.0),
    }[name]
    near = prior(x, KEY)
    (draws,) = recorder.draws
    mean, variance = draws.mean(axis=0), {"est": draws.var(axis=0, ddof=1) + 0.05, "neural": x**2 + 0.5}[name]
    np.testing.assert_allclose(near.variance, variance, rtol=1e-5)
    beyond = (np.abs(mean - x) > np.sqrt(variance)) & (name == "neural")
    assert beyond.any() == (name == "neural")
    np.testing.assert_allclose(x + near.variance * near.gradient, np.where(beyond, x, mean), rtol=1e-4, atol=1e-4)


def test_elbo_variance_is_the_curvature_of_its_first_term():
    """Where the reconstruction does not follow x, the second derivative of the bound is -1 / variance."""
    weight, target = 3.0, normal(4, 4, 1)
    networks = BoundModel(elbo=lambda x, key: -weight * ((x - target) ** 2).sum())
    x = normal(4, 4, 1, seed=1)
    near = priors.elbo(networks, weight)(x, KEY)
    np.testing.assert_allclose(x + near.variance * near.gradient, target, atol=1e-5)
    curvature = jax.grad(lambda x: priors.elbo(networks, weight)(x, KEY).gradient.sum())(x)
    np.testing.assert_allclose(-1 / near.variance, curvature, rtol=1e-5)
