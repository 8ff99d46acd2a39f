"""The Gaussian mixture VAE: every term of its bound against SciPy and Monte Carlo, its gradient, its draws."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import stats

from lgjax import models
from lgjax.models import gmvae, vae
from lgjax.models.gmvae import Clusters
from lgjax.models.vae import Posterior

K, CHANNELS = 3, 2


def settings():
    """The config of a mixture VAE of one block for 8x8 slices: 4x4x2 latents, three clusters."""
    return ml_collections.ConfigDict(
        {
            "data": {"height": 8, "width": 8},
            "train": {"precision": "float32"},
            "model": {
                "name": "gmvae",
                "channels": (4,),
                "latent_channels": CHANNELS,
                "w_channels": 2,
                "clusters": K,
                "prior_channels": 8,
                "cluster_free_nats": 0.5,
                "variance_channels": (4,),
                "variance_target": "likelihood",
                "variance_floor": 1e-3,
                "reconstruction_weight": 2.0,
            },
        }
    )


@pytest.fixture
def config():
    """The config, for a test to change."""
    return settings()


@pytest.fixture(scope="module")
def variables():
    return jax.jit(models.from_config(settings(), "float32").init)(jax.random.key(0))


@pytest.fixture(scope="module")
def params(variables):
    return jax.jit(models.freeze)(variables)


def slices(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 1)).astype(np.float32)


def densities(positions=2, seed=0):
    """A posterior, clusters and a draw z for one image of 1 x positions latents, arrays of float64."""
    rng = np.random.default_rng(seed)
    shape, mixture = (1, 1, positions, CHANNELS), (1, 1, positions, K, CHANNELS)
    posterior = Posterior(rng.normal(size=shape), rng.uniform(-1.5, 0.5, shape))
    clusters = Clusters(rng.normal(size=mixture), rng.uniform(-1.0, 1.0, mixture))
    return posterior, clusters, rng.normal(size=shape)


def bayes(z, clusters):
    """P(c|z, w) by SciPy, [..., K]; z broadcasts against the clusters."""
    scale = np.exp(0.5 * clusters.log_variance)
    likelihood = stats.norm.pdf(z[..., None, :], clusters.mean, scale).prod(axis=-1)
    return likelihood / likelihood.sum(axis=-1, keepdims=True)


def test_responsibilities_are_bayes_rule():
    _, clusters, z = densities(positions=5)
    found = np.exp(gmvae.log_responsibilities(jnp.asarray(z), Clusters(*map(jnp.asarray, clusters))))
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found, bayes(z, clusters), rtol=1e-4)


def test_responsibilities_and_their_gradient_are_finite_far_from_every_cluster():
    _, clusters, z = densities()
    clusters = Clusters(*map(jnp.asarray, clusters))

    def value(z):
        return gmvae.kl_clusters(gmvae.log_responsibilities(z, clusters), 0.0).sum()

    at, gradient = jax.jit(jax.value_and_grad(value))(jnp.asarray(z) + 1e3)
    assert np.isclose(at, 2 * np.log(K), rtol=1e-4)
    assert np.isfinite(gradient).all()


def test_kl_of_z_against_monte_carlo():
    posterior, clusters, z = densities()
    weights = bayes(z, clusters)
    draws = stats.norm.rvs(
        posterior.mean, np.exp(0.5 * posterior.log_variance), (200_000, *z.shape), random_state=np.random.default_rng(1)
    )
    log_q = stats.norm.logpdf(draws, posterior.mean, np.exp(0.5 * posterior.log_variance)).sum(axis=-1)
    expected = 0.0
    for k in range(K):
        log_p = stats.norm.logpdf(draws, clusters.mean[..., k, :], np.exp(0.5 * clusters.log_variance[..., k, :]))
        expected += (weights[..., k] * (log_q - log_p.sum(axis=-1)).mean(axis=0)).sum()
    posterior, clusters = Posterior(*map(jnp.asarray, posterior)), Clusters(*map(jnp.asarray, clusters))
    found = gmvae.kl_to_clusters(posterior, clusters, jnp.log(weights))
    assert found.shape == (1,)
    assert np.isclose(found[0], expected, rtol=0.02)  # ten standard errors


def test_kl_of_w_against_monte_carlo():
    posterior, _, _ = densities()
    mean, scale = posterior.mean, np.exp(0.5 * posterior.log_variance)
    draws = stats.norm.rvs(mean, scale, (200_000, *mean.shape), random_state=np.random.default_rng(2))
    expected = (stats.norm.logpdf(draws, mean, scale) - stats.norm.logpdf(draws)).mean(axis=0).sum()
    assert np.isclose(vae.kl_to_standard_normal(Posterior(*map(jnp.asarray, posterior)))[0], expected, rtol=0.02)


def test_kl_of_c_is_the_entropy_that_is_missing_with_a_floor():
    p = np.array([[0.98, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]])
    kl = stats.entropy(p, np.full(3, 1 / 3), axis=-1)
    assert kl[0] > 0.5 > kl[2] > kl[1]
    log_c = jnp.log(p)[None, None]
    assert np.isclose(gmvae.kl_clusters(log_c, 0.5)[0], kl.sum(), rtol=1e-5)  # of all positions together
    assert np.isclose(gmvae.kl_clusters(log_c, 0.0)[0], kl.sum(), rtol=1e-5)
    assert gmvae.kl_clusters(log_c[:, :, 1:], 0.5)[0] == 0.5


def test_one_standard_normal_cluster_is_the_vae():
    posterior, _, z = densities()
    posterior = Posterior(*map(jnp.asarray, posterior))
    standard = Clusters(*jnp.zeros((2, 1, 1, 2, 1, CHANNELS)))
    log_c = gmvae.log_responsibilities(jnp.asarray(z), standard)
    found = gmvae.kl_to_clusters(posterior, standard, log_c)
    np.testing.assert_allclose(found, vae.kl_to_standard_normal(posterior), rtol=1e-6)
    np.testing.assert_allclose(gmvae.kl_clusters(log_c, 0.0), 0.0)


def test_log_variances_of_the_clusters_are_bounded():
    prior = gmvae.MixturePrior(K, CHANNELS, 8)
    w = np.random.default_rng(0).normal(size=(1, 2, 2, 2)).astype(np.float32)
    weights, apply = jax.jit(prior.init)(jax.random.key(0), w), jax.jit(prior.apply)
    for size in (1.0, 1e6):
        clusters = apply(weights, np.float32(size) * w)
        assert clusters.mean.shape == clusters.log_variance.shape == (1, 2, 2, K, CHANNELS)
        assert np.abs(clusters.log_variance).max() <= gmvae.LOG_VARIANCE_BOUND
    # Positions know nothing of each other.
    other = w.copy()
    other[0, 0, 0] += 1
    moved, still = apply(weights, other), apply(weights, w)
    np.testing.assert_array_equal(moved.mean[0, 1], still.mean[0, 1])
    assert np.abs(moved.mean[0, 0, 0] - still.mean[0, 0, 0]).max() > 0


def test_elbo_is_minus_the_loss_of_one_slice(config, params):
    """The terms from the networks' outputs, all put together again by SciPy."""
    x, key = slices(1)[0], jax.random.key(5)
    network = gmvae.GMVAE(vae.VAE((4,), CHANNELS + 2, normalise=False), gmvae.MixturePrior(K, CHANNELS, 8))

    @jax.jit
    def outputs(weights, x, key):
        posterior_z, posterior_w = network.apply(weights, x[None], method="encode")
        key_z, key_w = jax.random.split(key)
        z, w = posterior_z.sample(key_z), posterior_w.sample(key_w)
        clusters = network.apply(weights, w, method=lambda module, w: module.prior(w))
        return posterior_z, posterior_w, z, clusters, network.apply(weights, z, method="decode")

    posterior_z, posterior_w, z, clusters, decoded = outputs({"params": params["gmvae"]}, x, key)
    assert posterior_z.mean.shape == posterior_w.mean.shape == (1, 4, 4, 2)
    squared = ((x - np.asarray(decoded)[0]) ** 2).sum()
    weight = bayes(np.asarray(z), Clusters(*map(np.asarray, clusters)))
    kl_c = max(stats.entropy(weight, np.full_like(weight, 1 / K), axis=-1).sum(), 0.5)
    kl_z = gmvae.kl_to_clusters(posterior_z, clusters, jnp.log(weight))[0]
    kl_w = vae.kl_to_standard_normal(posterior_w)[0]
    found = jax.jit(models.from_config(config, "float32").bind(params).elbo)(x, key)
    assert np.isclose(found, -(2.0 * squared + kl_z + kl_w + kl_c), rtol=1e-4)


