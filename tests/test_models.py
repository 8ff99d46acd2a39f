"""Networks: architecture as method.md states it, folding, independence of the batch, and losses against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from lgjax import models
from lgjax.models import blocks, vae, variance

PAPER = (8, 16, 32, 64, 128, 256)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def encode(config, params, stats, x, train=False):
    autoencoder, _ = models.build(config.model)
    return autoencoder.apply({"params": params["autoencoder"], "batch_stats": stats}, x, train, method="encode")


def decode(config, params, stats, z, train=False):
    autoencoder, _ = models.build(config.model)
    return autoencoder.apply({"params": params["autoencoder"], "batch_stats": stats}, z, train, method="decode")


def kernels(experiments):
    """Kernel shapes of the paper's networks by path, nothing computed."""
    config = experiments.paper()
    autoencoder, variance_net = models.build(config.model)
    image, key = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32), jax.random.key(0)
    trees = {
        "autoencoder": jax.eval_shape(autoencoder.init, key, image, key)["params"],
        "variance": jax.eval_shape(variance_net.init, key, image)["params"],
    }
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves if p[-1].key == "kernel"}


def test_architecture_of_the_paper(experiments):
    found = kernels(experiments)
    expected = {"autoencoder/first/conv": (3, 3, 1, 8)}
    for i, (before, after) in enumerate(zip((8, *PAPER[:-1]), PAPER, strict=True)):
        expected |= {
            f"autoencoder/down_{i}/first/conv": (3, 3, before, after),
            f"autoencoder/down_{i}/second/conv": (3, 3, after, after),
            f"autoencoder/down_{i}/skip/conv": (1, 1, before, after),
        }
    for i, (before, after) in enumerate(zip((256, *PAPER[:0:-1]), PAPER[::-1], strict=True)):
        expected |= {
            f"autoencoder/up_{i}/first/conv": (3, 3, before, after),
            f"autoencoder/up_{i}/second/conv": (3, 3, after, after),
            f"autoencoder/up_{i}/skip/conv": (1, 1, before, after),
        }
    expected |= {
        "autoencoder/mean_head": (3, 3, 256, 256),
        "autoencoder/log_variance_head": (3, 3, 256, 256),
        "autoencoder/from_latent/conv": (3, 3, 256, 256),
        "autoencoder/last": (3, 3, 8, 1),
        "variance/Conv_0": (3, 3, 1, 8),
        "variance/Conv_1": (3, 3, 8, 16),
        "variance/Conv_2": (3, 3, 16, 8),
        "variance/Conv_3": (3, 3, 8, 1),
    }
    assert found == {f"{path}/kernel": shape for path, shape in expected.items()}


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 192), (192, 256)])
def test_shapes_of_the_paper(experiments, height, width):
    config = experiments.paper()
    autoencoder, variance_net = models.build(config.model)
    x, key = jax.ShapeDtypeStruct((3, height, width, 1), jnp.float32), jax.random.key(0)
    # The same parameters serve every size: they are made at 128.
    made_at = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32)
    variables = jax.eval_shape(autoencoder.init, key, made_at, key)
    posterior = jax.eval_shape(lambda v, x: autoencoder.apply(v, x, method="encode"), variables, x)
    latent = (3, height // 64, width // 64, 256)
    assert posterior.mean.shape == posterior.log_variance.shape == latent
    decoded = jax.eval_shape(lambda v, z: autoencoder.apply(v, z, method="decode"), variables, posterior.mean)
    assert decoded.shape == (3, height, width, 1)
    variances = jax.eval_shape(variance_net.init_with_output, key, x)[0]
    assert variances.shape == (3, height, width, 1)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (20, 4)])
