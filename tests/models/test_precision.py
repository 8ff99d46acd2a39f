"""Precision: what every convolution of every model is given, how far bfloat16 may be off, and what stays float32."""

import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, shrunk
from programs import equations

from configs import bench
from configs import vae as experiment
from lgjax import models
from lgjax.methods import names, runner, slicewise
from lgjax.models import MODELS, blocks, precision, vae
from lgjax.models import convolutions as convolution_forms
from lgjax.training import settings
from lgjax.training import step as training

ROUNDING = 2.0**-8  # relative, of a number with 8 significant bits
HIGH, HIGHEST = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST


def of_model(name, value):
    """A small config of a model, with one precision for everything."""
    config = shrunk(name)
    config.train.precision = config.restore.precision = value
    return config


def model(config):
    """The model of a config, in the precision of its training."""
    return models.from_config(config, config.train.precision)


def initial_state(config):
    return training.initial_state(model(config), settings.from_config(config))


def make_step(config):
    return training.make_step(model(config), settings.from_config(config))


def convolutions(jaxpr) -> set:
    """Type and precision of the convolutions in a jaxpr."""
    found = [one for one, _ in equations(jaxpr) if one.primitive.name == "conv_general_dilated"]
    assert found
    assert all(len({value.aval.dtype for value in (*one.invars, *one.outvars)}) == 1 for one in found)
    return {(str(one.invars[0].aval.dtype), *(one.params["precision"] or ())) for one in found}


EXPECTED = {
    "float32": {("float32", HIGHEST, HIGHEST)},
    "tensorfloat32": {("float32", HIGH, HIGH)},
    "bfloat16": {("bfloat16", HIGH, HIGH)},
}
GPU = "any GPU"  # a kind of device that is not there
KEPT = {("float32", HIGH, HIGH)}  # in bfloat16: discriminators that are trained, the mixture of the GMVAE


def restorer(method, config):
    """What restores a batch."""
    return slicewise.restorer(method, runner.from_config(config), models.from_config(config, config.restore.precision))


class Traced(NamedTuple):
    """What is done to seven slices: the jaxpr, and the shapes and types of the results."""

    jaxpr: Any
    shapes: Any


@functools.cache
def traced(name, value) -> tuple[Any, Traced, dict]:
    """The shapes of a model's state, a step of its training, and its restorations of slices, by method."""
    config, x = of_model(name, value), jax.ShapeDtypeStruct((7, 16, 16, 1), np.float32)
    number, strength = (jax.ShapeDtypeStruct((7,), kind) for kind in (np.int32, np.float32))
    state = jax.eval_shape(lambda: initial_state(config))
    params = jax.eval_shape(lambda state: models.freeze(state.variables), state)

    def trace(function, *given):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*given)
        return Traced(closed.jaxpr, shapes)

    methods = [one for one in names.available().values() if one.model == name and not one.volume]
    if value != "bfloat16":  # networks lie in priors, and nothing is rounded: one data term for each prior
        methods = {one.prior: one for one in methods}.values()
    restored = {one: trace(restorer(one, config), params, x, x, number, strength) for one in methods}
    return state, trace(make_step(config), state, x, x), restored


@pytest.mark.parametrize("value", precision.CHOICES)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_convolution_has_the_precision_of_the_config(name, value):
    """Those of the backward pass as well; the precision is what a GPU goes by."""
    _, step, restored = traced(name, value)
    kept = KEPT if (name, value) in (("anogan", "bfloat16"), ("gmvae", "bfloat16")) else set()
    assert convolutions(step.jaxpr) == EXPECTED[value] | kept
    for method, restoration in restored.items():
        kept = KEPT if (name, method.prior, value) == ("gmvae", "elbo", "bfloat16") else set()
        assert convolutions(restoration.jaxpr) == EXPECTED[value] | kept


@pytest.mark.parametrize("name", sorted(MODELS))
def test_everything_but_the_networks_stays_float32(name):
    """State, which a step leaves as it is, and loss terms; restored slices and traces."""
    state, step, restored = traced(name, "bfloat16")
    after, terms = step.shapes
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {term.dtype for term in terms.values()} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(after.variables)} == {jnp.dtype("float32")}
    for found in (one.shapes for one in restored.values()):
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        assert found[0].shape == (7, 16, 16, 1)


