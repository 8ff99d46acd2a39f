"""Measures every form of every convolution of lgjax's networks on the device at hand, and chooses among them."""

import functools
import math
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
from lgjax.speed import counts, times

PRECISIONS = ("tensorfloat32", "bfloat16")  # whose convolutions are measured; those of float32 are the former's
TURN = 0.02  # seconds that a run lasts at least, so that starting the run does not count
SHORTEST = 2  # iterations: compilers take a loop of one for none
MORE = 1.2  # times the iterations that would do, since a short run seems slow
MARGIN = 0.05  # by which a form must be faster than the plain one to be chosen
UNKNOWN = "any GPU"  # a kind of device without a table
NUDGE = 1e-20  # of one pixel from iteration to iteration, so that none is computed once for all


class Measured(NamedTuple):
    """What was measured of one convolution, by form."""

    seconds: dict[str, float]  # of an iteration
    iterations: dict[str, int]  # of a run


class Tuning(NamedTuple):
    """How forms are measured."""

    kind: str  # of device
    slices: int  # in a batch
    repeats: int
    until: float  # no further convolution is begun after this `time.perf_counter()`


def configs(smoke: bool) -> list:
    """Returns the experiments whose networks count: the paper's, and the restorer's of the same resolution."""
    found = [vae.get_config("paper"), *([] if smoke else [restorer.get_config("paper")])]
    for config in found:
        if smoke:
            config.data.height = config.data.width = 16
            config.model.channels, config.model.latent_channels = (4, 8), 8
    return found


def layers(config, kind: str) -> dict[str, set[tuned.Layer]]:
    """Returns the convolutions to choose forms for on a kind of device, by use, in all of `PRECISIONS`.

    They are those of a model in training and in restorations, merged there but on CPU, and those of image gradients.
    """
    found = [_layers(config, precision, kind) for precision in PRECISIONS]
    return {use: set().union(*(one[use] for one in found)) for use in tuned.USES}


def _layers(config, precision: str, kind: str) -> dict[str, set[tuned.Layer]]:
    """Returns the convolutions of one precision by use."""
    model = models.from_config(config, precision)
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
    return {tuned.FORWARD: {*own, *turned}, tuned.IMAGE: own, tuned.KERNEL: {*trained}}


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


def largest_first(found: dict[str, set[tuned.Layer]]) -> list[tuple[str, tuned.Layer]]:
    """Sorts uses of convolutions by the size of image and result, so that those come first which take longest."""

    def key(one):
        use, layer = one
        return -math.prod(layer.size) * (layer.channels + layer.features), use, layer

    return sorted(((use, layer) for use, layers in found.items() for layer in layers), key=key)


def _shapes(layer: tuned.Layer, slices: int) -> list[jax.ShapeDtypeStruct]:
    """Returns image, kernel and the gradient of the result."""
    shapes = (
        (slices, *layer.size, layer.channels),
        (*layer.kernel, layer.channels, layer.features),
        (slices, *layer.result, layer.features),
    )
    return [jax.ShapeDtypeStruct(shape, layer.dtype) for shape in shapes]


class Contestant:
    """A convolution, or a gradient of one, in one form, and how many iterations of it a run has."""

    def __init__(self, use: str, form: str, layer: tuned.Layer, tuning: Tuning):
        """Compiles the form; a run lasts `TURN` seconds or longer."""
        rng = np.random.default_rng(0)
        self.arrays = [jnp.asarray(rng.standard_normal(s.shape), s.dtype) for s in _shapes(layer, tuning.slices)]
        compute = functools.partial(_once, use, form, layer, tuning.kind)
        self.iterations, self.run = long_enough(_repeated(use, tuning.kind)(compute, *self.arrays))
        self.samples: list[float] = []  # seconds of an iteration

    def turn(self) -> None:
        """Takes a turn."""
        self.samples.append(times.seconds(self.run) / self.iterations)

    @property
    def seconds(self) -> float:
        """The median of all turns, in three digits."""
        return float(f"{np.median(self.samples):.3g}")


def long_enough(compiled: Callable[[int], Callable]) -> tuple[int, Callable]:
    """Returns how many iterations a run needs to last `TURN` seconds, and that run.

    Args:
      compiled: makes a run of so many iterations.
    """
    iterations = SHORTEST
    while True:
        run = compiled(iterations)
        times.seconds(run)  # which may load a library
        taken = times.seconds(run)
        if taken >= TURN:
            return iterations, run
        iterations = math.ceil(iterations * MORE * TURN / taken)


