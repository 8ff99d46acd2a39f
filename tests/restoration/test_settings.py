"""Each setting of a restoration by the first step that it changes, with networks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lgjax.methods import gmm, names, runner, slicewise
from lgjax.models.base import BoundModel, Model
from lgjax.restoration import loop

RATE = 0.01


def restore(method, networks, y, settings=None, iterations=1, number=0):
    """One slice by plain ascent without a data term, through the program that the runner compiles."""
    mixture = gmm.Settings(classes=3, kappa=3.0, iterations=1)
    chosen = {"seed": 4, "precision": "float32", "batch_size": 1, "mixture": mixture, "learning_rate": RATE}
    chosen |= {"optimizer": "gradient", "iterations": iterations, "samples_est": 2, **(settings or {})}
    model = Model(None, None, lambda params: networks, ())
    function = slicewise.restorer(names.parse(method), runner.Settings(**chosen), model)
    batch = y[None], np.ones_like(y)[None], np.int32([number]), np.zeros(1, np.float32)
    return np.asarray(jax.jit(function)(None, *batch)[0][0])


def image():
    return np.random.default_rng(0).normal(size=(4, 4, 1)).astype(np.float32)


@pytest.mark.parametrize(("at", "seen"), [("restored", 1), ("observed", 0)])
def test_where_the_variance_is_evaluated(at, seen):
    """With sigma2 = X^2 + 1 and mu = 2: at every X^i, or at Y only."""
    networks = BoundModel(samples=lambda x, key, count: jnp.full((count, *x.shape), 2.0), variance=lambda x: x**2 + 1.0)
    y = image()
    first = y + RATE * (2 - y) / (y**2 + 1)
    second = first + RATE * (2 - first) / ((first, y)[1 - seen] ** 2 + 1)
    found = restore("vae_lg_neural_l1", networks, y, {"variance_at": at}, iterations=2)
    np.testing.assert_allclose(found, second, atol=1e-6)
    other = first + RATE * (2 - first) / ((first, y)[seen] ** 2 + 1)
    assert np.abs(other - second).max() > 1e-5  # ten times the tolerance


@pytest.mark.parametrize("floor", [0.05, 0.5])
def test_the_floor_of_lg_est_is_its_variance_where_samples_agree(floor):
    networks = BoundModel(samples=lambda x, key, count: jnp.zeros((count, *x.shape)))
    y = image()
    found = restore("vae_lg_est_l1", networks, y, {"variance_floor": floor})
    np.testing.assert_allclose(found, y - RATE * y / floor, rtol=1e-5)


def test_draws_are_those_of_the_seed_and_the_slice():
    """mu is the noise itself, sigma2 is 1."""
    networks = BoundModel(
        samples=lambda x, key, count: jax.random.normal(key, (count, *x.shape)), variance=jnp.ones_like
    )
    y = image()
    for seed, number in ((4, 0), (5, 0), (4, 7)):
        (key,) = loop.slice_keys(seed, np.int32([number]))
        noise = jax.random.normal(jax.random.fold_in(key, 0), (1, 4, 4, 1))[0]
        found = restore("vae_lg_neural_l1", networks, y, {"seed": seed}, number=number)
        np.testing.assert_allclose(found, y + RATE * (noise - y), rtol=1e-5, atol=1e-6)
