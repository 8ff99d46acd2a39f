"""Networks: architecture as docs/method.md states it, folding, independence of the batch, and losses against NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables, shrunk
from scipy import integrate, stats

from lgjax import models
from lgjax.models import blocks, convolutions, vae, variance

PAPER = (8, 16, 32, 64, 128, 256)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(config, normalise=True):
    """The auto-encoder of a config."""
    return vae.VAE(tuple(config.model.channels), config.model.latent_channels, normalise)


def variances(config):
    """Settings of the variance network of a config."""
    model = config.model
    return variance.Settings(tuple(model.variance_channels), model.variance_target, model.variance_floor)


def spread_loss(config, variables, x, reconstruction, mask):
    """The loss of the variance network of a config."""
    given = {name: part["variance"] for name, part in variables.items()}
    return jax.jit(variance.loss, static_argnums=0)(variances(config), given, x, reconstruction, mask)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def applied(module, method, variables, x):
    """What a module makes of x: one program, for its operations would each be compiled."""
    return module.apply(variables, x, method=method)


def spread_output(config, params, x):
    """What the last convolution of the variance network says."""
    module = variances(config).network(normalise=False)
    return np.asarray(applied(module, None, {"params": params["variance"]}, x).output)


def encode(config, variables, x, normalise=True):
    tree = {name: part["autoencoder"] for name, part in variables.items()}
    return applied(network(config, normalise), "encode", tree, x)


def decode(config, variables, z, normalise=True):
    tree = {name: part["autoencoder"] for name, part in variables.items()}
    return applied(network(config, normalise), "decode", tree, z)


def kernels(experiments):
    """Kernel shapes of the paper's networks by path, nothing computed."""
    config = experiments.paper()
    trees = jax.eval_shape(models.from_config(config, "float32").init, jax.random.key(0))["params"]
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


@functools.cache
def made_at_128(autoencoder):
    """Shapes of the variables, which serve images of every size."""
    key = jax.random.key(0)
    return jax.eval_shape(autoencoder.init, key, jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32), key)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 192), (192, 256)])
def test_shapes_of_the_paper(experiments, height, width):
    config = experiments.paper()
    autoencoder, variance_net = network(config), variances(config).network(normalise=True)
    x, key = jax.ShapeDtypeStruct((3, height, width, 1), jnp.float32), jax.random.key(0)
    variables = made_at_128(autoencoder)
    posterior = jax.eval_shape(lambda v, x: autoencoder.apply(v, x, method="encode"), variables, x)
    latent = (3, height // 64, width // 64, 256)
    assert posterior.mean.shape == posterior.log_variance.shape == latent
    decoded = jax.eval_shape(lambda v, z: autoencoder.apply(v, z, method="decode"), variables, posterior.mean)
    assert decoded.shape == (3, height, width, 1)
    spread = jax.eval_shape(variance_net.init_with_output, key, x)[0]
    assert spread.log_variance.shape == (3, height, width, 1)


@pytest.mark.usefixtures("deep")
@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (20, 4)])
def test_fold_keeps_the_function(config, variables, height, width):
    folded = {"params": models.freeze(variables)}
    x, z = normal(3, height, width, 1), normal(3, height // 4, width // 4, 4, seed=1)
    found, plain = encode(config, folded, x, normalise=False), encode(config, variables, x)
    # Sums of at most 72 products in another order: 1e-5 of values near 1.
    np.testing.assert_allclose(found.mean, plain.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.log_variance, plain.log_variance, rtol=1e-5, atol=1e-5)
    again = decode(config, folded, z, normalise=False)
    np.testing.assert_allclose(again, decode(config, variables, z), rtol=1e-5, atol=1e-5)


def test_fold_has_something_to_fold(config, variables):
    stats = variables["batch_stats"]
    standard = jax.tree_util.tree_map_with_path(lambda p, x: np.full_like(x, p[-1].key == "var"), stats)
    x = normal(3, 16, 16, 1)
    other = encode(config, {**variables, "batch_stats": standard}, x)
    assert np.abs(encode(config, variables, x).mean - other.mean).max() > 0.1
    folded = models.freeze(variables)
    assert not any("norm" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(folded))


@pytest.mark.parametrize(
    ("size", "channels", "features", "kernel", "strides"),
    [
        ((8, 9), 3, 20, 3, 1),  # as XLA has it
        ((8, 9), 3, 20, 3, 2),
        ((7, 8), 3, 20, 3, 2),
        ((9, 10), 3, 5, 5, 3),
        ((6, 7), 3, 5, 1, 1),
        ((8, 9), 3, 5, 1, 2),
        ((8, 12), 3, 5, 3, 1),  # in blocks of pixels
        ((8, 16), 12, 3, 3, 2),
        ((8, 10), 3, 12, 3, 1),
        ((8, 12), 5, 16, 3, 2),
        ((12, 16), 8, 1, 3, 1),
        ((8, 10), 1, 5, 3, 1),  # shifted
        ((8, 10), 1, 1, 2, 1),
        ((2, 2), 3, 5, 3, 1),  # dense
        ((2, 3), 4, 2, 3, 1),
        ((1, 4), 4, 2, 5, 1),
        ((6, 6), 3, 12, 2, 1),
        ((8, 6), 3, 20, 3, 2),  # its image gradient in blocks
        ((9, 6), 3, 20, 5, 3),
        ((4, 8), 3, 20, 1, 2),
        ((4, 8), 3, 20, 4, 2),
    ],
)
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 1), (1, 2))])
def test_conv_is_that_of_flax_with_its_gradients(size, channels, features, kernel, strides, padding):
    ours, flax = (conv(features, (kernel, kernel), strides, padding=padding) for conv in (convolutions.Conv, nn.Conv))
    x = normal(2, *size, channels)
    parameters = {"kernel": normal(kernel, kernel, channels, features, seed=2), "bias": normal(features, seed=3)}
    variables = {"params": parameters}
    weights = normal(*jax.eval_shape(flax.apply, variables, x).shape, seed=1)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(module, variables, x):
        value, gradients = jax.vjp(module.apply, variables, x)
        return value, gradients(weights)

    results = (jax.tree.leaves(value_and_gradients(module, variables, x)) for module in (ours, flax))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


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