def _once(use: str, form: str, layer: tuned.Layer, kind: str, x, kernel, gradient):
    """Computes one form; a convolution with bias and activation, which compilers fuse with what lays pixels out."""
    compute, rest = convolutions.FORMS[use][form], (layer.strides, layer.padding)
    if use == tuned.FORWARD:
        return blocks.activation(compute(x, kernel, *rest) + jnp.ones((1, 1, 1, layer.features), x.dtype))
    return compute(kind, x, kernel, gradient, *rest)


def _repeated(use: str, kind: str) -> Callable:
    """Returns what repeats a computation on a kind of device: a loop, but for the kernel gradients of a CPU.

    Called step by step, a GPU would wait for the host, where a gradient takes less time than a call.
    """
    return _steps if (use, kind) == (tuned.KERNEL, "cpu") else _loop


def _steps(compute: Callable, x, kernel, gradient) -> Callable[[int], Callable]:
    """Makes a function of a number of iterations that returns a run: a program is called as often.

    Each step changes the kernel of the next one, so that steps follow each other.
    """

    def step(kernel, x, gradient):
        found = compute(x, kernel, gradient)
        return kernel - NUDGE * found, found

    options = devices.compiler_options(devices.mesh(), "training")
    program = jax.jit(step, compiler_options=options).lower(kernel, x, gradient).compile()

    def run(iterations):
        changed = kernel
        for _ in range(iterations):
            changed, found = program(changed, x, gradient)
        return found

    return lambda iterations: functools.partial(run, iterations)


def _loop(compute: Callable, *arrays) -> Callable[[int], Callable]:
    """Makes a function of a number of iterations that returns a run: one program that loops, as restorations do.

    So do the training steps of a dispatch. The compiler knows the number, as it does there: a GPU need not tell the
    host after every iteration that another one follows.
    """
    options = devices.compiler_options(devices.mesh(), "restoration")

    def compiled(iterations):
        loop = jax.jit(functools.partial(looped, compute, iterations), compiler_options=options)
        return functools.partial(loop.lower(*arrays).compile(), *arrays)

    return compiled


def looped(compute: Callable, iterations: int, x, kernel, gradient):
    """Computes something of image, kernel and gradient again and again, and returns the last result.

    All of a result is computed every time, as the loop carries the result; and anew, as the result changes a pixel.
    """

    def body(_, carried):
        (x, gradient), result = carried
        nudge = (NUDGE * result.ravel()[0]).astype(x.dtype)
        x, gradient = x.at[0, 0, 0, 0].add(nudge), gradient.at[0, 0, 0, 0].add(nudge)
        return (x, gradient), compute(x, kernel, gradient)

    shape = jax.eval_shape(compute, x, kernel, gradient)
    return jax.lax.fori_loop(0, iterations, body, ((x, gradient), jnp.zeros(shape.shape, shape.dtype)))[1]


def compared(use: str, layer: tuned.Layer, kind: str) -> list[str]:
    """Returns the forms of a convolution that are to be compared on a kind of device; none where there is one alone."""
    forms = set(tuned.possible(use, layer))
    if use != tuned.FORWARD and tuned.chosen(kind, tuned.FORWARD, layer) == "plain":
        forms.discard("formed")  # the same as plain
    return sorted(forms) if len(forms) > 1 else []


def measured(use: str, layer: tuned.Layer, tuning: Tuning) -> Measured:
    """Measures the forms of one convolution in turns; returns the median seconds of those that compile."""
    contestants = {}
    for form in compared(use, layer, tuning.kind):
        try:
            contestants[form] = Contestant(use, form, layer, tuning)
        except jax.errors.JaxRuntimeError as error:
            print(f"{use} of {layer} as {form}: {str(error).splitlines()[0]}", flush=True)
    for _ in range(tuning.repeats):
        for contestant in contestants.values():
            contestant.turn()
    seconds = {form: contestant.seconds for form, contestant in contestants.items()}
    return Measured(seconds, {form: contestant.iterations for form, contestant in contestants.items()})


def fastest(seconds: dict[str, float]) -> str:
    """Returns the fastest form; the plain one unless another is faster by more than the margin."""
    best = min(seconds, key=lambda form: seconds[form])
    return best if seconds[best] < (1 - MARGIN) * seconds.get("plain", np.inf) else "plain"


def tune(wanted: dict[str, set[tuned.Layer]], tuning: Tuning) -> Iterator[tuned.Entry]:
    """Yields an entry for every use of a convolution with more than one form, the largest first, until the time is up.

    On CPU, the form is that of the rule whatever was measured, so that the bits of maps stay what they are.
    """
    for use, layer in largest_first(wanted):
        if time.perf_counter() > tuning.until:
            return
        found = measured(use, layer, tuning)
        if found.seconds:
            form = tuned.by_rule(use, layer) if tuning.kind == "cpu" else fastest(found.seconds)
            yield tuned.Entry(use, layer, form, *found)
