"""The denoising auto-encoder: its noise, what training does, and one-slice results that know no neighbours."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from images import disc

from lgjax import models
from lgjax.models import blocks, dae


@pytest.fixture(scope="module")
def config():
    """A U-Net of two small levels for 16x16 slices."""
    return ml_collections.ConfigDict(
        {
            "data": {"height": 16, "width": 16},
            "model": {"name": "dae", "channels": (4, 8)},
            "train": {"noise_cells": 4, "noise_std": 1.0, "precision": "float32"},
            "restore": {"precision": "float32"},
        }
    )


@pytest.fixture(scope="module")
def variables(config):
    """Variables as training starts with them."""
    return jax.jit(models.from_config(config, "float32").init)(jax.random.key(0))


def toy(count, seed):
    """Healthy toy slices, [count, 16, 16, 1]: a disc with a brighter left half, the contrast differs; and masks."""
    rng = np.random.default_rng(seed)
    mask = np.broadcast_to(disc(16, 7), (count, 16, 16, 1))
    left = (np.arange(16) < 8)[None, None, :, None]
    x = np.where(mask > 0, rng.uniform(0.5, 1.5, (count, 1, 1, 1)) * np.where(left, 1.0, -1.0), -3.5)
    return x.astype(np.float32), mask


def draw_noise(count, mask, cells, std):
    keys = jax.random.split(jax.random.key(1), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: dae.coarse_noise(key, jnp.asarray(mask), cells, std)))(keys))


def test_noise_has_its_statistics_inside_the_brain_only():
    mask = disc(64, 28)
    noise = draw_noise(400, mask, 8, 0.7)
    assert (noise[:, mask == 0] == 0).all()
    inside = noise[:, mask > 0]
    # 400 slices with about 40 independent cells each: standard errors of 0.006 and 0.004.
    assert abs(inside.mean()) < 0.03
    assert abs(inside.std() - 0.7) < 0.03
    # The shift leaves no pixel quieter than another, as bilinear interpolation of a fixed grid would.
    assert np.ptp(inside.std(axis=0)) < 0.25


def test_noise_is_smooth_at_the_scale_of_its_cells():
    noise = draw_noise(200, np.ones((64, 64, 1), np.float32), 8, 1.0)[..., 0]

    def correlation(lag):
        return (noise[:, :, lag:] * noise[:, :, : noise.shape[2] - lag]).mean()

    assert correlation(1) > 0.9
    assert correlation(4) > 0.3
    assert abs(correlation(24)) < 0.05


def test_noise_differs_by_key_and_is_reproducible():
    noise = draw_noise(3, disc(16, 7), 4, 1.0)
    np.testing.assert_array_equal(noise, draw_noise(3, disc(16, 7), 4, 1.0))
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    assert np.abs(noise[1] - noise[2]).max() > 0.1


def test_every_slice_of_a_batch_has_its_own_noise(config, variables):
    """Two equal slices in a batch of two: their parts of the loss come from different noise."""
    x, mask = toy(1, 0)
    pair = [np.concatenate([a, a]) for a in (x, mask)]
    loss = jax.jit(lambda variables, key: models.from_config(config, "float32").loss(variables, *pair, key)[0])(
        variables, jax.random.key(5)
    )
    keys = jax.random.split(jax.random.key(5), 2)
    draw = jax.jit(lambda key: dae.coarse_noise(key, jnp.asarray(mask[0]), 4, 1.0))
    noise = np.stack([draw(key) for key in keys])
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    apply = jax.jit(lambda variables, x: dae.UNet((4, 8)).apply(variables, x, True, mutable=["batch_stats"])[0])
    denoised = apply(variables, pair[0] + noise)
    expected = np.mean((np.asarray(denoised) - pair[0])[pair[1] > 0] ** 2)
    assert np.isclose(loss, expected, rtol=1e-5)


def test_training_removes_noise(config, variables):
    x, mask = toy(32, 0)
    adam = optax.adam(1e-2)

    @jax.jit
    def step(variables, state, key):
        def loss(params):
            return models.from_config(config, "float32").loss({**variables, "params": params}, x, mask, key)

        gradient, (stats, _) = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = adam.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, state

    state = adam.init(variables["params"])
    for i in range(80):
        variables, state = step(variables, state, jax.random.key(i))
    new, mask = toy(16, 1)
    noisy = new + draw_noise(16, mask[0], 4, 1.0)
    networks = models.from_config(config, "float32").bind(blocks.fold(variables["params"], variables["batch_stats"]))
    denoised = np.asarray(jax.jit(jax.vmap(networks.reconstruct))(noisy))
    inside = mask > 0
    before, after = (np.mean((image - new)[inside] ** 2) for image in (noisy, denoised))
    assert after < 0.2 * before


@pytest.mark.parametrize(("height", "width"), [(8, 24), (20, 6)])
def test_any_size_divisible_by_the_coarsest_level_works_and_slices_stand_alone(config, variables, height, width):
    params = blocks.fold(variables["params"], variables["batch_stats"])
    x = np.random.default_rng(0).normal(size=(3, height, width, 1)).astype(np.float32)
    networks = models.from_config(config, "float32").bind(params)
    together = jax.jit(jax.vmap(networks.reconstruct))(x)
    assert together.shape == x.shape
    alone = jax.jit(networks.reconstruct)(x[1])
    np.testing.assert_allclose(together[1], alone, atol=1e-5)
    # Folded and bound, it is the trained network with frozen statistics.
    frozen = jax.jit(dae.UNet((4, 8)).apply)(variables, x)
    np.testing.assert_allclose(together, frozen, atol=1e-4)


def test_offers_reconstruction_alone(config):
    networks = models.from_config(config, "float32").bind({})
    assert [name for name, part in networks._asdict().items() if part is not None] == ["reconstruct"]
    assert dae.SUPPORTS == ("reconstruction",)
