"""AnoGAN: the networks and who gets gradients from which loss, a short training, and the search in latent space."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_variables
from ml_collections import ConfigDict

from configs import anogan as experiment
from lgjax import models
from lgjax.methods import anogan, names, runner, slicewise
from lgjax.models import gan
from lgjax.models.base import BoundModel, Model
from lgjax.restoration import loop

KEY = jax.random.key(5)
SIZE = 16


@pytest.fixture(scope="module")
def config():
    data = {"height": SIZE, "width": SIZE}
    precise = {"precision": "float32"}
    model = {"name": "anogan", "channels": (4, 8), "latent_size": 3}
    return ConfigDict({"data": data, "model": model, "train": precise, "restore": precise})


@pytest.fixture(scope="module")
def variables(config):
    """Random networks whose biases and running statistics are not those that training starts with."""
    return random_variables(config)


def discs(n, seed=0):
    """Round brains of constant intensity near 1 on the background of -3.5, [n, 16, 16, 1]; and their masks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    mask = np.hypot(rows, columns) < rng.uniform(4, 6, (n, 1, 1))
    return tuple(a[..., None].astype(np.float32) for a in (np.where(mask, rng.normal(1, 0.1, (n, 1, 1)), -3.5), mask))


def test_architecture():
    """The shapes at full size, nothing computed."""
    model = {"name": "anogan", "channels": (16, 32, 64, 128, 256), "latent_size": 64}
    config = ConfigDict({"data": {"height": 128, "width": 192}, "model": model})
    shapes = jax.eval_shape(models.from_config(config, "float32").init, KEY)["params"]
    generator, discriminator = shapes["generator"], shapes["discriminator"]
    assert generator["first"]["kernel"].shape == (64, 4 * 6 * 256)
    ups = [generator[f"up_{i}"]["conv"]["kernel"].shape[2:] for i in range(5)]
    assert ups == [(256, 256), (256, 128), (128, 64), (64, 32), (32, 16)]
    downs = [discriminator[f"down_{i}"]["kernel"].shape[2:] for i in range(5)]
    assert downs == [(1, 16), (16, 32), (32, 64), (64, 128), (128, 256)]
    assert discriminator["last"]["kernel"].shape == (4 * 6 * 256, 1)


def test_frozen_networks_are_the_trained_ones(config, variables):
    networks = models.from_config(config, "float32").bind(models.freeze(variables))
    z = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    network = gan.Generator((4, 8), SIZE, SIZE)
    part = {kind: tree["generator"] for kind, tree in variables.items()}
    expected = jax.jit(network.apply)(part, z)
    generated = jax.jit(jax.vmap(networks.generate))(z)
    assert generated.shape == (4, SIZE, SIZE, 1)
    np.testing.assert_allclose(generated, expected, rtol=1e-4, atol=1e-5)
    features = jax.jit(jax.vmap(networks.features))(generated)
    assert features.shape == (4, SIZE // 4, SIZE // 4, 8)
    last = variables["params"]["discriminator"]["last"]
    logits = np.asarray(features).reshape(4, -1) @ last["kernel"][:, 0] + last["bias"]
    part = {"params": variables["params"]["discriminator"]}
    judged = jax.jit(gan.Discriminator((4, 8)).apply)(part, generated)
    np.testing.assert_allclose(judged, logits, rtol=1e-4, atol=1e-5)


def test_closed_forms_of_the_losses():
    real, generated = np.float32([-2, 0.5, 3]), np.float32([1, -1])
    sigmoid = lambda a: 1 / (1 + np.exp(-a.astype(float)))  # noqa: E731
    expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(generated)).mean()
    np.testing.assert_allclose(gan.discriminator_loss(real, generated), expected, rtol=1e-6)
    np.testing.assert_allclose(gan.generator_loss(generated), -np.log(sigmoid(generated)).mean(), rtol=1e-6)
    np.testing.assert_allclose(gan.discriminator_loss(jnp.zeros(3), jnp.zeros(2)), 2 * math.log(2), rtol=1e-6)


