"""Kernels of lgjax's own are used where a device compiles them and they compute what XLA's forms compute."""

import functools
import logging

import jax
import numpy as np
import pytest
from conftest import random_variables, shrunk

from lgjax import models
from lgjax.methods import names, own_kernels, runner
from lgjax.methods.local import Settings
from lgjax.models import convolutions, decoder_kernel, variance_kernel
from lgjax.runtime import devices
from lgjax.speed.synthetic import brain_like

GPU = "NVIDIA H200"
SETTINGS = Settings(0, "tensorfloat32", 0, None, variance_form="auto", decoder_form="auto")


@pytest.fixture(scope="module")
def model():
    """A toy VAE in a precision that has both kernels, and its frozen parameters."""
    config = shrunk("vae")
    return models.from_config(config, SETTINGS.precision), models.freeze(random_variables(config))


def interpreted(model, monkeypatch, factor=1.0):
    """Has both kernels computed on this device; the one of the variance network wrong by a factor.

    The factor is one of the parameters of the model that is returned, so that one program serves for all factors.
    """
    network, params = model
    decoded, varied = (functools.partial(kernel.output, interpret=True) for kernel in (decoder_kernel, variance_kernel))
    monkeypatch.setattr(decoder_kernel, "output", decoded)

    def bind(params):
        monkeypatch.setattr(variance_kernel, "output", lambda *given: params["factor"] * varied(*given))
        return network.bind({name: part for name, part in params.items() if name != "factor"})

    return network._replace(bind=bind), {**params, "factor": np.float32(factor)}


def trusted(model, size=(16, 16)):
    network, params = model
    with convolutions.forms(GPU):
        return own_kernels.trusted(network.bind, params, size, SETTINGS)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, convolutions.PARTS),
        ({"precision": "bfloat16", "variance_form": "plain"}, (convolutions.DECODER,)),
        ({"decoder_form": "plain"}, (convolutions.VARIANCE,)),
        ({"precision": "float32"}, ()),
    ],
)
def test_the_settings_say_what_is_wanted(changes, parts):
    assert own_kernels.wanted(SETTINGS._replace(**changes)) == parts


def test_the_settings_are_those_of_the_config():
    """Models without these networks have no such values."""
    config = shrunk("gmvae")
    config.restore.precision, config.restore.decoder_form = "bfloat16", "plain"
    assert own_kernels.wanted(runner.from_config(config)) == (convolutions.VARIANCE,)
    assert own_kernels.wanted(runner.from_config(shrunk("restorer"))._replace(precision="bfloat16")) == ()


@pytest.mark.parametrize(("factor", "said"), [(1.0, []), (1.2, [own_kernels.WRONG]), (np.nan, [own_kernels.WRONG])])
def test_a_kernel_that_computes_something_else_is_found_out(model, monkeypatch, caplog, factor, said):
    model = interpreted(model, monkeypatch, factor)
    assert trusted(model) == (() if said else convolutions.PARTS)
    assert [record.message for record in caplog.records] == said


def test_a_kernel_that_cannot_be_compiled_is_left_alone(model, caplog):
    """Pallas refuses to compile for a CPU."""
    assert not trusted(model)
    assert [record.message for record in caplog.records] == [own_kernels.REFUSED]


def test_a_kernel_wrong_beyond_the_bound_alone_is_found_out(model, monkeypatch, caplog):
    """Trained variances lie at the ends of their range for noise, where the bound makes all alike."""
    _, params = model
    held = jax.tree.map(lambda _: np.float32(-20), params["variance"]["range"])
    network, params = interpreted(model, monkeypatch, 3.0)
    assert not trusted((network, {**params, "variance": {**params["variance"], "range": held}}))
    assert [record.message for record in caplog.records] == [own_kernels.WRONG]


@pytest.mark.parametrize(
    ("kind", "method"), [("cpu", "vae_lg_neural_tv"), (GPU, "intensity"), (GPU, "gmm"), (GPU, "vae_elbo_tv")]
)
def test_nobody_is_asked_where_there_is_no_such_kernel(model, monkeypatch, kind, method):
    """The gradient of the bound has none, whatever else the model has."""
    monkeypatch.delattr(own_kernels, "trusted")
    network, params = model
    settings = runner.from_config(shrunk("vae"))._replace(precision=SETTINGS.precision, iterations=1)
    made = runner.Runner(names.parse(method), settings, network, params, devices.mesh(jax.devices()[:1]))
    with convolutions.forms(kind):
        if method == "gmm":
            made.programs.settle(np.zeros(50, np.float32))
        else:
            made.programs.settle(params, *made.place([*brain_like(0, 2, 16, 16), np.ones(2, np.float32)]))
    assert (made.programs.fused, made.kernels) == ((), "XLA")


def test_what_asks_nobody_gets_the_forms_of_xla(model):
    """Such as training, which draws what the model makes of slices."""
    network, params = model
    with convolutions.forms(GPU):
        drawn = jax.jit(lambda params, x: network.bind(params).variance(x))
        assert "pallas_call" not in str(drawn.trace(params, np.ones((16, 16, 1), np.float32)).jaxpr)


def test_a_restoration_goes_on_with_what_is_right(model, monkeypatch, caplog):
    """A kernel whose variances are ten times too large would restore something else, and nobody would see it."""
    network, params = interpreted(model, monkeypatch, 10.0)
    settings = runner.from_config(shrunk("vae"))._replace(precision=SETTINGS.precision, iterations=3)
    slices = brain_like(0, 2, 16, 16)

    def restored(kind):
        made = runner.Runner(
            names.parse("vae_lg_neural_tv"), settings, network, params, devices.mesh(jax.devices()[:1])
        )
        with convolutions.forms(kind):
            found = np.concatenate([x for x, _ in made(slices, np.ones(2, np.float32))])
        assert made.kernels == "XLA"
        return found

    with caplog.at_level(logging.WARNING):
        found = restored(GPU)
    assert [record.message for record in caplog.records] == [own_kernels.WRONG]
    np.testing.assert_allclose(found, restored("plain"), atol=1e-4)
