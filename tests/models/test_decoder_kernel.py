"""The end of the decoder as one kernel: the same values as layer by layer, one call on a GPU, plain gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables, shrunk
from programs import an_absent_gpu

from lgjax import models
from lgjax.models import blocks, convolutions, decoder_kernel, precision

GPU, DECODER = "NVIDIA H200", (convolutions.DECODER,)


def network(name="vae", value="tensorfloat32"):
    """A toy auto-encoder, and its frozen parameters."""
    config = shrunk(name)
    return models.from_config(config, value), models.freeze(random_variables(config))


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel computed on this device, wherever it is taken for an NVIDIA GPU."""
    compute = functools.partial(decoder_kernel.output, interpret=True)
    monkeypatch.setattr(decoder_kernel, "output", compute)


def layers(channels, features):
    """A folded residual block with random parameters, and a convolution to one feature."""
    rng = np.random.default_rng(0)

    def conv(size, before, after):
        kernel = rng.normal(size=(size, size, before, after)) / size / np.sqrt(before)
        return {"kernel": jnp.float32(kernel), "bias": jnp.float32(rng.normal(size=after))}

    sizes = {"first": (3, channels, features), "second": (3, features, features), "skip": (1, channels, features)}
    return {name: {"conv": conv(*size)} for name, size in sizes.items()}, conv(3, features, 1)


@pytest.mark.parametrize(
    ("channels", "features", "size", "value", "rtol"),
    [(16, 8, (9, 70), "float32", 1e-6), (5, 3, (3, 2), "bfloat16", 0.02)],
    ids=["several programs", "few channels, one pixel wide but one, rounded"],
)
def test_the_kernel_is_the_block_and_the_convolution(channels, features, size, value, rtol):
    block, last = layers(channels, features)
    x = jnp.float32(np.random.default_rng(1).normal(size=(2, *size, channels)))

    def plain(block, last, x):
        x = blocks.ResidualUp(features, normalise=False).apply({"params": block}, x, False)
        return convolutions.Conv(1, (3, 3)).apply({"params": last}, x)

    with convolutions.forms("plain"):
        expected = np.asarray(jax.jit(plain)(block, last, x))
    with convolutions.forms(GPU):
        merged = jax.jit(blocks.merge)({"up_0": block})["up_0"]
    convs = precision.cast((merged["merged"], merged["second"]["conv"], last), value)
    given = (decoder_kernel.Layer(conv["kernel"], conv["bias"]) for conv in convs)
    found = jax.jit(functools.partial(decoder_kernel.output, interpret=True))(*given, x)
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max(), rtol=0)


def test_the_decoder_ends_with_the_kernel(interpreted):
    """Samples for slices, as a restoration asks, and the gradient of a reconstruction."""
    model, params = network()
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 16, 16, 1)))

    def of(kind):
        def compute(x):
            networks = model.bind(params)
            slope = jax.grad(lambda one: networks.reconstruct(one).sum())(x[0])
            return jax.vmap(lambda one: networks.samples(one, jax.random.key(0), 2))(x), slope

        with convolutions.forms(kind), convolutions.fusion(DECODER), precision.matmul_precision("float32"):
            return jax.jit(compute)(x)

    for found, expected in zip(of(GPU), of("plain"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["aae", "gmvae"])
def test_other_auto_encoders_decode_by_the_kernel_too(interpreted, name):
    model, params = network(name)
    x = jnp.float32(np.random.default_rng(0).normal(size=(16, 16, 1)))

    def of(kind):
        with convolutions.forms(kind), convolutions.fusion(DECODER), precision.matmul_precision("float32"):
            return jax.jit(lambda one: model.bind(params).reconstruct(one))(x)

    expected = of("plain")
    np.testing.assert_allclose(of(GPU), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "parts", "calls"),
    [
        ("vae", "bfloat16", DECODER, 1),
        ("aae", "tensorfloat32", DECODER, 1),
        ("gmvae", "bfloat16", DECODER, 1),
        ("vae", "tensorfloat32", (convolutions.VARIANCE,), 0),
    ],
)
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # since jax 0.11
def test_one_kernel_on_a_gpu(name, value, parts, calls):
    """In the program lowered for CUDA, which needs no GPU."""
    model, params = network(name, value)
    x = jax.ShapeDtypeStruct((3, 16, 16, 1), jnp.float32)
    with an_absent_gpu(), convolutions.fusion(parts), precision.matmul_precision(value):
        samples = jax.jit(jax.vmap(lambda one: model.bind(params).samples(one, jax.random.key(0), 1)))
        assert samples.trace(x).lower(lowering_platforms=("cuda",)).as_text().count("__gpu$xla.gpu.triton") == calls


def test_the_gradient_of_the_bound_takes_the_plain_form():
    model, params = network()
    with convolutions.forms(GPU), convolutions.fusion(DECODER):
        gradient = jax.jit(jax.grad(lambda x: model.bind(params).elbo(x, jax.random.key(0))))
        assert "pallas_call" not in str(gradient.trace(jax.ShapeDtypeStruct((16, 16, 1), jnp.float32)).jaxpr)
