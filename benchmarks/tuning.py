"""Measures every form of every convolution of lgjax's networks on the device at hand, and chooses among them."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import restorer, vae
from lgjax import models
from lgjax.models import blocks, convolutions, tuned
from lgjax.runtime import devices
from lgjax.speed import counts

TURN = 0.02  # seconds of a run: many iterations of a loop, so that starting the run does not count
MARGIN = 0.05  # by which a form must be faster than the plain one to be chosen
UNKNOWN = "any GPU"  # a kind of device without a table
NUDGE = 1e-20  # of one pixel from iteration to iteration, so that none is computed once for all


class Tuning(NamedTuple):
    """How forms are measured."""

    kind: str  # of device
    slices: int  # in a batch
    repeats: int
    until: float  # no further convolution is begun after this `time.perf_counter()`


def configs(smoke: bool, precision: str) -> list:
    """Returns the experiments whose networks count: the paper's, and the restorer's of the same resolution."""
    found = [vae.get_config("paper"), *([] if smoke else [restorer.get_config("paper")])]
    for config in found:
        config.restore.precision = precision
        if smoke:
            config.data.height = config.data.width = 16
            config.model.channels, config.model.latent_channels = (4, 8), 8
    return found


def layers(config, kind: str) -> dict[str, list[tuned.Layer]]:
    """Returns the convolutions to choose forms for on a kind of device, by use, the largest first.

    They are those of a model in training and in restorations, merged there but on CPU, and those of image gradients.
    """
    model = models.from_config(config, config.restore.precision)
    params = jax.eval_shape(lambda key: models.freeze(model.init(key)), jax.random.key(0))
    x = jax.ShapeDtypeStruct((config.data.height, config.data.width, 1), jnp.float32)

    def asked(whose, params, x):
        with convolutions.forms(whose):  # merges or not
            networks, key = model.bind(params), jax.random.key(0)
        found = networks.elbo(x, key) if networks.elbo else networks.reconstruct(x)
        return found, networks.variance(x)

    trained = _convolutions(functools.partial(asked, "plain"), params, x)
    restoring = trained if kind == "cpu" else _convolutions(functools.partial(asked, UNKNOWN), params, x)
    own = {*trained, *restoring}
    turned = [layer for one in own for layer in _convolutions(_turned(one), *_shapes(one, 1))]
    return {
        tuned.FORWARD: _largest_first({*own, *turned}),
        tuned.IMAGE: _largest_first(own),
        tuned.KERNEL: _largest_first(set(trained)),
    }


def _convolutions(function: Callable, *arguments: Any) -> list[tuned.Layer]:
    """Lists the convolutions that a function computes in the plain form."""
    with convolutions.forms("plain"):
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return [_layer(one) for one in _equations(jaxpr) if one.params["lhs_dilation"] == (1, 1)]


def _equations(jaxpr) -> list:
    """Lists the convolutions in a jaxpr, those of functions within included."""
    inner = [part for one in jaxpr.eqns for part in counts.jaxprs(one.params)]
    own = [one for one in jaxpr.eqns if one.primitive.name == "conv_general_dilated"]
    return own + [one for part in inner for one in _equations(part)]


def _layer(equation) -> tuned.Layer:
    x, kernel = (part.aval for part in equation.invars)
    return tuned.Layer.of(x, kernel, equation.params["window_strides"], equation.params["padding"])


def _turned(layer: tuned.Layer) -> Callable:
    form = convolutions.FORMS[tuned.IMAGE]["turned"]
    return lambda x, kernel, gradient: form("plain", x, kernel, gradient, layer.strides, layer.padding)


def _largest_first(found: set[tuned.Layer]) -> list[tuned.Layer]:
    return sorted(found, key=lambda one: (-one.size[0] * one.size[1] * (one.channels + one.features), one))


def _shapes(layer: tuned.Layer, slices: int) -> list[jax.ShapeDtypeStruct]:
    """Returns image, kernel and the gradient of the result."""
    shapes = (
        (slices, *layer.size, layer.channels),
        (*layer.kernel, layer.channels, layer.features),
        (slices, *layer.result, layer.features),
    )
    return [jax.ShapeDtypeStruct(shape, layer.dtype) for shape in shapes]


class Contestant:
    """A convolution, or a gradient of one, in one form, compiled."""

    def __init__(self, use: str, form: str, layer: tuned.Layer, tuning: Tuning):
        """Compiles the form and runs it once; a turn then is as many times as take about `TURN` seconds."""
        rng = np.random.default_rng(0)
        self.arrays = [jnp.asarray(rng.standard_normal(s.shape), s.dtype) for s in _shapes(layer, tuning.slices)]
        compute = functools.partial(_once, use, form, layer, tuning.kind)
        self.compute = _again_and_again(compute) if use == tuned.KERNEL else _looping(compute)
        self.times, self.seconds = 1, list[float]()
        self.run()  # compiles
        self.times = max(1, round(TURN / self.run()))

    def run(self) -> float:
        """Returns the seconds that it takes, once of `times`."""
        began = time.perf_counter()
        jax.block_until_ready(self.compute(self.times, *self.arrays))
        return (time.perf_counter() - began) / self.times

    def turn(self) -> None:
        """Takes a turn."""
        self.seconds.append(self.run())


def _once(use: str, form: str, layer: tuned.Layer, kind: str, x, kernel, gradient):
    """Computes one form; a convolution with bias and activation, which compilers fuse with what lays pixels out."""
    compute, rest = convolutions.FORMS[use][form], (layer.strides, layer.padding)
    if use == tuned.FORWARD:
        return blocks.activation(compute(x, kernel, *rest) + jnp.ones((1, 1, 1, layer.features), x.dtype))
    return compute(kind, x, kernel, gradient, *rest)


def _again_and_again(compute: Callable) -> Callable:
    """Makes a function of (times, ...) that calls a program as often, as training calls steps."""
    program = jax.jit(compute, compiler_options=devices.compiler_options(devices.mesh(), "training"))
    return lambda times, *arrays: [program(*arrays) for _ in range(times)][-1]


def _looping(compute: Callable) -> Callable:
    """Makes a function of (times, image, kernel, gradient), one program that loops, as restorations do.

    All of a result is computed every time, as the loop carries the result; and anew, as one pixel has changed.
    """

    def loop(times, x, kernel, gradient):
        def body(_, carried):
            (x, gradient), result = carried
            nudge = (NUDGE * result.ravel()[0]).astype(x.dtype)
            x, gradient = x.at[0, 0, 0, 0].add(nudge), gradient.at[0, 0, 0, 0].add(nudge)
            return (x, gradient), compute(x, kernel, gradient)

        shape = jax.eval_shape(compute, x, kernel, gradient)
        return jax.lax.fori_loop(0, times, body, ((x, gradient), jnp.zeros(shape.shape, shape.dtype)))[1]

    return jax.jit(loop, compiler_options=devices.compiler_options(devices.mesh(), "restoration"))


def measured(use: str, layer: tuned.Layer, tuning: Tuning) -> dict[str, float]:
    """Measures the forms of one convolution in turns; returns the median seconds of those that compile."""
    forms = set(tuned.possible(use, layer))
    if use != tuned.FORWARD and tuned.chosen(tuning.kind, tuned.FORWARD, layer) == "plain":
        forms.discard("formed")  # the same as plain
    contestants = {}
    for form in sorted(forms) if len(forms) > 1 else ():
        try:
            contestants[form] = Contestant(use, form, layer, tuning)
        except jax.errors.JaxRuntimeError as error:
            print(f"{use} of {layer} as {form}: {str(error).splitlines()[0]}", flush=True)
    for _ in range(tuning.repeats):
        for contestant in contestants.values():
            contestant.turn()
    return {form: float(f"{np.median(contestant.seconds):.3g}") for form, contestant in contestants.items()}


def fastest(seconds: dict[str, float]) -> str:
    """Returns the fastest form; the plain one unless another is faster by more than the margin."""
    best = min(seconds, key=lambda form: seconds[form])
    return best if seconds[best] < (1 - MARGIN) * seconds.get("plain", np.inf) else "plain"


def tune(found: dict[str, list[tuned.Layer]], tuning: Tuning) -> Iterator[tuned.Entry]:
    """Yields an entry for every convolution with more than one form, until the time is up; see `layers`.

    On CPU, the form is that of the rule whatever was measured, so that the bits of maps stay what they are.
    """
    for use, layer in [(use, layer) for use, layers in found.items() for layer in layers]:
        if time.perf_counter() > tuning.until:
            return
        if seconds := measured(use, layer, tuning):
            form = tuned.by_rule(use, layer) if tuning.kind == "cpu" else fastest(seconds)
            yield tuned.Entry(use, layer, form, seconds)
