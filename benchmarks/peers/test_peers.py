"""The peer computes what lgjax computes: benchmarks/peers/.venv/bin/python -m pytest benchmarks/peers"""

import agreement
import jax
import numpy as np
import ours
import pytest
import restore
import theirs
import torch
import train
from kept import Kept
from model import Range, to_numpy, to_torch

from configs import vae as experiment
from lgjax import models
from lgjax.models import variance
from lgjax.restoration import priors


@pytest.fixture(scope="module")
def sides():
    return ours.Side("cpu", 2), theirs.Side("cpu", 2)


@pytest.fixture
def config():
    config = experiment.smoke()
    config.seed = 3
    config.data.height = config.data.width = 16
    config.model.channels = (4, 8)
    config.model.latent_channels = 4
    config.model.variance_channels = (4, 8, 4)
    config.model.variance_floor = 1e-3
    config.restore.samples_est, config.restore.samples_neural = 5, 2
    config.restore.iterations = 3
    return config


def test_everything_agrees(config, sides):
    found = agreement.check(config, sides[0].variables(config), *sides, agreement.METHODS, Kept(None, {}).part)
    assert len(found) == 17


@pytest.mark.parametrize("name", ["mean_head", "last", "log_variance_head"])
def test_a_wrong_weight_is_found(config, sides, name, monkeypatch):
    right = sides[0].variables(config)
    wrong = sides[0].variables(config)
    wrong["frozen"]["autoencoder"][name]["kernel"] = 1.01 * wrong["frozen"]["autoencoder"][name]["kernel"]
    outputs = sides[1].outputs
    monkeypatch.setattr(sides[1], "outputs", lambda config, frozen, *rest: outputs(config, wrong["frozen"], *rest))
    with pytest.raises(SystemExit, match="differ by"):
        agreement.check(config, right, *sides, agreement.METHODS, Kept(None, {}).part)


@pytest.mark.parametrize("method", list(restore.PRIORS))
def test_gradients_from_the_same_noise(config, sides, method):
    frozen = sides[0].variables(config)["frozen"]
    networks, floor = models.from_config(config, config.restore.precision).bind(frozen), config.model.variance_floor
    count = {"vae_lg_est_tv": 5, "vae_lg_neural_tv": 2, "vae_elbo_tv": 1}[method]
    prior = {
        "vae_lg_est_tv": priors.local_gaussian_estimated(networks, 5, floor),
        "vae_lg_neural_tv": priors.local_gaussian_neural(networks, 2),
        "vae_elbo_tv": priors.elbo(networks, config.model.reconstruction_weight),
    }[method]
    x, keys = agreement.make_slices(config, 3)[0], jax.random.split(jax.random.key(5), 3)
    split = (lambda key: [key]) if method == "vae_elbo_tv" else (lambda key: jax.random.split(key, count))
    draws = [[jax.random.normal(key, (4, 4, 4)) for key in split(slice_key)] for slice_key in keys]
    noise = np.array(draws).swapaxes(0, 1)  # [L, N, ...]
    expected = jax.vmap(prior)(x, keys).gradient
    turned = torch.stack([to_torch(one) for one in noise])
    found = restore.PRIORS[method](restore.Networks(config, frozen), config, to_torch(x), turned)
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_training_moves_the_running_statistics_alike(config, sides):
    variables = agreement.silence(sides[0].variables(config))
    x, mask, _ = agreement.make_slices(config, 8)
    _, updated = models.from_config(config, config.train.precision).loss(variables, x, mask, jax.random.key(0))
    expected, updated = updated[0]["autoencoder"]["up_1"]["first"]["norm"], updated[0]
    training = train.Training(config, variables, restore.Mode(), "cpu", x, mask)
    training.step()
    norm = training.networks.autoencoder.up[1].first.norm
    np.testing.assert_allclose(norm.running_mean, expected["mean"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.running_var, expected["var"], rtol=1e-3)  # n - 1 against n
    networks = training.networks
    for found, ends in (
        (networks.autoencoder.log_variance_range, updated["autoencoder"]["log_variance_range"]),
        (networks.variance.range, updated["variance"]["range"]),
    ):
        np.testing.assert_allclose((found.low, found.high), (ends["low"], ends["high"]), rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", [name for name, mode in restore.MODES["cuda"].items() if mode.graph or mode.cloned])
@pytest.mark.parametrize("method", list(restore.PRIORS))
def test_graphs_restore_as_eager_does(config, sides, method, mode, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    frozen = agreement.silence(sides[0].variables(config))["frozen"]
    modes = [restore.MODES["cuda"][name] for name in ("eager", mode)]
    eager, graph = (restore.Restoration(method, config, frozen, kind, "cuda") for kind in modes)
    y, mask, strength = agreement.make_slices(config, 3, isolated=True)
    for observed in (y, y + 0.5):  # the second batch replays what the first one captured
        expected = eager(observed, mask, strength)
        np.testing.assert_allclose(graph(observed, mask, strength), expected, atol=1e-3)


def test_log_variances_are_bound_as_ours_are():
    log_variance, ends = np.linspace(-4, 4, 33, dtype=np.float32), (-1.5, 0.7)
    bound = Range().eval()
    bound.low.fill_(ends[0]), bound.high.fill_(ends[1])
    found = bound(torch.from_numpy(log_variance))
    np.testing.assert_allclose(found, variance.bound(log_variance, *ends), rtol=1e-6)


@pytest.mark.parametrize("mode", ["lgjax", "lgjax_graph"])
def test_both_of_our_modes_restore_the_same(config, sides, mode):
    variables = agreement.silence(sides[0].variables(config))
    slices = agreement.make_slices(config, 2, isolated=True)
    restored = sides[0].prepare(config, variables, "vae_lg_neural_tv", mode, slices)
    np.testing.assert_array_equal(restored, sides[0].restored(config, variables["frozen"], "vae_lg_neural_tv", slices))