def test_fold_keeps_the_function(config, variables, height, width):
    params, stats = variables
    networks = models.bind(config.model, models.freeze(params, stats))
    x, z = normal(3, height, width, 1), normal(3, height // 4, width // 4, 4, seed=1)
    folded, plain = networks.encode(x), encode(config, params, stats, x)
    # Sums of at most 72 products in another order: 1e-5 of values near 1.
    np.testing.assert_allclose(folded.mean, plain.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(folded.log_variance, plain.log_variance, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(networks.decode(z), decode(config, params, stats, z), rtol=1e-5, atol=1e-5)


def test_fold_has_something_to_fold(config, variables):
    params, stats = variables
    standard = jax.tree_util.tree_map_with_path(lambda p, x: np.full_like(x, p[-1].key == "var"), stats)
    x = normal(3, 16, 16, 1)
    assert np.abs(encode(config, params, stats, x).mean - encode(config, params, standard, x).mean).max() > 0.1
    folded = models.freeze(params, stats)["autoencoder"]
    assert not any("norm" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(folded))


def test_normalised_conv_by_numpy():
    module = blocks.NormalisedConv(3, kernel_size=1)
    x = normal(2, 4, 4, 2)
    variables = module.init(jax.random.key(0), x, False)
    conv = {"kernel": normal(1, 1, 2, 3, seed=1), "bias": normal(3, seed=2)}
    norm = {"scale": normal(3, seed=3), "bias": normal(3, seed=4)}
    running = {"mean": normal(3, seed=5), "var": normal(3, seed=6) ** 2}
    assert jax.tree.structure(variables["params"]) == jax.tree.structure({"conv": conv, "norm": norm})
    convolved = x @ conv["kernel"][0, 0] + conv["bias"]
    expected = (convolved - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
    found = module.apply({"params": {"conv": conv, "norm": norm}, "batch_stats": {"norm": running}}, x, False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_slice_does_not_know_its_batch(config, params):
    networks = models.bind(config.model, params)
    x, z = normal(5, 16, 16, 1), normal(5, 4, 4, 4, seed=1)
    x[3:] *= 100  # neighbours of another scale
    z[3:] *= 100
    for together, alone in [
        (networks.encode(x).mean, networks.encode(x[1:2]).mean),
        (networks.encode(x).log_variance, networks.encode(x[1:2]).log_variance),
        (networks.decode(z), networks.decode(z[1:2])),
        (networks.variance(x), networks.variance(x[1:2])),
    ]:
        np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-5)


def test_training_mode_does_know_its_batch(config, variables):
    """The counterpart of the test above: what frozen statistics spare us."""
    params, stats = variables
    autoencoder, _ = models.build(config.model)
    x = normal(5, 16, 16, 1)
    x[3:] *= 100
    together, alone = (
        autoencoder.apply(
            {"params": params["autoencoder"], "batch_stats": stats}, batch, True, method="encode", mutable="batch_stats"
        )[0].mean[1]
        for batch in (x, x[:2])
    )
    assert np.abs(together - alone).max() > 0.1


def test_variance_is_above_its_floor(config, params):
    config.model.variance_floor = 0.25
    sigma2 = models.bind(config.model, params).variance(normal(2, 16, 16, 1))
    _, net = models.build(config.model)
    log_variance = net.apply({"params": params["variance"]}, normal(2, 16, 16, 1))
    np.testing.assert_allclose(sigma2, np.exp(log_variance) + 0.25, rtol=1e-6)
    assert variance.variance(jnp.float32(-1000.0), 0.25) == 0.25


def test_upsample():
    x = normal(2, 3, 5, 4)
    np.testing.assert_array_equal(blocks.upsample(x), np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))


def test_activation_is_leaky():
    x = np.array([-2.0, -1.0, 0.0, 3.0], np.float32)
    y = np.asarray(blocks.activation(x))
    np.testing.assert_array_equal(y[2:], x[2:])
    assert (y[:2] < 0).all()
    assert y[0] == 2 * y[1] > x[0]


def test_posterior_samples():
    mean, log_variance = normal(1, 1, 1, 3), np.array([[[[-2.0, 0.0, 1.5]]]], np.float32)
    posterior = vae.Posterior(jnp.asarray(mean), jnp.asarray(log_variance))
    n = 40_000
    draws = np.asarray(jax.vmap(posterior.sample)(jax.random.split(jax.random.key(0), n)))[:, 0, 0, 0]
    for j in range(3):
        standard = (draws[:, j] - mean.flat[j]) / np.exp(0.5 * log_variance.flat[j])
        assert stats.kstest(standard, "norm").pvalue > 1e-3  # the key is fixed: no flakiness


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, 0.0), (0.0, -3.0), (-0.7, 1.2)])
def test_kl_by_integration(mean, log_variance):
    q, p = stats.norm(mean, np.exp(log_variance / 2)), stats.norm(0, 1)
    low, high = q.ppf([1e-13, 1 - 1e-13])
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), low, high)
    ones = jnp.ones((1, 1, 1, 1))
    assert vae.kl_to_standard_normal(vae.Posterior(mean * ones, log_variance * ones)) == pytest.approx(
        expected, abs=1e-5
    )


