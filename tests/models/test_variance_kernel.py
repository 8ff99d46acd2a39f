"""The variance network as one kernel: the same values as layer by layer, one call on a GPU, plain where refused."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn
from programs import an_absent_gpu

from lgjax.methods import names, own_kernels, programs
from lgjax.methods.local import Settings
from lgjax.models import convolutions, precision, variance, variance_kernel
from lgjax.runtime import devices

GPU = "NVIDIA H200"
SMALL, PAPER = (3, 5), (8, 16, 8)


def network(channels, target="likelihood"):
    """A variance network's settings with random parameters, biases and range included."""
    settings = variance.Settings(channels, target, 0.1)
    params = drawn(functools.partial(variance.init, settings))["params"]
    return settings, {**params, "range": {"low": jnp.float32(-1.0), "high": jnp.float32(1.0)}}


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=(*shape, 1)), jnp.float32)


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel computed on this device, wherever it is taken for an NVIDIA GPU."""
    compute = functools.partial(variance_kernel.output, interpret=True)
    monkeypatch.setattr(variance_kernel, "output", compute)


@functools.partial(jax.jit, static_argnums=0)
def plain(settings, params, x):
    """Sigma2 layer by layer."""
    return variance.predict(settings, params, x)


def fused(settings, params, x):
    """Sigma2 by the kernel."""
    with convolutions.forms(GPU), convolutions.fusion((convolutions.VARIANCE,)):
        return jax.jit(functools.partial(variance.predict, settings))(params, x)


@pytest.mark.parametrize(
    ("channels", "size"),
    [(PAPER, (18, 51)), (SMALL, (2, 259)), ((), (1, 1))],
    ids=["several rows of programs", "several strips", "one layer, one pixel"],
)
def test_the_kernel_is_the_plain_form(interpreted, channels, size):
    settings, params = network(channels)
    x = images(3, *size)
    expected = plain(settings, params, x)
    np.testing.assert_allclose(fused(settings, params, x), expected, rtol=1e-5)
    assert np.ptp(expected) > 0.5 or size == (1, 1)


def test_beyond_the_image_every_layer_is_zero(interpreted):
    """By the definition, pixel by pixel in float64; a bias of 5 would show."""
    _, params = network(SMALL)
    params["Conv_0"]["bias"] = params["Conv_0"]["bias"] + 5
    x = images(1, 4, 6)
    y = np.asarray(x[0], np.float64)
    for number in range(3):
        kernel, bias = params[f"Conv_{number}"]["kernel"], params[f"Conv_{number}"]["bias"]
        wide = np.pad(y, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (0, 1))
        y = np.einsum("hwcij,ijcf->hwf", windows, kernel) + bias
        y = np.where((y > 0) | (number == 2), y, 0.2 * y)
    layers = [tuple(params[f"Conv_{number}"][name] for name in ("kernel", "bias")) for number in range(3)]
    np.testing.assert_allclose(jax.jit(variance_kernel.output)(layers, x)[0], y, rtol=1e-5, atol=1e-5)


def test_slices_alone_by_vmap_and_in_bfloat16(interpreted):
    """As a restoration asks; the kernel rounds less than the plain form, which rounds results to bfloat16 too."""
    settings, params = network(SMALL, "absolute")
    x = images(2, 20, 12)
    params = precision.cast(params, "bfloat16")
    each = jax.vmap(lambda one: variance.predict(settings, params, one[None])[0])
    with convolutions.forms(GPU), convolutions.fusion((convolutions.VARIANCE,)):
        found = jax.jit(each)(x)
    exact = plain(settings, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), x)
    np.testing.assert_allclose(found, exact, rtol=0.05)
    assert not np.array_equal(found, exact)


def test_gradients_are_those_of_the_plain_form(interpreted):
    settings, params = network(())
    x = images(1, 5, 7)
    found, expected = (
        jax.jit(jax.grad(lambda p, x, compute=compute: jnp.log(compute(settings, p, x)).sum(), (0, 1)))(params, x)
        for compute in (fused, plain)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("kind", "channels", "parts", "calls"),
    [
        ("", PAPER, convolutions.PARTS, 1),
        ("cpu", PAPER, convolutions.PARTS, 0),
        ("", PAPER, (convolutions.DECODER,), 0),
        ("", (64, 64), convolutions.PARTS, 0),
    ],
)
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # since jax 0.11
def test_one_kernel_on_a_gpu_alone(kind, channels, parts, calls):
    """In the program lowered for CUDA, which needs no GPU; nothing else computes there before the bound."""
    settings, params = network(channels)
    with (
        an_absent_gpu(),
        convolutions.forms(kind),
        convolutions.fusion(parts),
        precision.matmul_precision("tensorfloat32"),
    ):
        predict = jax.jit(jax.vmap(lambda one: variance.predict(settings, params, one[None])[0]))
        text = (
            predict.trace(jax.ShapeDtypeStruct((5, 128, 128, 1), jnp.float32))
            .lower(lowering_platforms=("cuda",))
            .as_text()
        )
    assert text.count("__gpu$xla.gpu.triton") == calls
    assert ("stablehlo.convolution" in text) == (not calls)


def test_a_refused_kernel_is_replaced_by_the_plain_form(caplog):
    """Pallas refuses to compile for a CPU: a refusal as real as that of an old GPU."""
    settings, params = network(SMALL)
    settled = Settings(0, "float32", 0, None)
    run = programs.Programs(names.parse("intensity"), settled, None, devices.mesh(jax.devices()[:1]), 1)
    run.function, x = jax.jit(functools.partial(variance.predict, settings)), images(1, 9, 8)
    run.fused = convolutions.PARTS  # as where the kernels were trusted, and one of the program's is refused
    with convolutions.forms(GPU), caplog.at_level(logging.WARNING):
        found = [run.compile(params, part)(params, part) for part in (x, x[:, :5])]
    assert [record.message for record in caplog.records] == [own_kernels.REFUSED]
    with convolutions.forms("plain"):
        for one, part in zip(found, (x, x[:, :5]), strict=True):
            np.testing.assert_array_equal(one, jax.jit(functools.partial(variance.predict, settings))(params, part))
    run.function = jax.jit(lambda params, x: x.nothing)
    with pytest.raises(AttributeError):
        run.compile(params, x)