def both(config):
    """The config, and the same in bfloat16."""
    other = config.copy_and_resolve_references()
    other.train.precision = other.restore.precision = "bfloat16"
    return config, other


def magnitudes(tree):
    return jax.tree.map(np.abs, tree)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("kind", ["cpu", GPU])
def test_bfloat16_networks_stay_within_the_bound_of_their_roundings(config, params, slices, kind):
    """|error| <= ((1 + u)^m - 1) |W_n| ... |W_1| |x|, m roundings in turn, u = 2^-8 (Higham 2002, Sec. 3).

    |LeakyReLU(a)| <= |a|, so the products of magnitudes are what the network makes of |x| with magnitudes as
    parameters. A convolution rounds its input, its kernel (where two or four weights are added, up to three times) and
    its result.
    """
    a_convolution, x = 5, slices.y
    network, weights = vae.VAE(tuple(config.model.channels), config.model.latent_channels, False), params["autoencoder"]

    def rounded(weights, given, method):
        cast = precision.cast(blocks.merge(weights), "bfloat16")
        return network.apply({"params": cast}, given, method=method)

    z = np.random.default_rng(0).standard_normal((3, 4, 4, 4), np.float32)
    depth = 2 * len(config.model.channels) + 2  # of encoder and decoder
    for method, given in (("encode", x), ("decode", z)):
        apply = jax.jit(functools.partial(network.apply, method=method))
        exact, size = apply({"params": weights}, given), apply(*magnitudes(({"params": weights}, given)))
        with convolution_forms.forms(kind):
            # Whatever is to be rounded is rounded, as by devices that have no better.
            options = {"xla_allow_excess_precision": False}
            found = jax.jit(rounded, static_argnames="method", compiler_options=options)(weights, given, method=method)
        roundings = a_convolution * depth
        for a, b, scale in zip(*map(jax.tree.leaves, (found, exact, size)), strict=True):
            assert a.dtype == jnp.float32
            error = np.abs(a - b)
            assert error.max() > 0
            assert (error <= ((1 + ROUNDING) ** roundings - 1) * scale).all()
            # Roundings are as often up as down: typically the error is that of a few of them.
            assert np.sqrt((error**2).mean()) < np.sqrt(roundings) * ROUNDING * np.sqrt((b**2).mean())


@pytest.mark.parametrize("kind", ["cpu", GPU])
def test_in_bfloat16_what_a_gradient_keeps_of_a_network_has_16_bits_or_less(config, params, slices, kind):
    """Of images at full size, the bound on log P keeps signs: biases and activations are float32 on the way only."""
    config.restore.precision = "bfloat16"
    with convolution_forms.forms(kind):
        networks = models.from_config(config, "bfloat16").bind(params)
        _, back = jax.eval_shape(lambda x: jax.vjp(lambda x: networks.elbo(x, jax.random.key(0)), x), slices.y[0])
    images = [kept for kept in jax.tree.leaves(back) if kept.shape[:3] == (1, 16, 16)]
    wide = {str(kept.dtype) for kept in images if kept.shape[3] > 1}
    assert "bool" in wide
    assert wide <= {"bool", "bfloat16"}


def relative(found, expected) -> float:
    """Norm of the difference of two trees over that of the second."""
    found, expected = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def found():
    """What `stepped` has found already."""
    return {}


@pytest.fixture
def stepped(found, config, variables, slices):
    """In float32 and in bfloat16: gradients of trained parameters, and the running statistics after a step."""
    if not found:
        for one in both(config):

            def loss(params, one=one):
                given = {**variables, "params": params}
                value, (stats, _) = model(one).loss(given, slices.y, slices.mask, jax.random.key(0))
                return value, stats

            found[one.train.precision] = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return found["float32"], found["bfloat16"]


def test_bfloat16_gradients_point_where_float32_s_do(config, params, slices, stepped):
    """Of trained parameters and of the image: forwards and back 26 convolutions in turn, sqrt(26 * 5) 2^-8 = 4.5 %,
    of which twice as much is allowed: residuals are differences, whose relative errors are larger."""

    def of_the_image(config):
        elbo = jax.grad(models.from_config(config, config.restore.precision).bind(params).elbo)
        return jax.jit(elbo)(slices.y[0], jax.random.key(0))

    (of_parameters, _), (rounded_parameters, _) = stepped
    exact, rounded = (of_the_image(one) for one in both(config))
    for found, expected in ((rounded_parameters, of_parameters), (rounded, exact)):
        assert 0 < relative(found, expected) < 0.09


