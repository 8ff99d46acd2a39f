"""How the forms of convolutions are measured on a device, and chosen."""

import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import tuning
from lgjax import models
from lgjax.models import tuned
from lgjax.speed import hlo, times, traffic
from lgjax.speed.traffic import Launch


def layer_of(size, channels, features, kernel, strides, dtype="float32"):
    """A layer padded as SAME."""
    pads = jax.lax.padtype_to_pads(size, (kernel, kernel), (strides, strides), "SAME")
    return tuned.Layer(size, channels, features, (kernel, kernel), (strides, strides), tuple(pads), dtype)


@pytest.fixture(scope="module")
def toy():
    """The smoke experiment of the tuning, and its convolutions on a CPU."""
    (config,) = tuning.configs(smoke=True)
    return config, tuning.layers(config, "cpu")


def of_dtype(layers, dtype):
    return {one for one in layers if one.dtype == dtype}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tuning_looks_at_every_convolution_of_the_networks_and_of_image_gradients(toy, dtype):
    """Forwards, the kernels are those of the parameters, of four 2x2 kernels where an image is upsampled."""
    config, found = toy
    params = jax.eval_shape(models.from_config(config, "float32").init, jax.random.key(0))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = {(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves if leaf.ndim == 4}
    up = {(2, 2, shape[2], 4 * shape[3]) for path, shape in kernels if "'up_" in path and "'first'" in path}
    own = {shape for path, shape in kernels if not ("'up_" in path and "'first'" in path)} | up
    assert len(up) == 2
    forward, image, kernel = (of_dtype(found[use], dtype) for use in tuned.USES)
    assert {(*one.kernel, one.channels, one.features) for one in kernel} == own
    assert image == kernel < forward
    assert layer_of((16, 16), 8, 1, 3, 1, dtype) in forward  # the gradient of the first of the variance network


def test_both_precisions_have_the_same_convolutions_and_the_largest_come_first(toy):
    """Whatever they are used for: a limit of time leaves out the least important ones."""
    _, found = toy
    for layers in found.values():
        kinds = [{one._replace(dtype="") for one in of_dtype(layers, dtype)} for dtype in ("float32", "bfloat16")]
        assert kinds[0] == kinds[1]
    uses, layers = zip(*tuning.largest_first(found), strict=True)
    sizes = [one.size[0] * one.size[1] * (one.channels + one.features) for one in layers]
    assert sizes == sorted(sizes, reverse=True)
    assert len(layers) == sum(map(len, found.values()))
    assert {use for use, size in zip(uses, sizes, strict=True) if size == sizes[0]} == set(tuned.USES)


def test_on_a_gpu_the_merged_convolutions_of_restorations_are_looked_at(toy):
    config, found = toy
    merged = tuning.layers(config, "NVIDIA H200")
    assert merged[tuned.KERNEL] == found[tuned.KERNEL]
    assert layer_of((16, 16), 4, 8, 3, 2) in merged[tuned.FORWARD] - found[tuned.FORWARD]


def test_tuning_measures_in_turns_until_the_time_is_up():
    now = time.perf_counter()
    late, soon = (tuning.Tuning("NVIDIA H200", 1, 2, now + after) for after in (-1, 1000))
    pointwise, layer = layer_of((8, 8), 3, 5, 1, 1), layer_of((8, 8), 1, 20, 3, 1)
    wanted = {tuned.FORWARD: {pointwise, layer}}  # the former has one form
    assert list(tuning.tune(wanted, late)) == []
    (entry,) = tuning.tune(wanted, soon)
    assert entry[:2] == (tuned.FORWARD, layer)
    assert set(entry.seconds) == set(entry.iterations) == {"plain", "shifted"}
    assert min(entry.iterations.values()) >= tuning.SHORTEST
    assert entry.form == tuning.fastest(entry.seconds)


def test_on_a_cpu_tuning_keeps_the_rule(monkeypatch):
    layer = layer_of((8, 8), 3, 5, 3, 1)
    found = tuning.Measured({"plain": 1.0, "blocks of 2x2": 9.0}, {"plain": 2, "blocks of 2x2": 2})
    monkeypatch.setattr(tuning, "measured", lambda *_: found)
    for kind, form in (("cpu", "blocks of 2x2"), ("NVIDIA H200", "plain")):
        told = tuning.Tuning(kind, 1, 1, time.perf_counter() + 1000)
        assert [entry.form for entry in tuning.tune({tuned.FORWARD: {layer}}, told)] == [form]


@pytest.mark.parametrize("use", tuned.USES)
@pytest.mark.usefixtures("short")
def test_what_tuning_times_is_the_convolution(use):
    one = tuning.Contestant(use, "plain", layer_of((8, 8), 3, 5, 3, 1), tuning.Tuning("cpu", 2, 1, 0.0))
    x, kernel, gradient = one.arrays
    y, back = jax.vjp(nn.Conv(5, (3, 3)).apply, {"params": {"kernel": kernel, "bias": jnp.ones(5)}}, x)
    variables, for_x = back(gradient)
    forward = jnp.where(y > 0, y, 0.2 * y)  # with a bias of one and the activation
    expected = dict(zip(tuned.USES, (forward, for_x, variables["params"]["kernel"]), strict=True))
    np.testing.assert_allclose(one.run(), expected[use], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("short")
def test_on_a_gpu_no_form_is_called_step_by_step(monkeypatch):
    """The host would be measured."""
    called = []

    def steps(compute, *arrays):
        called.append(arrays)
        return lambda _: lambda: 0

    monkeypatch.setattr(tuning, "_steps", steps)
    for kind, count in (("NVIDIA H200", 0), ("cpu", 1)):
        tuning.Contestant(tuned.KERNEL, "plain", layer_of((8, 8), 3, 5, 3, 1), tuning.Tuning(kind, 1, 1, 0.0))
        assert len(called) == count


@pytest.fixture
def short(monkeypatch):
    """Runs need last no time."""
    monkeypatch.setattr(tuning, "TURN", 0.0)


@pytest.mark.parametrize(("start", "each"), [(0.0, 1e-6), (1e-4, 5e-6), (1e-3, 1e-3), (0.0, 0.5)])
def test_a_run_lasts_long_enough_and_not_for_ever(monkeypatch, start, each):
    """What a run does once, as telling a device to begin, is a small part of the run."""
    monkeypatch.setattr(times, "seconds", lambda iterations: start + each * iterations)
    iterations, run = tuning.long_enough(lambda iterations: iterations)
    assert run == iterations >= tuning.SHORTEST
    assert start + each * iterations >= tuning.TURN
    assert iterations == tuning.SHORTEST or start + each * iterations < 2 * tuning.TURN


@pytest.mark.parametrize("use", tuned.USES)
@pytest.mark.usefixtures("optimised")
def test_a_loop_computes_the_convolution_anew_every_time_and_its_length_is_known(use):
    """In the compiled program: nothing that is computed is the same for all iterations, and none asks for a next."""
    layer = layer_of((8, 8), 3, 5, 3, 1)
    compute = functools.partial(tuning._once, use, "plain", layer, "cpu")
    loop = jax.jit(functools.partial(tuning.looped, compute, 37))
    program = hlo.parse(loop.lower(*tuning._shapes(layer, 2)).compile().as_text())
    launched = [launch for launch in traffic.launches(program) if convolves(program, launch)]
    assert [launch.times for launch in launched] == [37]


def convolves(program: hlo.Program, launch: Launch) -> bool:
    """Whether a kernel is a convolution, by itself or in what it calls."""
    one = launch.instruction
    inner = program.computations[one.called("calls")].instructions.values() if one.opcode == "fusion" else [one]
    return any(part.opcode == "convolution" or "conv" in part.found(r'custom_call_target="([^"]*)"') for part in inner)


def test_steps_follow_each_other():
    """A device that computes several at a time would seem faster than in training."""
    x, kernel, gradient = jnp.ones((2, 2)), jnp.ones(3), jnp.ones(4)
    seen = []

    def compute(x, kernel, gradient):
        jax.debug.callback(lambda k: seen.append(float(k[0])), kernel)
        return 1e20 * kernel

    jax.block_until_ready(tuning._steps(compute, x, kernel, gradient)(3)())
    jax.effects_barrier()
    assert seen == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)  # kernel - 1e-20 * 1e20 * kernel


def test_the_plain_form_stays_unless_another_is_clearly_faster():
    assert tuning.fastest({"plain": 1.0, "turned": 0.97}) == "plain"
    assert tuning.fastest({"plain": 1.0, "turned": 0.9}) == "turned"
    assert tuning.fastest({"turned": 3.0}) == "turned"  # where the plain form does not compile
