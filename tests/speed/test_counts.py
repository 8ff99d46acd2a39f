"""Counts of work from jaxprs: against XLA's own, closed forms, and what loops and devices multiply."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import both
from jax.experimental import pallas as pl

from lgjax import models
from lgjax.methods import names, runner, slicewise
from lgjax.runtime import devices
from lgjax.speed import counts, synthetic
from lgjax.speed.counts import Count


def counted(function, *arguments) -> Count:
    return counts.of(jax.jit(function), *arguments)


def by_xla(function, *arguments) -> float:
    """What XLA counts in the program as written."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def convolve(x, kernel, strides=(1, 1), padding="SAME", **rest):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **rest)


def gradients(function):
    return lambda gradient, *arguments: jax.vjp(function, *arguments)[1](gradient)


IMAGE, KERNEL = jnp.ones((2, 16, 12, 6)), jnp.ones((3, 5, 6, 4))
A, B = jnp.ones((7, 5)), jnp.ones((5, 3))
PROGRAMS = {
    "arithmetic": (lambda a: jnp.where(a > 1, a * 2 - a, jnp.abs(-a) / 3), A),
    "functions": (lambda a: jnp.exp(a) + jnp.tanh(a) * jnp.sqrt(a), A),
    "powers": (lambda a: a**2, A),
    "a clipped maximum": (lambda a: jnp.clip(a, 0.0, 1.0).max(axis=1), A),
    "sums": (lambda a: a.sum() + a.sum(axis=0), A),
    "product": (jnp.matmul, A, B),
    "products of a batch": (jax.vmap(jnp.matmul), jnp.ones((4, 7, 5)), jnp.ones((4, 5, 3))),
    "convolution": (convolve, IMAGE, KERNEL),
    "strides": (functools.partial(convolve, strides=(2, 3)), IMAGE, KERNEL),
    "zeros between pixels": (
        functools.partial(convolve, padding=((2, 1), (0, 3)), lhs_dilation=(2, 3)),
        IMAGE,
        KERNEL,
    ),
    "zeros between taps": (functools.partial(convolve, rhs_dilation=(3, 2)), IMAGE, KERNEL),
    "groups of features": (functools.partial(convolve, feature_group_count=3), IMAGE, jnp.ones((3, 3, 2, 9))),
    "gradients": (gradients(functools.partial(convolve, strides=(2, 2))), jnp.ones((2, 8, 6, 4)), IMAGE, KERNEL),
    "gradients of groups": (
        gradients(functools.partial(convolve, feature_group_count=3)),
        jnp.ones((2, 16, 12, 9)),
        IMAGE,
        jnp.ones((3, 3, 2, 9)),
    ),
    "added at places": (lambda a: a.at[jnp.array([1, 3])].add(jnp.ones((2, 5))), A),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_operations_are_those_that_xla_counts(name):
    function, *arguments = PROGRAMS[name]
    assert counted(function, *arguments).flops == by_xla(function, *arguments)


def test_integers_and_random_bits_do_not_count():
    assert counted(lambda n: (n * 2 + n).sum(), jnp.arange(9)).flops == 0
    assert counted(lambda key: jax.random.bits(key, (100,)), jax.random.key(0)).flops == 0


def test_a_loop_counts_as_often_as_it_turns():
    once = counted(lambda a: jnp.tanh(a * 2) @ a, jnp.ones((8, 8)))
    loop = counted(lambda a: jax.lax.fori_loop(0, 7, lambda _, x: jnp.tanh(x * 2) @ a, a), jnp.ones((8, 8)))
    assert loop.flops == 7 * once.flops
    nested = counted(lambda a: jax.lax.map(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x * 2.0, x), a), A)
    assert nested.flops == 3 * A.size


def test_a_loop_of_unknown_length_counts_once():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    assert counted(halve, A).flops == A.size + (A.size - 1) + 1  # a division, the sum and the comparison


def test_of_branches_the_longest_counts():
    def either(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x, lambda x: x * 2 + 1, x)

    assert counted(either, A).flops == (A.size - 1) + 1 + 2 * A.size


def test_functions_with_derivatives_of_their_own_count():
    double = jax.custom_vjp(lambda x: x * 2)
    double.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 2 + 0 * g,))
    assert counted(double, A).flops == A.size
    assert counted(jax.grad(lambda x: double(x).sum()), A).flops == 3 * A.size  # no result needs the sum
    assert counted(jax.jit(jax.checkpoint(jax.nn.relu)), A).flops == A.size


def test_a_kernel_counts_once_for_every_place_of_its_grid():
    def kernel(x, y):
        y[...] = x[...] * 2.0 + 1.0

    block = pl.BlockSpec((8, 16), lambda i, j: (i, j))
    shape = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    call = pl.pallas_call(kernel, shape, grid=(4, 2), in_specs=[block], out_specs=block, interpret=True)
    found = counted(call, jnp.ones((32, 32)))
    assert found == (2 * 32 * 32, 2 * 4 * 32 * 32)


@pytest.mark.parametrize("number", [1, 8])
def test_all_devices_count(request, number):
    mesh = request.getfixturevalue(f"mesh{number}")
    each = jax.jit(devices.on_each(lambda common, x: x * common, mesh))
    assert counts.of(each, jnp.float32(2), jnp.ones((16, 3))).flops == 16 * 3
    every = jax.jit(devices.on_all(lambda x: x * 2, mesh))
    assert counts.of(every, jnp.ones(16)).flops == number * 16


def test_bytes_are_those_of_every_operation():
    assert counted(lambda a, b: jnp.tanh(a + b), A, A).bytes == (3 + 2) * 4 * A.size
    assert counted(lambda a: a.astype(jnp.bfloat16), A).bytes == (4 + 2) * A.size


def test_one_iteration_is_the_slope_between_two_runs():
    def run(length):
        return counted(lambda a: jax.lax.fori_loop(0, length, lambda _, x: x * 2.0, a @ a.T), A)

    assert counts.per_iteration(run(2), run(9), 7).flops == 49


@pytest.mark.parametrize("name", ["vae_lg_neural_tv", "vae_elbo_tv"])
def test_an_iteration_of_a_method_counts_as_by_xla_and_grows_with_the_batch_alone(config, name):
    config.model.channels, config.model.variance_channels = (16,), (16,)  # so that networks are most of the work
    params = models.freeze(synthetic.random_state(*both(config)).variables)

    def traced(iterations, count):
        config.restore.iterations = iterations
        arrays = (*synthetic.brain_like(0, count, 16, 16), np.ones(count, np.float32))
        model = models.from_config(config, config.restore.precision)
        restore = slicewise.restorer(names.parse(name), runner.from_config(config), model)
        return jax.jit(restore).trace(params, *arrays)

    short, long, wide = (traced(*sizes) for sizes in ((2, 2), (12, 2), (2, 6)))
    few, many = counts.of_results(short.jaxpr), counts.of_results(long.jaxpr)
    once = counts.per_iteration(few, many, 10).flops
    assert once == pytest.approx(long.lower().cost_analysis()["flops"], rel=0.02)  # XLA's loops turn once
    assert many.flops == pytest.approx(12 * once, rel=0.02)
    assert counts.of_results(wide.jaxpr).flops == pytest.approx(3 * few.flops, rel=1e-3)