def test_gradients_of_biases_are_sums_in_float32(stepped):
    """In bfloat16 a sum of this many pixels ends at 256 times its terms. The last bias has the sum of all residuals."""
    exact, rounded = (gradients["autoencoder"]["last"]["bias"] for gradients, _ in stepped)
    assert 0 < relative(rounded, exact) < ROUNDING


def test_running_statistics_are_of_the_bfloat16_activations_in_float32(stepped):
    """One step from the same state: the means of activations are as precise as they are, the averaging is exact."""
    (_, exact), (_, rounded) = stepped
    assert 0 < relative(rounded, exact) < 2 * ROUNDING
    values = np.concatenate([np.ravel(x) for x in jax.tree.leaves(rounded)])
    assert (values != values.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.9


def test_a_restoration_moves_alike(config, params, slices):
    """Most pixels move alike; where the sign of TV's gradient hangs on rounding, Adam takes a full step either way."""
    strength = np.ones(7, np.float32)
    results = []
    for one in both(config):
        run = jax.jit(restorer(names.parse("vae_lg_neural_tv"), one))
        results.append(np.asarray(run(params, slices.y, slices.mask, slices.number, strength)[0]))
    exact, rounded = results
    inside = slices.mask > 0
    np.testing.assert_array_equal(rounded[~inside], slices.y[~inside])
    step = config.restore.learning_rate
    difference = np.abs(rounded - exact)[inside]
    assert 0 < np.median(difference) < 0.1 * step
    assert (difference < step).mean() > 0.9


@functools.cache
def stepping(name, value):
    """A training step of a model at a constant rate, one program for all tests, and the state before the first one."""
    config = of_model(name, value)
    config.train.learning_rate, config.train.schedule = 3e-3, "constant"
    return jax.jit(make_step(config)), initial_state(config)


def test_on_a_cpu_tensorfloat32_is_float32_bit_for_bit(config, params, slices):
    results = []
    for value in ("float32", "tensorfloat32"):
        config.train.precision = config.restore.precision = value
        restored = jax.jit(restorer(names.parse("vae_elbo_tv"), config))
        x, _ = restored(params, slices.y, slices.mask, slices.number, np.ones(7, np.float32))
        step, state = stepping("vae", value)
        state, _ = step(state, slices.y, slices.mask)
        results.append([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((x, state))])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["vae", "aae", "dae"])
def test_bfloat16_training_lowers_the_loss_as_float32_does(name, slices):
    """To within a tenth of how far it falls. Forty steps are enough for the loss to fall by a third and more."""
    falls = []
    for value in ("float32", "bfloat16"):
        (step, state), history = stepping(name, value), []
        for _ in range(40):
            state, terms = step(state, slices.y, slices.mask)
            history.append(float(terms["loss"]))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        falls.append(1 - np.mean(history[-5:]) / np.mean(history[:5]))
    assert falls[0] > 0.3
    assert falls[1] == pytest.approx(falls[0], rel=0.1)


def test_configs_ask_for_the_papers_precision_and_the_benchmark_for_its_own():
    for variant in experiment.VARIANTS:
        config = experiment.get_config(variant)
        assert config.train.precision == config.restore.precision == "float32"
    for config in bench.get_config().experiments.values():
        assert config.restore.precision == "tensorfloat32"
        assert "train" not in config or config.train.precision == "tensorfloat32"


def test_measured_maps_keep_the_bounds_that_are_stated():
    modes = json.loads((ROOT / "benchmarks" / "precision_phantom_smoke_cpu.json").read_text())["modes"]
    reference, nudged = modes.pop("float32"), modes["float32_nudged"]["difference"]["mean"]
    assert {"tensorfloat32_emulated", "bfloat16", "float32_gpu_forms", "bfloat16_gpu_forms"} < set(modes)
    for mode in modes.values():
        assert mode["difference"]["mean"] < min(0.01, 1.05 * nudged)
        for kind in ("dark", "glioma", "isointense", "ms"):
            assert mode[kind]["auc"] == pytest.approx(reference[kind]["auc"], abs=0.02)
