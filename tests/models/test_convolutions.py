"""Which form a convolution is traced in: that of the device at hand, of a mesh's devices, or one that is told."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lgjax.models import convolutions

LAYERS = (((8, 8), 3, 5, 3, 1), ((8, 8), 1, 8, 3, 1), ((2, 2), 8, 8, 3, 1), ((8, 12), 5, 16, 3, 2))


def program(module: nn.Module, size, channels) -> str:
    """The jaxpr of a module with its gradients, as text."""
    x = jnp.zeros((2, *size, channels))
    variables = module.init(jax.random.key(0), x)
    return str(jax.make_jaxpr(lambda v, x: jax.vjp(module.apply, v, x)[1](module.apply(v, x)))(variables, x))


def pair(features, kernel, strides):
    """The same convolution of lgjax and of Flax."""
    return (conv(features, (kernel, kernel), strides) for conv in (convolutions.Conv, nn.Conv))


@pytest.mark.parametrize(("size", "channels", "features", "kernel", "strides"), LAYERS)
def test_the_plain_form_is_flax_s_program(size, channels, features, kernel, strides):
    ours, flax = pair(features, kernel, strides)
    with convolutions.forms("plain"):
        assert program(ours, size, channels) == program(flax, size, channels)
    assert program(ours, size, channels) != program(flax, size, channels)


@pytest.mark.parametrize(("kind", "is_plain"), [("cpu", False), ("NVIDIA H200", True), ("TPU v5 lite", True)])
def test_a_mesh_decides_by_its_devices(kind, is_plain):
    device = jax.sharding.AbstractDevice(kind, *[None] * (len(jax.sharding.AbstractDevice.__match_args__) - 1))
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    ours, flax = pair(5, 3, 1)
    with jax.sharding.use_abstract_mesh(mesh):
        assert (program(ours, (8, 8), 3) == program(flax, (8, 8), 3)) is is_plain
        with convolutions.forms("cpu"):
            assert program(ours, (8, 8), 3) != program(flax, (8, 8), 3)


def test_a_jitted_function_never_mixes_forms():
    module, x = convolutions.Conv(8, (3, 3)), jnp.ones((1, 8, 8, 1))
    apply = jax.jit(module.apply)
    variables = module.init(jax.random.key(0), x)
    told = [apply.lower(variables, x).as_text()]
    with convolutions.forms("plain"):
        told.append(apply.lower(variables, x).as_text())
    told.append(apply.lower(variables, x).as_text())
    assert ["stablehlo.convolution" in text for text in told] == [False, True, False]


def test_the_upsampled_convolution_has_the_form_of_the_device_too():
    module = convolutions.UpsampledConv(4)
    assert "custom_vjp" in program(module, (4, 4), 3)
    with convolutions.forms("plain"):
        assert "custom_vjp" not in program(module, (4, 4), 3)
