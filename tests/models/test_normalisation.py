"""BatchNorm in training where kernels are launches: against Flax's, NumPy in float64 and finite differences."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import both, random_variables, shrunk
from jax.test_util import check_grads
from programs import collectives

from lgjax import models
from lgjax.models import blocks, convolutions, normalisation
from lgjax.runtime.devices import batch_sharding

GPU = "NVIDIA H200"  # a kind of device that is not there
EPSILON = 1e-3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def given():
    """x, [3, 4, 5, 2], of two features of different mean and spread; scale; bias."""
    return (2 + np.float32([0.5, 3]) * normal(60, 2)).reshape(3, 4, 5, 2), normal(2, seed=1), normal(2, seed=2)


def test_values_by_numpy():
    x, scale, bias = given()
    y, mean, variance = normalisation.normalised(x, scale, bias, EPSILON)
    pixels = x.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, pixels.var(0), rtol=1e-4)
    expected = (x - pixels.mean(0)) / np.sqrt(pixels.var(0) + EPSILON) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_gradients_by_finite_differences():
    weights = normal(3, 4, 5, 2, seed=3)  # without them, the gradient of x is zero
    check_grads(
        jax.jit(lambda *given: (weights * normalisation.normalised(*given, EPSILON)[0]).sum()),
        given(),
        order=1,
        modes=["rev"],
        rtol=1e-2,
        atol=1e-2,
    )


def trained(kind, dtype):
    """Value, running statistics and gradients of our module and Flax's on a kind of device."""
    x, scale, bias = given()
    x, weights = x.astype(dtype), normal(*x.shape, seed=3)
    params, stats = {"scale": scale, "bias": bias}, {"mean": normal(2, seed=4), "var": normal(2, seed=5) ** 2}

    def run(module):
        def loss(params, x):
            y, updates = module.apply({"params": params, "batch_stats": stats}, x, False, mutable=["batch_stats"])
            return (weights * y).sum(), (y, updates["batch_stats"])

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    modules = (make(momentum=0.95, epsilon=EPSILON) for make in (normalisation.BatchNorm, nn.BatchNorm))
    with convolutions.forms(kind):
        return [run(module).lower(params, x) for module in modules], (params, x)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_function_is_that_of_flax(dtype, tolerance):
    lowered, inputs = trained(GPU, dtype)
    found, expected = (jax.tree.leaves(each.compile()(*inputs)) for each in lowered)
    assert [leaf.dtype for leaf in found] == [leaf.dtype for leaf in expected]
    for ours, flax in zip(found, expected, strict=True):
        ours, flax = (np.asarray(leaf, np.float64) for leaf in (ours, flax))
        np.testing.assert_allclose(ours, flax, rtol=0, atol=tolerance * np.abs(flax).max())


def test_statistics_and_gradients_take_one_reduction_each():
    ours, flax = (each.as_text().count("stablehlo.reduce(") for each in trained(GPU, "float32")[0])
    assert ours == 2 < flax


def test_devices_tell_each_other_sums_alone(mesh8):
    x, scale, bias = normal(8, 4, 5, 2), *given()[1:]
    weights = normal(*x.shape, seed=3)

    def slope(x):
        return jax.grad(lambda x: (weights * normalisation.normalised(x, scale, bias, EPSILON)[0]).sum())(x)

    split = batch_sharding(mesh8)
    compiled = jax.jit(slope, in_shardings=split, out_shardings=split).lower(x).compile()
    told = [shape for _, shapes in collectives(compiled.as_text()) for shape in shapes]
    assert told
    assert max(np.prod([int(n) for n in re.findall(r"\d+", shape[3:])]) for shape in told) <= 8 * 2
    np.testing.assert_allclose(compiled(jax.device_put(x, split)), jax.jit(slope)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cpu", "plain"])
def test_elsewhere_the_program_is_that_of_flax(kind):
    ours, flax = (each.as_text() for each in trained(kind, "float32")[0])
    assert ours == flax


def test_the_parameters_are_those_of_flax():
    x = np.ones((2, 4, 4, 3), np.float32)
    with convolutions.forms(GPU):
        makers = normalisation.BatchNorm, nn.BatchNorm
        ours, flax = (jax.jit(make().init, static_argnums=2)(jax.random.key(0), x, False) for make in makers)
    jax.tree.map(np.testing.assert_array_equal, ours, flax)


@pytest.mark.parametrize("train", [True, False])
def test_a_gpu_draws_the_parameters_of_a_cpu(train):
    def drawn(kind):
        with convolutions.forms(kind):
            init = jax.jit(blocks.NormalisedConv(3, upsampled=True).init, static_argnums=2)
            return init(jax.random.key(0), np.ones((1, 4, 4, 2), np.float32), train)

    jax.tree.map(np.testing.assert_array_equal, drawn(GPU), drawn("cpu"))


def trained_once(kind, model, variables, slices):
    """The gradients of a training's loss, in float32, and the running statistics after it."""

    def loss(params):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        value, (stats, _) = model.loss(given, slices.y, slices.mask, jax.random.key(0))
        return value, stats

    with convolutions.forms(kind):
        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


@pytest.mark.usefixtures("deep")
def test_a_gpu_trains_as_the_plain_form_but_for_biases_that_normalisation_takes_away(config, slices):
    model, variables = models.from_config(config, "float32"), random_variables(config)
    (found, stats), (expected, plain_stats) = (trained_once(kind, model, variables, slices) for kind in (GPU, "plain"))
    jax.tree.map(lambda ours, plain: np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5), stats, plain_stats)
    idle = []
    for (path, ours), plain in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        largest = np.abs(plain).max()
        if path[-2:] == (jax.tree_util.DictKey("conv"), jax.tree_util.DictKey("bias")):
            idle.append(largest)
            assert not np.any(ours)
        else:
            np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-3 * largest)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert len(idle) == 2 + 3 * 4
    assert max(idle) < 1e-5 * largest


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_model_trains_by_the_statistics_of_its_batch(name, slices):
    """In a training step of any device; a GPU that did not would leave out gradients of biases that matter."""
    (model, _), variables, used = both(shrunk(name)), random_variables(shrunk(name)), []

    def seen(call, arguments, more, context):
        if isinstance(context.module, nn.BatchNorm):
            used.append([*arguments, *more.values()][-1])
        return call(*arguments, **more)

    with nn.intercept_methods(seen):
        jax.eval_shape(model.loss, variables, slices.y, slices.mask, jax.random.key(0))
    assert used
    assert not any(used)