@pytest.mark.usefixtures("optimised")
def test_a_slice_does_not_know_its_batch(config, params):
    folded = {"params": params}
    x, z = normal(5, 16, 16, 1), normal(5, 4, 4, 4, seed=1)
    x[3:] *= 100  # neighbours of another scale
    z[3:] *= 100

    @jax.jit
    def outputs(x, z):
        posterior = encode(config, folded, x, normalise=False)
        spread = variance.predict(variances(config), params["variance"], x)
        return *posterior, decode(config, folded, z, normalise=False), spread

    for together, alone in zip(outputs(x, z), outputs(x[1:2], z[1:2]), strict=True):
        np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-5)


def test_training_mode_does_know_its_batch(config, variables):
    """The counterpart of the test above: what frozen statistics spare us."""
    tree = {name: part["autoencoder"] for name, part in variables.items()}
    x = normal(5, 16, 16, 1)
    others = x * np.float32([1, 1, 1, 100, 100]).reshape(5, 1, 1, 1)
    trained = jax.jit(functools.partial(network(config).apply, train=True, method="encode", mutable="batch_stats"))
    found, beside_others = (trained(tree, batch)[0].mean[1] for batch in (x, others))
    assert np.abs(found - beside_others).max() > 0.1


def test_networks_of_one_slice(config, params):
    """`bind` gives the network's own functions, a slice at a time."""
    networks, folded, key = (
        models.from_config(config, config.restore.precision).bind(params),
        {"params": params},
        jax.random.key(2),
    )
    x = normal(16, 16, 1)
    posterior = encode(config, folded, x[None], normalise=False)
    expected = decode(config, folded, posterior.mean, normalise=False)[0]
    np.testing.assert_allclose(jax.jit(networks.reconstruct)(x), expected, rtol=1e-5, atol=1e-5)
    samples = jax.jit(networks.samples, static_argnums=2)
    draws = np.asarray(samples(x, key, 3))
    assert draws.shape == (3, 16, 16, 1)
    assert len(np.unique(draws[:, 8, 8, 0])) == 3
    many = np.asarray(samples(x, key, 4000))
    mean_latent = many.mean(axis=0)
    assert np.abs(mean_latent - expected).mean() < np.abs(draws[0] - expected).mean()
    sigma2 = jax.jit(functools.partial(variance.predict, variances(config)))(params["variance"], x[None])[0]
    np.testing.assert_allclose(jax.jit(networks.variance)(x), sigma2, rtol=1e-6)


