"""Local Gaussian priors against jax.scipy and NumPy on the very draws they made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lgjax import data_terms, models, priors, restoration
from lgjax.models.vae import Posterior
from lgjax.priors import Networks

KEY = jax.random.key(5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Recorder:
    """Networks on 4x4 images with a 2x2 latent that remember what they were called with."""

    def __init__(self):
        self.encoded, self.draws, self.seen = [], [], []

    @property
    def networks(self) -> Networks:
        return Networks(self.encode, self.decode, self.variance)

    def encode(self, x):
        self.encoded.append(np.asarray(x))
        pooled = x.reshape(x.shape[0], 2, 2, 2, 2, 1).mean(axis=(2, 4))
        return Posterior(pooled, pooled - 1.0)

    def decode(self, z):
        image = jnp.repeat(jnp.repeat(jnp.sin(z), 2, axis=1), 2, axis=2)
        self.draws.append(np.asarray(image))
        return image

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
    gradient = priors.local_gaussian_estimated(recorder.networks, samples, floor)(x, KEY)
    (draws,) = recorder.draws
    assert draws.shape == (samples, 4, 4, 1)
    assert len(np.unique(draws[:, 0, 0, 0])) == samples
    draws = draws.astype(np.float64)
    expected = -(x - draws.mean(axis=0)) / (draws.var(axis=0, ddof=1) + floor)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(recorder.encoded[0][0], x)
    assert not recorder.seen  # the variance network has no say


@pytest.mark.parametrize("samples", [-1, 0, 1])
def test_lg_est_needs_two_samples(samples):
    with pytest.raises(ValueError, match="at least 2 samples"):
        priors.local_gaussian_estimated(Recorder().networks, samples, 0.1)


@pytest.mark.parametrize("samples", [1, 4])
def test_lg_neural_by_numpy(samples):
    recorder, x = Recorder(), normal(4, 4, 1)
    gradient = priors.local_gaussian_neural(recorder.networks, samples)(x, KEY)
    (draws,), (seen,) = recorder.draws, recorder.seen
    np.testing.assert_array_equal(seen, x[None])  # at X^i
    expected = -(x - draws.mean(axis=0)) / (x**2 + 0.5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_draws_come_from_the_posterior():
    recorder = Recorder()
    networks = recorder.networks._replace(decode=lambda z: z)
    x, samples = normal(4, 4, 1), 20_000
    posterior = recorder.encode(x[None])
    z = np.asarray(priors.decoder_samples(networks, x, KEY, samples))
    sigma = np.exp(0.5 * posterior.log_variance[0])
    # Four standard errors of a mean and of a standard deviation.
    assert (np.abs(z.mean(axis=0) - posterior.mean[0]) < 4 * sigma / np.sqrt(samples)).all()
    assert (np.abs(z.std(axis=0) / sigma - 1) < 4 / np.sqrt(2 * samples)).all()
    # Pixels of a latent are drawn independently of each other.
    assert np.abs(np.corrcoef(z.reshape(samples, 4).T) - np.eye(4)).max() < 4 / np.sqrt(samples)


def test_reconstruction_has_no_noise():
    recorder, x = Recorder(), normal(4, 4, 1)
    found = priors.reconstruct(recorder.networks, x)
    pooled = x.reshape(2, 2, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found[..., 0], np.kron(np.sin(pooled), np.ones((2, 2))), rtol=1e-5)


@pytest.mark.parametrize("name", ["est", "neural"])
def test_batch_by_vmap_equals_a_loop(config, params, slices, name):
    networks = models.bind(config.model, params)
    prior = {
        "est": priors.local_gaussian_estimated(networks, 3, 1e-3),
        "neural": priors.local_gaussian_neural(networks, 2),
    }[name]
    keys = jax.random.split(KEY, len(slices.y))
    together = jax.jit(jax.vmap(prior))(slices.y, keys)
    single = jax.jit(prior)
    alone = np.stack([single(y, key) for y, key in zip(slices.y, keys, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["est", "neural"])
def test_nothing_is_differentiated_through_the_networks(config, params, slices, name):
    networks = Networks(*(forbidden(function) for function in models.bind(config.model, params)))
    prior = {
        "est": priors.local_gaussian_estimated(networks, 2, 1e-3),
        "neural": priors.local_gaussian_neural(networks, 1),
    }[name]
    with pytest.raises(AssertionError, match="differentiated"):  # the guard works
        jax.grad(lambda x: prior(x, KEY).sum())(slices.y[0])
    x, _ = restoration.restore(
        slices.y[0],
        slices.mask[0],
        KEY,
        prior=prior,
        data_term=data_terms.tv,
        optimizer=restoration.optimizer("adam", 1e-2),
        strength=jnp.float32(1.0),
        iterations=2,
    )
    assert np.isfinite(x).all()


def forbidden(function):
    guarded = jax.custom_jvp(function)

    @guarded.defjvp
    def jvp(primals, tangents):
        raise AssertionError("a network was differentiated")

    return guarded