def test_kl_sums_the_latents_of_each_image():
    mean, log_variance = normal(3, 2, 2, 4), normal(3, 2, 2, 4, seed=1)
    sigma = np.exp(log_variance.astype(np.float64) / 2)
    expected = [(np.log(1 / s) + (s**2 + m**2) / 2 - 0.5).sum() for m, s in zip(mean, sigma, strict=True)]
    found = vae.kl_to_standard_normal(vae.Posterior(mean, log_variance))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Monte Carlo, a third way, within four standard errors.
    z = mean[0] + sigma[0] * np.random.default_rng(0).normal(size=(20_000, 2, 2, 4))
    logs = (stats.norm.logpdf(z, mean[0], sigma[0]) - stats.norm.logpdf(z)).sum(axis=(1, 2, 3))
    assert abs(logs.mean() - float(found[0])) < 4 * logs.std() / np.sqrt(len(logs))


def test_negative_elbo_by_numpy():
    x, reconstruction = normal(3, 4, 6, 1), normal(3, 4, 6, 1, seed=1)
    posterior = vae.Posterior(normal(3, 1, 2, 2, seed=2), normal(3, 1, 2, 2, seed=3))
    loss, terms = vae.negative_elbo(x, reconstruction, posterior, 5.0)
    squared = sum(float(((x[i] - reconstruction[i]) ** 2).sum()) for i in range(3)) / 3
    mean, log_variance = posterior
    kl = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum() / 3
    assert terms["squared_error"] == pytest.approx(squared, rel=1e-5)
    assert terms["kl"] == pytest.approx(kl, rel=1e-5)
    assert loss == pytest.approx(5 * squared + kl, rel=1e-5)


def test_variance_likelihood_is_best_at_the_mean_squared_residual():
    n, floor = 50, 0.02
    residual = normal(n, 3, 4, 1) * np.linspace(0.3, 2, 12, dtype=np.float32).reshape(1, 3, 4, 1)
    mask = np.ones_like(residual)
    mask[:, 0, 0] = 0
    expected = (residual.astype(np.float64) ** 2).mean(axis=0, keepdims=True)
    best = np.log(expected - floor).astype(np.float32)

    def loss(log_variance, residual=residual):
        spread = jnp.broadcast_to(log_variance, residual.shape)
        return variance.negative_log_likelihood(residual, spread, mask, floor)

    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-7)
    assert np.abs(jax.grad(loss)(best + 0.1)[0, 1:]).min() > 1e-4
    assert loss(best) < min(loss(best - 0.2), loss(best + 0.2))
    np.testing.assert_array_equal(jax.grad(loss)(best + 1)[0, 0, 0], 0)  # outside the brain
    np.testing.assert_array_equal(jax.grad(loss, argnums=1)(best, jnp.asarray(residual)), np.zeros_like(residual))
    # Its value: the normal's negative log density without log(2 pi) / 2, a mean over the brain.
    density = -stats.norm.logpdf(residual, 0, np.sqrt(expected)) - np.log(2 * np.pi) / 2
    assert loss(best) == pytest.approx((density * mask).sum() / mask.sum(), rel=1e-5)


def test_variance_likelihood_without_brain_is_finite():
    zero = jnp.zeros((1, 2, 2, 1))
    assert variance.negative_log_likelihood(zero + 1, zero, zero, 1e-3) == 0