def test_elbo_of_one_slice_by_numpy(config, params):
    """Over many draws, the bound is -w E|X - g(z)|^2 - KL by the network's own samples."""
    config.model.reconstruction_weight = 0.7
    networks, folded = models.from_config(config, config.restore.precision).bind(params), {"params": params}
    x = normal(16, 16, 1)
    found = jax.jit(jax.vmap(lambda key: networks.elbo(x, key)))(jax.random.split(jax.random.key(0), 2000))
    kl = vae.kl_to_standard_normal(encode(config, folded, x[None], normalise=False))[0]
    draws = np.asarray(jax.jit(networks.samples, static_argnums=2)(x, jax.random.key(1), 2000))
    bounds = -0.7 * ((x[None] - draws) ** 2).sum(axis=(1, 2, 3)) - kl
    error = 4 * np.hypot(found.std(), bounds.std()) / np.sqrt(2000)
    assert abs(float(found.mean() - bounds.mean())) < error
    assert found.std() > 0  # one draw each


@pytest.mark.parametrize("target", ["likelihood", "absolute"])
def test_variance_is_above_its_floor(config, params, target):
    config.model.variance_floor, config.model.variance_target = 0.25, target
    x = normal(2, 16, 16, 1)
    output = spread_output(config, params, x)
    expected = np.exp(output) if target == "likelihood" else output**2
    found = jax.jit(functools.partial(variance.predict, variances(config)))(params["variance"], x)
    np.testing.assert_allclose(found, expected + 0.25, rtol=1e-5)


def test_absolute_target_by_numpy(config, variables, params):
    """The authors' loss: mean over the brain of (prediction - |X - g(z)|)^2."""
    config.model.variance_target = "absolute"
    x, reconstruction = normal(2, 16, 16, 1), normal(2, 16, 16, 1, seed=1)
    mask = (normal(2, 16, 16, 1, seed=2) > 0).astype(np.float32)
    output = spread_output(config, params, x)
    expected = ((output - np.abs(x - reconstruction)) ** 2)[mask > 0].mean()
    loss = spread_loss(config, variables, x, reconstruction, mask)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_upsample():
    x = normal(2, 3, 5, 4)
    np.testing.assert_array_equal(blocks.upsample(x), np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))


@pytest.mark.parametrize(("height", "width", "kind"), [(4, 4, ""), (5, 7, ""), (1, 3, ""), (5, 3, "NVIDIA H200")])
def test_upsampled_conv_is_upsampling_and_then_flax_convolution(height, width, kind):
    """Values and gradients, on odd sizes and at the border."""
    plain, ours = nn.Conv(4, (3, 3)), convolutions.UpsampledConv(4)
    x = normal(2, height, width, 3)
    variables = {"params": {"kernel": normal(3, 3, 3, 4, seed=2) / 5, "bias": normal(4, seed=3)}}
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    weights = normal(2, 2 * height, 2 * width, 4, seed=1)

    @functools.partial(jax.jit, static_argnums=0)
    def both(function, variables, x):
        value, back = jax.vjp(function, variables, x)
        return value, back(weights)

    with convolutions.forms(kind):
        given, slopes = both(ours.apply, variables, x)
    expected, plain_slopes = both(lambda v, x: plain.apply(v, blocks.upsample(x)), variables, x)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    for found, value in zip(jax.tree.leaves(slopes), jax.tree.leaves(plain_slopes), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4)