def test_each_network_learns_from_its_own_loss_alone(config, variables):
    x, mask = discs(6)
    z = jax.random.normal(KEY, (6, 3))

    def generate(weights):
        part = {"params": weights, "batch_stats": variables["batch_stats"]["generator"]}
        return gan.Generator((4, 8), SIZE, SIZE).apply(part, z, True, mutable=["batch_stats"])

    def judge(weights, images):
        return gan.Discriminator((4, 8)).apply({"params": weights}, images)

    def of_generator(weights, params):
        generated, updates = generate(weights)
        return gan.generator_loss(judge(params["discriminator"], generated)), updates["batch_stats"]

    def of_discriminator(weights, params):
        return gan.discriminator_loss(judge(weights, x), judge(weights, generate(params["generator"])[0]))

    @jax.jit
    def separate(params):
        first = jax.value_and_grad(of_generator, has_aux=True)(params["generator"], params)
        return first, jax.value_and_grad(of_discriminator)(params["discriminator"], params)

    @jax.jit
    def together(params):
        loss = lambda p: models.from_config(config, "float32").loss({**variables, "params": p}, x, mask, KEY)  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(params)

    apart, joined = (jax.device_get(each(variables["params"])) for each in (separate, together))
    ((generator, stats), generator_gradient), (discriminator, discriminator_gradient) = apart
    (total, (updated, terms)), gradients = joined
    expected = {"loss": generator + discriminator, "generator": generator, "discriminator": discriminator}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, terms, expected)
    close(total, terms["loss"])
    jax.tree.map(close, updated, {"generator": stats})
    wanted = {"generator": generator_gradient, "discriminator": discriminator_gradient}
    jax.tree.map(close, gradients, wanted)
    for gradient in wanted.values():
        assert np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))) > 1e-2


