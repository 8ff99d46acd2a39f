"""The adversarial auto-encoder: codes that become standard normal, losses that stay apart, one-slice functions."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from lgjax import models
from lgjax.models import aae


@pytest.fixture
def config():
    """An auto-encoder of one block for 8x8 slices: 4x4x1 latents."""
    return ml_collections.ConfigDict(
        {
            "data": {"height": 8, "width": 8},
            "train": {"precision": "float32"},
            "model": {
                "name": "aae",
                "channels": (4,),
                "latent_channels": 1,
                "variance_channels": (4,),
                "variance_target": "likelihood",
                "variance_floor": 1e-3,
                "reconstruction_weight": 1.0,
                "adversarial_weight": 1.0,
                "gradient_penalty": 1.0,
                "discriminator_features": (32, 32),
            },
        }
    )


def initialise(config):
    return jax.jit(models.from_config(config, "float32").init)(jax.random.key(0))


def toy(count, seed=0):
    """Slices of 2x2 blocks of independent intensities, [count, 8, 8, 1]."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.normal(size=(count, 4, 4, 1)), np.ones((1, 2, 2, 1))).astype(np.float32)


@pytest.fixture
def codes_after_training(config):
    """Makes codes [256, 16] of training slices, statistics frozen, and the mean squared error of a pixel.

    By one program for all weights of the adversarial loss.
    """
    x, rng, config.model.variance_channels = toy(256), np.random.default_rng(1), ()  # the codes know of no variance
    batches = np.stack([x[rng.permutation(256)[:24]] for _ in range(120)])
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, 250), b1=0.5)

    @jax.jit
    def train(variables, weight):
        with config.ignore_type():
            config.model.adversarial_weight = weight
        model = models.from_config(config, "float32")

        def step(carry, given):
            (variables, state), (batch, key) = carry, given

            def loss(params):
                return model.loss({**variables, "params": params}, batch, jnp.ones_like(batch), key)

            gradient, (stats, _) = jax.grad(loss, has_aux=True)(variables["params"])
            updates, state = adam.update(gradient, state)
            return ({"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, state), None

        keys = jax.random.split(jax.random.key(1), 120)
        return jax.lax.scan(step, (variables, adam.init(variables["params"])), (batches, keys))[0][0]

    variables = initialise(config)
    encode = jax.jit(functools.partial(aae.AAE((4,), 1, normalise=False).apply, method="autoencode"))
    freeze = jax.jit(models.freeze)

    def codes(adversarial_weight):
        trained = train(variables, adversarial_weight)
        reconstruction, z = encode({"params": freeze(trained)["autoencoder"]}, x)
        return np.asarray(z).reshape(256, 16), float(((reconstruction - x) ** 2).mean())

    return codes


def test_codes_become_standard_normal_and_only_by_the_discriminator(codes_after_training):
    z, error = codes_after_training(1.0)
    assert np.abs(z.mean(axis=0)).mean() < 0.12
    assert np.abs(z.std(axis=0) - 1.0).mean() < 0.15
    assert error < 0.1  # of a variance of 1
    free, _ = codes_after_training(0.0)
    assert np.abs(free.mean(axis=0)).mean() > 0.2
    assert np.abs(free.std(axis=0) - 1.0).mean() > 0.3


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_each_loss_moves_its_own_network_alone(config):
    variables, x = initialise(config), toy(8)
    owners = {
        "loss": "autoencoder",
        "reconstruction": "autoencoder",
        "adversarial": "autoencoder",
        "discriminator": "discriminator",
        "variance": "variance",
        "penalty": "discriminator",
    }

    @jax.jit
    @jax.jacrev
    def gradients(params):
        total, (_, terms) = models.from_config(config, "float32").loss(
            {**variables, "params": params}, x, jnp.ones_like(x), jax.random.key(2)
        )
        penalty = total - terms["loss"] - terms["discriminator"] - terms["variance"]
        return {**terms, "penalty": penalty}

    found = gradients(variables["params"])
    sixteen = 16 * config.model.adversarial_weight  # latents of a slice: the pull on each does not depend on them
    parts = (found[part]["autoencoder"] for part in ("loss", "reconstruction", "adversarial"))
    for whole, error, adversarial in zip(*map(jax.tree.leaves, parts), strict=True):
        np.testing.assert_allclose(whole, error + sixteen * adversarial, rtol=1e-3, atol=1e-4)
    for part, by_network in found.items():
        norms = {name: np.linalg.norm(flat(tree)) for name, tree in by_network.items()}
        assert norms.pop(owners.pop(part)) > 0
        # The penalty is a difference of sums, whose gradients cancel to rounding.
        assert max(norms.values()) < (1e-3 if part == "penalty" else 1e-12)
    assert not owners


def test_logistic_losses_against_the_definition():
    zeros = jnp.zeros(5)
    assert np.isclose(aae.discriminator_loss(zeros, zeros), 2 * np.log(2))
    rng = np.random.default_rng(0)
    drawn, coded = rng.normal(size=(2, 100)) * 3
    p, q = 1 / (1 + np.exp(-drawn)), 1 / (1 + np.exp(-coded))
    assert np.isclose(aae.discriminator_loss(drawn, coded), -np.log(p).mean() - np.log(1 - q).mean(), rtol=1e-5)
    assert np.isclose(aae.adversarial_loss(coded), -np.log(q).mean(), rtol=1e-5)
    assert np.isfinite(aae.discriminator_loss(jnp.array([-1e4]), jnp.array([1e4])))


def test_gradient_penalty_of_a_quadratic_judge():
    z = np.random.default_rng(0).normal(size=(6, 2, 2, 3)).astype(np.float32)
    penalty = aae.gradient_penalty(lambda z: 0.5 * (z**2).sum(axis=(1, 2, 3)), jnp.asarray(z))
    assert np.isclose(penalty, (z**2).sum(axis=(1, 2, 3)).mean(), rtol=1e-5)


def test_bound_functions_are_of_one_slice_and_without_noise(config):
    variables, x = initialise(config), toy(3)
    assert "log_variance_head" not in variables["params"]["autoencoder"]
    networks = models.from_config(config, "float32").bind(jax.jit(models.freeze)(variables))
    assert networks.elbo is None

    @jax.jit
    def alone(x):
        return networks.reconstruct(x), networks.variance(x), networks.samples(x, jax.random.key(4), 5)

    together = jax.jit(jax.vmap(lambda x: (networks.reconstruct(x), networks.variance(x))))(x)
    reconstruction, sigma2, samples = alone(x[1])
    for found, expected in zip(together, (reconstruction, sigma2), strict=True):
        assert found.shape == x.shape
        np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(samples, reconstruction[None], atol=1e-6)
    frozen = jax.jit(functools.partial(aae.AAE((4,), 1).apply, method="autoencode"))(
        {name: tree["autoencoder"] for name, tree in variables.items()}, x
    )
    np.testing.assert_allclose(together[0], frozen[0], atol=1e-4)
