"""Log variances are held to the range that training produced, so that no lesion is too bright to be restored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables, shrunk

from lgjax import models
from lgjax.models import variance
from lgjax.restoration import data_terms, loop, priors, solvers

LOW, HIGH = -2.0, 0.5


def test_the_bound_is_the_identity_and_then_a_hyperbolic_tangent():
    inside = np.linspace(LOW, HIGH, 101, dtype=np.float32)
    np.testing.assert_array_equal(variance.bound(inside, LOW, HIGH), inside)
    beyond = np.array([0.1, 0.5, 2.0])
    moved = variance.WIDTH * np.tanh(beyond / variance.WIDTH)
    np.testing.assert_allclose(variance.bound(HIGH + beyond, LOW, HIGH), HIGH + moved, rtol=1e-5)
    np.testing.assert_allclose(variance.bound(LOW - beyond, LOW, HIGH), LOW - moved, rtol=1e-5)


def test_the_bound_is_monotone_and_finite_with_a_finite_gradient():
    far = np.geomspace(1e-6, 3e38, 500, dtype=np.float32)
    everywhere = np.concatenate([-far[::-1], [0], far])
    value = np.asarray(variance.bound(everywhere, LOW, HIGH))
    assert (np.diff(value) >= 0).all()
    assert LOW - variance.WIDTH <= value.min() < LOW < HIGH < value.max() <= HIGH + variance.WIDTH
    gradient = np.asarray(jax.jit(jax.vmap(jax.grad(variance.bound), (0, None, None)))(everywhere, LOW, HIGH))
    assert ((gradient >= 0) & (gradient <= 1)).all()
    assert (gradient[np.abs(everywhere) < 0.5] == 1).all()


def test_what_a_batch_says_of_the_range_by_numpy():
    """Of each slice with a brain the ends, then their mean; the mean variance is of all pixels of all brains."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 6, 5, 1)).astype(np.float32)
    mask = (rng.random(values.shape) < 0.5).astype(np.float32)
    mask[2] = 0
    values[mask == 0] = 1e3  # no part of it
    brains = [values[i][mask[i] > 0] for i in (0, 1, 3)]
    low, high = (np.mean([end(brain) for brain in brains]) for end in (np.min, np.max))
    np.testing.assert_allclose(variance.extremes(values, mask), (low, high), rtol=1e-5)
    expected = np.log(np.exp(np.concatenate(brains).astype(float)).mean())
    np.testing.assert_allclose(variance.up_to_the_mean(values, mask), (low, expected), rtol=1e-5)
    np.testing.assert_allclose(variance.up_to_the_mean(values + 500, mask), (low + 500, expected + 500), rtol=1e-5)


@pytest.mark.parametrize("measure", [variance.extremes, variance.up_to_the_mean])
def test_the_range_is_that_of_late_training_and_says_nothing_of_empty_batches(measure):
    module = variance.Bounded(measure)
    early, late = (np.linspace(a, b, 40, dtype=np.float32).reshape(2, 20) for a, b in ((-60, 60), (-1, 1)))
    stats = module.init(jax.random.key(0), late)
    for values, steps in ((early, 3), (late, 300)):
        for _ in range(steps):
            unbound, stats = module.apply(stats, values, True, mutable=["batch_stats"])
            np.testing.assert_array_equal(unbound, values)
    kept = [stats["batch_stats"][name] for name in ("low", "high")]
    np.testing.assert_allclose(kept, measure(late, np.ones_like(late)), atol=1e-4)
    _, same = module.apply(stats, early, True, np.zeros_like(early), mutable=["batch_stats"])
    np.testing.assert_array_equal([same["batch_stats"][name] for name in ("low", "high")], kept)
    frozen = variance.Bounded(measure, normalise=False).apply({"params": stats["batch_stats"]}, early)
    np.testing.assert_allclose(frozen, variance.bound(early, *kept))