def test_training_brings_generated_slices_to_the_data(config, variables):
    x, mask = discs(32)
    optimizer = optax.adam(2e-3, b1=0.5)

    @jax.jit
    def step(i, variables, state):
        def loss(params):
            return models.from_config(config, "float32").loss(
                {**variables, "params": params}, x, mask, jax.random.fold_in(KEY, i)
            )

        gradients, (stats, _) = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state)
        return {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, state

    @jax.jit
    def miss(variables):
        networks = models.from_config(config, "float32").bind(models.freeze(variables))
        generated = jax.vmap(networks.generate)(jax.random.normal(jax.random.key(1), (64, 3)))
        return jnp.abs(generated.mean(axis=0) - x.mean(axis=0)).mean()

    trained, state = variables, optimizer.init(variables["params"])
    for i in range(150):
        trained, state = step(i, trained, state)
    before, after = miss(variables), miss(trained)
    assert before > 2
    assert after < before / 2


MATRIX = np.random.default_rng(3).normal(size=(36, 3)).astype(np.float32)


def linear() -> BoundModel:
    """A generator 6x6 whose latents are identifiable, and features that mix neighbouring pixels."""
    return BoundModel(
        generate=lambda z: (jnp.asarray(MATRIX) @ z).reshape(6, 6, 1),
        features=lambda x: x[1:] - 0.5 * x[:-1],
    )


def observed(seed=0):
    """(z, G(z)) of the linear generator."""
    z = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    return z, (MATRIX @ z).reshape(6, 6, 1)


def search(y, mask, key=KEY, networks=None, **settings):
    return jax.device_get(searching(networks, **settings)(y, mask, key))


@functools.cache
def searching(networks=None, **changes):
    """A compiled search, through the linear generator where no networks are given."""
    settings = {"latent_size": 3, "iterations": 400, "learning_rate": 0.02, "feature_weight": 0.1} | changes
    return jax.jit(functools.partial(anogan.search, networks or linear(), **settings))


def test_search_finds_what_the_generator_made():
    _, y = observed()
    x, trace = search(y, np.ones_like(y))
    np.testing.assert_allclose(x, y, atol=0.05)
    assert trace.residual[-1] < 0.05 * trace.residual[0]
    assert (trace.change > 0).all()


def test_search_leaves_out_what_the_generator_cannot_make():
    """Absolute differences let a few wrong pixels be wrong; whatever stands outside the mask plays no part."""
    _, healthy = observed()
    mask = np.ones_like(healthy)
    mask[0] = 0
    y = np.where(mask > 0, healthy, -3.5).astype(np.float32)
    y[3, 2:4] += 6
    x, _ = search(y, mask)
    np.testing.assert_allclose(x[mask == 1], healthy[mask == 1], atol=0.1)
    np.testing.assert_array_equal(x[mask == 0], y[mask == 0])


def test_search_through_networks(config, variables):
    """A slice that the generator made is found again by a search that starts elsewhere."""
    networks = models.from_config(config, "float32").bind(models.freeze(variables))
    y = np.asarray(jax.jit(networks.generate)(jnp.array([0.4, -0.8, 0.2])))
    x, trace = search(y, np.ones_like(y), networks=networks, iterations=200, learning_rate=0.05)
    assert trace.residual[0] > 10 * np.abs(x - y).sum()


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_first_step_of_the_search(weight):
    """Costs at the start, and Adam's first step: learning_rate against the gradient's sign."""
    _, y = observed()
    start = np.asarray(jax.random.normal(KEY, (3,)))
    x = (MATRIX @ start).reshape(6, 6, 1)
    residual, mismatch = y - x, (y - x)[1:] - 0.5 * (y - x)[:-1]
    features = np.stack([row.reshape(6, 6, 1)[1:] - 0.5 * row.reshape(6, 6, 1)[:-1] for row in MATRIX.T])
    gradient = -(1 - weight) * MATRIX.T @ np.sign(residual).ravel()
    gradient -= weight * features.reshape(3, -1) @ np.sign(mismatch).ravel()
    found, trace = search(y, np.ones_like(y), iterations=1, feature_weight=weight)
    np.testing.assert_allclose(trace.residual, [np.abs(residual).sum()], rtol=1e-5)
    np.testing.assert_allclose(trace.features, [np.abs(mismatch).sum()], rtol=1e-5)
    np.testing.assert_allclose(trace.change, [np.abs(residual).mean()], rtol=1e-5)  # from y to the first x
    np.testing.assert_allclose(found.ravel(), MATRIX @ (start - 0.02 * np.sign(gradient)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [None, 0.9])
def test_weights_of_the_search(weight):
    """The terms pull the one latent apart: .9 of slope 1 up, .1 of slope 4 down. A config may weigh them otherwise."""
    networks = BoundModel(generate=lambda z: jnp.stack([2 * z[0], z[0]]).reshape(2, 1, 1), features=lambda x: 4 * x[1])
    y = np.float32([90, -90]).reshape(2, 1, 1)
    config = experiment.get_config()
    config.model.latent_size, config.restore.iterations = 1, 1
    if weight is not None:
        config.restore.feature_weight = weight
    method, model = names.parse("anogan"), Model(None, None, lambda params: networks, ())
    restorer = jax.jit(slicewise.restorer(method, runner.from_config(config), model))
    x = restorer(None, y[None], np.ones_like(y)[None], np.int32([3]), np.zeros(1, np.float32))[0][0]
    (key,) = loop.slice_keys(config.seed, np.int32([3]))
    start, way = float(jax.random.normal(key, (1,))[0]), -1 if weight else 1
    np.testing.assert_allclose(x.ravel(), np.array([2, 1]) * (start + way * config.restore.learning_rate), rtol=1e-5)


def test_vmap_over_slices():
    y = np.stack([observed(seed)[1] for seed in range(3)])
    mask = (np.random.default_rng(0).random(y.shape) < 0.8).astype(np.float32)
    keys = jax.random.split(KEY, 3)
    run = functools.partial(
        anogan.search, linear(), latent_size=3, iterations=40, learning_rate=0.02, feature_weight=0.1
    )
    together, traces = jax.jit(jax.vmap(run))(y, mask, keys)
    for i in range(3):
        x, trace = search(y[i], mask[i], keys[i], iterations=40)
        np.testing.assert_allclose(together[i], x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(traces.residual[i], trace.residual, rtol=1e-4)


def test_an_empty_slice_stays_as_it_is():
    y = np.full((6, 6, 1), -3.5, np.float32)
    x, trace = search(y, np.zeros_like(y), iterations=5)
    np.testing.assert_array_equal(x, y)
    assert all((part == 0).all() for part in trace)
