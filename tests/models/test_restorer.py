"""The restorer: the anomalies it learns from, what training does, its variance, and how it is judged on known pairs."""

import jax
import ml_collections
import numpy as np
import optax
import pytest
from images import disc

from lgjax import models
from lgjax.models import anomalies, blocks, restorer, variance

SATURATION = (-2.0, 1.5)


@pytest.fixture(scope="module")
def config():
    """A U-Net of two small levels for 16x16 slices."""
    return ml_collections.ConfigDict(
        {
            "data": {"height": 16, "width": 16, "saturation": SATURATION},
            "model": {"name": "restorer", "channels": (8, 16), "variance_floor": 0.01},
            "train": {"precision": "float32"},
            "restore": {"precision": "float32"},
        }
    )


@pytest.fixture(scope="module")
def model(config):
    return models.from_config(config, "float32")


def toy(count, seed):
    """Healthy toy slices, [count, 16, 16, 1]: a disc whose left half is darker; and masks."""
    rng = np.random.default_rng(seed)
    mask = np.broadcast_to(disc(16, 7), (count, 16, 16, 1))
    left = (np.arange(16) < 8)[None, None, :, None]
    x = np.where(mask > 0, rng.uniform(0.5, 1.0, (count, 1, 1, 1)) * np.where(left, -1.0, 1.0), -2.0)
    return x.astype(np.float32), mask


def drawn(function, count, *arguments):
    return np.asarray(
        jax.jit(jax.vmap(lambda key: function(key, *arguments)))(jax.random.split(jax.random.key(0), count))
    )


# Anomalies.