@pytest.mark.parametrize("target", ["likelihood", "absolute"])
def test_training_is_told_the_variance_as_it_is(target):
    """Whatever the range is, the loss is the same; the range goes to what the brain says, by a twentieth."""
    settings = variance.Settings((), target, 0.1)
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(2, 6, 6, 1)).astype(np.float32), (rng.random((2, 6, 6, 1)) < 0.5).astype(np.float32)
    params, brain = linear(slope=3.0), mask > 0
    output = 3 * x.astype(float)
    log_variance = output if target == "likelihood" else np.log(output**2)
    ends = np.mean([one[of].min() for one, of in zip(log_variance, brain, strict=True)])
    found = {"low": ends, "high": np.log(np.exp(log_variance)[brain].mean())}
    sigma2 = np.exp(log_variance) + 0.1
    expected = 0.5 * (np.log(sigma2) + x**2 / sigma2) if target == "likelihood" else (output - np.abs(x)) ** 2
    for end in (0.01, 50.0):
        ranges = {"range": {"low": jnp.float32(-end), "high": jnp.float32(end)}}
        given = {"params": params, "batch_stats": ranges}
        loss, new = jax.jit(variance.loss, static_argnums=0)(settings, given, x, 0 * x, mask)
        np.testing.assert_allclose(loss, expected[brain].mean(), rtol=1e-5)
        for name, old in (("low", -end), ("high", end)):
            np.testing.assert_allclose(new["range"][name], 0.95 * old + 0.05 * found[name], rtol=1e-4)


@pytest.mark.parametrize("target", ["likelihood", "absolute"])
def test_sigma2_stays_in_range_and_finite_for_any_image(target):
    settings = variance.Settings((), target, 0.1)
    params = {**linear(slope=1.0), "range": {"low": jnp.float32(LOW), "high": jnp.float32(HIGH)}}
    x = np.array([0, 1e-30, 1, -1, 50, -50, 1e4, -1e4, 1e18], np.float32).reshape(9, 1, 1, 1)
    predict = jax.jit(functools.partial(variance.predict, settings, params))
    sigma2, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda x: predict(x[None]).sum())))(x)
    assert sigma2.min() >= 0.1 + np.exp(LOW - variance.WIDTH)
    assert sigma2.max() <= 0.1001 + np.exp(HIGH + variance.WIDTH)
    assert np.isfinite(slope).all()
    inside = np.float32(1.0 if target == "absolute" else 0.25).reshape(1, 1, 1, 1)
    expected = inside**2 if target == "absolute" else np.exp(inside)
    np.testing.assert_allclose(predict(inside), expected + 0.1, rtol=1e-5)


def linear(slope):
    """Parameters of a variance network without hidden layers, whose output at a pixel is the slope times the image."""
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = slope
    return {"Conv_0": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}


@pytest.mark.parametrize("name", ["vae", "aae", "gmvae"])
def test_a_brighter_disc_has_a_higher_score(name):
    """A disc of radius 3 in tissue of mean 0, mean |Y - X|; unbound, sigma2 is e^2 at 2 sd, and infinite at 100."""
    config = shrunk(name)
    config.model.variance_channels, config.model.variance_floor = (), 0.1
    variables = random_variables(config)
    variables["params"]["variance"] = linear(slope=1.0)
    network, stats = (
        variables[part].get("gmvae", variables[part])["autoencoder"] for part in ("params", "batch_stats")
    )
    network["last"] = jax.tree.map(np.zeros_like, network["last"])  # so that g(z) = 0
    ranges = [variables["batch_stats"]["variance"]["range"]]
    if name != "aae":
        network["log_variance_head"]["kernel"] *= 100  # a posterior that overflows
        ranges.append(stats["log_variance_range"])
    for limits in ranges:  # what training on tissue of mean 0 and variance 1 would say
        limits |= {"low": np.float32(LOW), "high": np.float32(HIGH)}
    networks = models.from_config(config, "float32").bind(models.freeze(variables))
    rows, columns = np.mgrid[:16, :16] - 8
    disc, brain = ((np.hypot(rows, columns) <= radius)[..., None] for radius in (3, 7))
    tissue = np.random.default_rng(0).normal(0, 0.1, disc.shape) * brain

    @jax.jit
    @jax.vmap
    def restored(y):
        solver = solvers.proximal(data_terms.tv, reach=2.0, refreshes=4, dual_steps=20)
        prior = priors.local_gaussian_neural(networks, samples=1)
        choice = {"data_term": data_terms.tv, "solver": solver, "strength": jnp.float32(0.3), "iterations": 4}
        return loop.restore(y, jnp.float32(brain), jax.random.key(0), prior=prior, **choice)[0]

    y = np.float32([tissue + brightness * disc for brightness in (2, 4, 6, 10, 100)])
    scores = np.abs(y - restored(y))[:, disc].mean(axis=1)
    assert (np.diff(scores) > 0.2).all()
    assert scores[-1] > 10
