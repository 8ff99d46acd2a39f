"""Which form a convolution is traced in: that of the device at hand, of a mesh's devices, or one that is told."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lgjax.models import convolutions, tuned

LAYERS = (((8, 8), 3, 5, 3, 1), ((8, 8), 1, 8, 3, 1), ((2, 2), 8, 8, 3, 1), ((8, 12), 5, 16, 3, 2))


def program(module: nn.Module, size, channels) -> str:
    """The jaxpr of a module with its gradients, as text."""

    def gradients(variables, x):
        value, back = jax.vjp(module.apply, variables, x)
        return back(value)

    key, x = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    return str(jax.make_jaxpr(gradients)(jax.eval_shape(module.init, key, x), x))


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


def test_few_pixels_lie_within_zeros_on_a_gpu():
    """Else XLA takes the kernel for the image; gradients are those that JAX makes of that."""
    module, x = convolutions.Conv(8, (3, 3)), jax.ShapeDtypeStruct((1, 2, 2, 4), jnp.float32)

    def sizes(kind):
        with convolutions.forms(kind):
            jaxpr = jax.make_jaxpr(module.init_with_output)(jax.random.key(0), x).jaxpr
        (one,) = (one for one in jaxpr.eqns if one.primitive.name == "conv_general_dilated")
        return one.invars[0].aval.shape[1:3], one.outvars[0].aval.shape[1:3]

    assert sizes("NVIDIA H200") == ((6, 6), (4, 4))
    assert sizes("plain") == ((2, 2), (2, 2))


def test_a_jitted_function_never_mixes_forms():
    module, x = convolutions.Conv(8, (3, 3)), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    apply = jax.jit(module.apply)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    told = [apply.lower(variables, x).as_text()]
    with convolutions.forms("plain"):
        told.append(apply.lower(variables, x).as_text())
    told.append(apply.lower(variables, x).as_text())
    assert ["stablehlo.convolution" in text for text in told] == [False, True, False]


def test_the_upsampled_convolution_has_the_form_of_the_device_too():
    module, x = convolutions.UpsampledConv(4), jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)

    def text(kind):
        with convolutions.forms(kind):
            return str(jax.make_jaxpr(module.init_with_output)(jax.random.key(0), x))

    assert "custom_vjp" in text("cpu")
    assert "custom_vjp" not in text("plain")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def layer_of(size, channels, features, kernel, strides):
    """A layer padded as SAME."""
    pads = jax.lax.padtype_to_pads(size, (kernel, kernel), (strides, strides), "SAME")
    return tuned.Layer(size, channels, features, (kernel, kernel), (strides, strides), tuple(pads), "float32")


@pytest.mark.parametrize("layer", LAYERS)
def test_every_form_of_every_use_is_xla_s_convolution(layer):
    """Whatever a table may choose: the result, the image gradient and the kernel gradient."""
    layer = layer_of(*layer)
    x, kernel = normal(2, *layer.size, layer.channels), normal(*layer.kernel, layer.channels, layer.features, seed=1)
    rest, numbers = (layer.strides, layer.padding), ("NHWC", "HWIO", "NHWC")
    result, back = jax.vjp(lambda x, k: jax.lax.conv_general_dilated(x, k, *rest, dimension_numbers=numbers), x, kernel)
    gradient = normal(*result.shape, seed=2)
    expected = dict(zip(tuned.USES, (result, *back(gradient)), strict=True))
    compared = 0

    @functools.partial(jax.jit, static_argnums=0)
    def by_form(use, *arrays):
        forms = {form: convolutions.FORMS[use][form] for form in tuned.possible(use, layer)}
        kind = () if use == tuned.FORWARD else ("cpu",)
        return {form: compute(*kind, *arrays, *rest) for form, compute in forms.items()}

    for use in tuned.USES:
        assert tuned.by_rule(use, layer) in tuned.possible(use, layer)
        given = (x, kernel) if use == tuned.FORWARD else (x, kernel, gradient)
        for found in by_form(use, *given).values():
            np.testing.assert_allclose(found, expected[use], rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared > 6


def test_a_table_chooses_the_forms_of_its_kind_of_device_alone(monkeypatch):
    layer = layer_of((8, 8), 1, 8, 3, 1)
    monkeypatch.setattr(tuned, "_forms", lambda: {("NVIDIA H200", tuned.FORWARD, layer): "shifted"})
    ours, flax = pair(8, 3, 1)
    with convolutions.forms("NVIDIA H200"):
        convolved = jax.make_jaxpr(lambda x: ours.init_with_output(jax.random.key(0), x))(normal(1, 8, 8, 1))
        assert "conv_general_dilated" not in str(convolved)
        assert program(ours, (8, 6), 1) == program(flax, (8, 6), 1)  # another size
    with convolutions.forms("NVIDIA H100 80GB HBM3"):
        assert program(ours, (8, 8), 1) == program(flax, (8, 8), 1)


def test_on_a_cpu_the_shipped_table_is_the_rule():
    """So the bits of maps hang on no measurement; the table says what the rule costs."""
    entries = tuned.read()["cpu"].entries
    assert {entry.use for entry in entries} == set(tuned.USES)
    for entry in entries:
        assert entry.form == tuned.by_rule(entry.use, entry.layer)
        assert {entry.form, "plain"} <= set(entry.seconds) <= set(tuned.possible(entry.use, entry.layer))


def test_a_table_is_read_as_it_was_written(tmp_path):
    seconds, iterations = {"plain": 2.0, "turned": 1.0}, {"plain": 2, "turned": 3}
    entry = tuned.Entry(tuned.IMAGE, layer_of((8, 8), 1, 8, 3, 1), "turned", seconds, iterations)
    table = {kind: tuned.Record({"command": "c"}, [entry] * n) for n, kind in enumerate(("cpu", "NVIDIA H200"))}
    path = tmp_path / "forms.json"
    path.write_text(tuned.text(table))
    assert tuned.read(path) == table