@pytest.mark.parametrize("cells", [4.0, 12.0])
def test_noise_is_smooth_at_the_scale_of_its_cells_and_varies_alike_everywhere(cells):
    noise = drawn(anomalies.smooth_noise, 800, cells, (64, 64, 1))[..., 0]
    lag = int(64 / cells)

    def correlation(pixels):
        return (noise[:, :, pixels:] * noise[:, :, : 64 - pixels]).mean()

    np.testing.assert_allclose((noise**2).mean(axis=(1, 2)), 1, rtol=1e-4)
    assert correlation(1) > 0.8
    assert correlation(max(1, lag // 2)) > 0.3
    assert abs(correlation(2 * lag)) < 0.15
    assert np.ptp(noise.std(axis=0)) < 0.4  # a fixed lattice would leave the places between its nodes quieter
    steps = np.abs(np.diff(noise, axis=2)).mean(axis=(0, 1))
    assert steps.max() < 1.3 * np.median(steps)  # no seam


@jax.jit
@jax.vmap
def corrupt(key, x, other, mask):
    """Corrupts 400 slices, by one program for all tests."""
    return anomalies.corrupt(key, x, other, mask)


def of_400(part):
    """As many slices, or keys, as `corrupt` is compiled for, from a few that are repeated."""
    return part[np.arange(400) % len(part)]


def corruptions(x, other, mask):
    """400 corruptions of a slice, [16, 16, 1], beside another one."""
    given = (of_400(part[None]) for part in (x, other, mask))
    return np.asarray(corrupt(jax.random.split(jax.random.key(0), 400), *given))


@pytest.fixture(scope="module")
def corrupted():
    """A healthy slice and its mask, [16, 16, 1], and 400 corruptions of the slice."""
    x, mask = toy(2, 0)
    return x[0], mask[0], corruptions(x[0], x[1], mask[0])


def test_outside_the_brain_nothing_changes_and_some_slices_stay_healthy(corrupted):
    x, mask, seen = corrupted
    assert (seen[:, mask == 0] == x[mask == 0]).all()
    untouched = (np.abs(seen - x).max(axis=(1, 2, 3)) < 1e-3).mean()
    # No blob, no coarse and no white noise: .55^3 x .6 x .6 = .060
    assert 0.02 < untouched < 0.12


def test_anomalies_are_brighter_or_darker_and_seldom_the_same(corrupted):
    x, mask, seen = corrupted
    change = (seen - x)[:, mask > 0]
    assert (change > 1).any(axis=1).mean() > 0.3
    assert (change < -0.7).any(axis=1).mean() > 0.15
    assert change.mean() > 0  # shifts are bright rather than dark
    assert np.ptp(change.std(axis=0)) < 0.5  # every place is as often ill


def test_in_some_anomalies_the_tissue_of_another_slice_replaces_a_share_of_the_tissue():
    """The share is how much is seen of a change of the other slice. Of three blobs each swaps with .45 x .5."""
    (x, _), (mask, _) = toy(2, 0)
    unmoved, *moved = (corruptions(x, x + change, mask) for change in (0, 1, -2))
    share, again = ((seen - unmoved) / change for seen, change in zip(moved, (1, -2), strict=True))
    np.testing.assert_allclose(share, again, atol=1e-5)
    assert share.min() > -1e-5
    assert 0.7 < share.max() < 1 + 1e-5
    assert 0.2 < (share.max(axis=(1, 2, 3)) > 0.1).mean() < 1 - (1 - 0.45 * 0.5) ** 3


def test_blobs_lie_on_both_sides_as_often_as_is_said():
    keys = jax.random.split(jax.random.key(3), 3000)
    mask = np.asarray(jax.jit(jax.vmap(lambda key: anomalies.blob(key, (32, 32, 1))))(keys))
    assert mask.min() >= 0
    assert mask.max() <= 1
    there = mask.max(axis=(1, 2, 3)) > 0
    symmetric = (np.abs(mask - mask[:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-6)[there]
    expected = anomalies.BILATERAL
    assert abs(symmetric.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / there.sum())
    assert abs(there.mean() - anomalies.PRESENT) < 4 * np.sqrt(0.25 / 3000)


def test_blobs_are_small_and_large():
    keys = jax.random.split(jax.random.key(4), 2000)
    area = np.asarray(jax.jit(jax.vmap(lambda key: anomalies.blob(key, (96, 96, 1))))(keys)).sum(axis=(1, 2, 3)) * 4
    area = area[area > 1]  # mm^2, of 2 mm pixels
    assert np.quantile(area, 0.1) < np.pi * 15**2
    assert np.quantile(area, 0.9) > np.pi * 20**2


# The model.


def errors(residual, spread, mask, floor):
    """What the losses are, in NumPy: means over the brain."""
    inside = mask > 0
    sigma2 = np.exp(spread) + floor
    terms = {
        "squared": residual**2,
        "absolute": np.abs(residual),
        "variance": (np.log(sigma2) + residual**2 / sigma2) / 2,
    }
    return {name: values[inside].mean() for name, values in terms.items()}


@pytest.fixture(scope="module")
def untrained(model):
    """Variables before training."""
    return jax.jit(model.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def loss(model):
    """The loss as one program for all tests."""
    return jax.jit(model.loss)


def test_the_loss_is_of_the_healthy_slice_and_its_variance(untrained, loss):
    x, mask = toy(3, 1)
    variables, key = untrained, jax.random.key(5)
    total, (_, terms) = loss(variables, x, mask, key)
    given = jax.random.split(key, 3), x, np.roll(x, 1, axis=0), mask
    seen = corrupt(*(of_400(part) for part in given))[:3]
    network = restorer.Restorer((8, 16))
    given = np.clip(seen, *SATURATION), True, mask
    (restored, spread), _ = jax.jit(lambda v: network.apply(v, *given, mutable=["batch_stats"]))(variables)
    expected = errors(x - np.asarray(restored), np.asarray(spread), mask, 0.01)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4)
    np.testing.assert_allclose(terms["loss"], expected["squared"] + expected["absolute"], rtol=1e-4)
    np.testing.assert_allclose(total, sum(expected.values()), rtol=1e-4)


def test_the_network_sees_and_learns_saturated_slices_alone(untrained, loss):
    """A voxel beyond the saturation, as a change of contrast makes it, is the same to the loss as one that is at it."""
    x, mask = toy(3, 1)
    variables, key = untrained, jax.random.key(5)
    beyond = np.where(x > 0.4, x + 3, x).astype(np.float32)
    np.testing.assert_array_equal(
        loss(variables, beyond, mask, key)[0], loss(variables, np.clip(beyond, *SATURATION), mask, key)[0]
    )


def test_no_gradient_of_the_variance_reaches_the_network(model, untrained):
    x, mask = toy(2, 1)

    def likelihood(params):
        return model.loss({**untrained, "params": params}, x, mask, jax.random.key(5))[1][1]["variance"]

    slope = jax.jit(jax.grad(likelihood))(untrained["params"])
    largest = {name: max(float(np.abs(part).max()) for part in jax.tree.leaves(slope[name])) for name in slope}
    assert largest.pop("log_variance") > 0
    assert set(largest.values()) == {0.0}


@pytest.fixture(scope="module")
def trained(model, untrained):
    """Variables after 80 steps on toy slices."""
    x, mask = toy(8, 0)
    variables, adam = untrained, optax.adam(optax.cosine_decay_schedule(1e-2, 80))

    @jax.jit
    def step(variables, state, key):
        def loss(params):
            return model.loss({**variables, "params": params}, x, mask, key)

        gradient, (stats, _) = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = adam.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, state

    state = jax.jit(adam.init)(variables["params"])
    for i in range(80):
        variables, state = step(variables, state, jax.random.key(i))
    return variables


def ill(x, mask):
    """Slices with a bright square in the dark half."""
    square = np.zeros_like(x)
    square[:, 6:10, 3:7] = 1.8
    return np.clip(x + square * mask, *SATURATION).astype(np.float32)


@pytest.fixture(scope="module")
def frozen(trained):
    """The same, for restoration."""
    return jax.jit(models.freeze)(trained)


def test_training_restores_an_anomaly_made_in_another_way(model, trained, frozen):
    x, mask = toy(16, 1)
    networks = model.bind(frozen)
    seen = ill(x, mask)
    restored = np.asarray(jax.jit(jax.vmap(networks.reconstruct))(seen))
    before, after = (np.mean((image - x)[mask > 0] ** 2) for image in (seen, restored))
    assert after < 0.3 * before
    found, made = ((seen - image)[mask > 0] for image in (restored, x))
    missed = jax.jit(model.judge)(trained, seen, x, mask)["restoration"]
    np.testing.assert_allclose(missed, 1 - np.corrcoef(found, made)[0, 1], atol=1e-4)


def test_samples_are_the_reconstruction_and_slices_stand_alone(model, trained, frozen):
    networks = model.bind(frozen)
    x, _ = toy(3, 4)
    together = np.asarray(jax.jit(jax.vmap(networks.reconstruct))(x))
    draws = np.asarray(jax.jit(lambda x: networks.samples(x, jax.random.key(0), 2))(x[1]))
    assert draws.shape == (2, 16, 16, 1)
    for draw in draws:
        np.testing.assert_allclose(draw, together[1], atol=1e-5)
    restored, spread = jax.jit(restorer.Restorer((8, 16)).apply)(trained, x)
    np.testing.assert_allclose(together, restored, atol=1e-4)
    sigma2 = np.asarray(jax.jit(jax.vmap(networks.variance))(x))
    np.testing.assert_allclose(sigma2, np.exp(spread) + 0.01, rtol=1e-3)


def test_the_variance_is_bound_at_an_image_that_training_never_saw(model, frozen):
    networks = model.bind(frozen)
    sigma2 = np.asarray(jax.jit(networks.variance)(np.full((16, 16, 1), 50, np.float32)))
    high = frozen["range"]["high"]
    assert (sigma2 <= np.exp(high + variance.WIDTH) + 0.01 + 1e-6).all()


def test_offers_reconstruction_and_the_local_gaussian(model):
    networks = model.bind({})
    assert networks.elbo is None
    assert networks.generate is None
    assert model.supports == ("reconstruction", "lg_neural")
    assert blocks.fold({}, {}) == {}