def test_gradient_of_the_elbo_against_finite_differences(config, params):
    config.model.cluster_free_nats = 0.0  # the floor has a kink
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        x, key = jnp.asarray(slices(1)[0], jnp.float64), jax.random.key(5)
        elbo = jax.jit(lambda x: models.from_config(config, "float32").bind(double).elbo(x, key))
        gradient = jax.jit(jax.grad(elbo))(x)
        assert gradient.dtype == jnp.float64
        for seed in range(4):
            direction = np.random.default_rng(seed).normal(size=x.shape)
            step = 1e-6 * direction
            slope = (elbo(x + step) - elbo(x - step)) / 2e-6
            assert np.isclose(slope, (gradient * direction).sum(), rtol=1e-5)


def test_draws_are_keyed_and_slices_stand_alone(config, variables, params):
    x, networks = slices(3), models.from_config(config, "float32").bind(params)
    samples = jax.jit(networks.samples, static_argnums=2)
    first = samples(x[0], jax.random.key(1), 4)
    assert first.shape == (4, 8, 8, 1)
    np.testing.assert_array_equal(first, samples(x[0], jax.random.key(1), 4))
    assert np.abs(first - samples(x[0], jax.random.key(2), 4)).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3
    elbo = jax.jit(networks.elbo)
    assert elbo(x[0], jax.random.key(1)) == elbo(x[0], jax.random.key(1)) != elbo(x[0], jax.random.key(2))
    for function in (networks.reconstruct, networks.variance):
        together = jax.jit(jax.vmap(function))(x)
        assert together.shape == x.shape
        np.testing.assert_allclose(together[1], jax.jit(function)(x[1]), rtol=1e-4, atol=1e-5)


def test_losses_report_their_terms_and_stay_apart(config, variables):
    x = slices(4)

    def losses(params):
        total, (_, terms) = models.from_config(config, "float32").loss(
            {**variables, "params": params}, x, jnp.ones_like(x), jax.random.key(0)
        )
        return {"loss": terms["loss"], "variance": terms["variance"]}, (total, terms)

    gradients, (total, terms) = jax.jit(jax.jacrev(losses, has_aux=True))(variables["params"])
    assert set(terms) == {"loss", "reconstruction", "kl_z", "kl_w", "kl_c", "variance"}
    bound = sum(terms[name] for name in ("reconstruction", "kl_z", "kl_w", "kl_c"))
    assert np.isclose(terms["loss"], bound, rtol=1e-5)
    assert np.isclose(total, terms["loss"] + terms["variance"], rtol=1e-5)
    assert terms["kl_c"] >= 16 * 0.5 - 1e-5
    strays = gradients["loss"]["variance"], gradients["variance"]["gmvae"]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(strays))