def test_activation_is_leaky():
    np.testing.assert_allclose(blocks.activation(np.float32([-2, -1, 0, 3])), [-0.4, -0.2, 0, 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["ResidualDown", "ResidualUp"])
def test_residual_blocks_by_numpy(name):
    """With pointwise kernels, the way through two convolutions and the skip, each by itself and their sum."""
    first, second, skip = (normal(a, 3, seed=a + i) for i, a in enumerate((2, 3, 2)))
    x = normal(2, 4, 6, 2)
    block = jax.jit(functools.partial(getattr(blocks, name)(3, normalise=False).apply, train=False))

    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    def resized(x):
        return x[:, ::2, ::2] if name == "ResidualDown" else x.repeat(2, axis=1).repeat(2, axis=2)

    def conv(weights, size):
        # With a stride of two on an even image, the first of three taps lies on the pixels that the skip sees.
        kernel, at = np.zeros((size, size, *weights.shape), np.float32), 0 if size == 1 or strided(weights) else 1
        kernel[at, at] = weights
        return {"conv": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}

    def strided(weights):
        return name == "ResidualDown" and weights is first

    for a, b in ((1, 0), (0, 1), (1, 1)):
        params = {"first": conv(first, 3), "second": conv(a * second, 3), "skip": conv(b * skip, 1)}
        expected = resized(leaky(a * leaky(x @ first) @ second + b * x @ skip))
        np.testing.assert_allclose(block({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vae", "aae", "gmvae", "dae", "anogan", "restorer"])
def test_running_statistics_keep_95_percent_of_themselves(name, slices):
    """Those of BatchNorm and the ranges of log variances: what they were weighs .95, what the batch says does not."""
    config = shrunk(name)
    model, variables = models.from_config(config, "float32"), random_variables(config)

    @jax.jit
    def updated(shift):
        stats = jax.tree.map(lambda leaf: leaf + shift, variables["batch_stats"])
        given = {"params": variables["params"], "batch_stats": stats}
        return model.loss(given, slices.y, slices.mask, jax.random.key(0))[1][0]

    old, new, shifted = variables["batch_stats"], updated(0.0), updated(1.0)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    for before, one, other in zip(*map(jax.tree.leaves, (old, new, shifted)), strict=True):
        np.testing.assert_allclose(other - one, 0.95, rtol=1e-3)
        assert np.abs(one - before).max() > 1e-4
    if name == "vae":
        given = variables["params"]["autoencoder"]["first"]["conv"], old["autoencoder"]["first"]["norm"]
        check_by_numpy(new["autoencoder"]["first"]["norm"], *given, slices.y[..., 0])


def check_by_numpy(new, conv, old, images):
    """Mean and variance, over slices and pixels, of what the first convolution makes of a batch."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    values = windows.reshape(-1, 9) @ conv["kernel"].reshape(9, -1) + conv["bias"]
    for part, found in (("mean", values.mean(axis=0)), ("var", values.var(axis=0))):
        np.testing.assert_allclose(new[part], 0.95 * old[part] + 0.05 * found, rtol=1e-4, atol=1e-5)


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
    error, divergence = vae.negative_elbo(x, reconstruction, posterior, 5.0)
    squared = [float(((x[i] - reconstruction[i]) ** 2).sum()) for i in range(3)]
    mean, log_variance = posterior
    kl = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(error, 5 * np.array(squared), rtol=1e-5)
    np.testing.assert_allclose(divergence, kl, rtol=1e-5)


def test_likelihood_is_best_at_the_mean_squared_residual():
    residual = normal(50, 3, 4, 1) * np.linspace(0.3, 2, 12, dtype=np.float32).reshape(1, 3, 4, 1)
    expected = (residual.astype(np.float64) ** 2).mean(axis=0)
    best = np.log(expected).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(log_variance):
        sigma2 = jnp.broadcast_to(jnp.exp(log_variance), residual.shape)
        return variance.negative_log_likelihood(residual, sigma2).mean()

    least, slope = loss(best)
    np.testing.assert_allclose(slope, 0, atol=1e-7)
    assert np.abs(loss(best + 0.1)[1]).min() > 1e-4
    assert least < min(loss(best - 0.2)[0], loss(best + 0.2)[0])
    # Its value: the normal's negative log density without log(2 pi) / 2.
    density = -stats.norm.logpdf(residual, 0, np.sqrt(expected)) - np.log(2 * np.pi) / 2
    assert least == pytest.approx(density.mean(), rel=1e-5)


@pytest.mark.parametrize("target", ["likelihood", "absolute"])
def test_variance_loss_counts_the_brain_and_stops_gradients(config, variables, target):
    config.model.variance_target = target
    x, reconstruction = normal(2, 16, 16, 1), normal(2, 16, 16, 1, seed=1)
    mask = (normal(2, 16, 16, 1, seed=2) > 0).astype(np.float32)

    def loss(reconstruction, mask=mask):
        return spread_loss(config, variables, x, reconstruction, mask)

    np.testing.assert_array_equal(jax.grad(loss)(reconstruction), 0)
    elsewhere = np.where(mask > 0, reconstruction, 99.0)
    assert float(loss(elsewhere)) == pytest.approx(float(loss(reconstruction)), rel=1e-6)
    assert float(loss(reconstruction + 1)) != pytest.approx(float(loss(reconstruction)), rel=1e-3)
    assert float(loss(reconstruction, np.zeros_like(mask))) == 0  # no brain: finite
