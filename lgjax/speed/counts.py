"""How much work a program is, from its jaxpr: the same count on every device, whatever its compiler says.

Operations are those of floats that XLA's own count has: of a product of matrices or a convolution, a multiplication and
an addition each, none with padding; else one for each element that is computed or added up. Conversions, integers (so
random bits) and functions such as the exponential count nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

ELEMENTWISE = frozenset(
    (
        *(
            "abs",
            "add",
            "add_any",
            "div",
            "integer_pow",
            "mul",
            "neg",
            "one_minus_square",
            "rem",
            "sign",
            "square",
            "sub",
        ),
        *("ceil", "clamp", "floor", "max", "min", "nextafter", "round"),
        *("eq", "ge", "gt", "is_finite", "le", "lt", "ne", "select_n"),
    )
)
REDUCTIONS = frozenset(("argmax", "argmin", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum"))
RUNNING = frozenset(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"))


class Count(NamedTuple):
    """The work of a program, on all devices together."""

    flops: float  # floating-point operations
    bytes: float  # read and written; here, by each operation as if none were fused: more than a compiled program's


NOTHING = Count(0.0, 0.0)


def of(function: Any, *arguments: Any) -> Count:
    """Counts the work of a jitted function, called with some arguments."""
    return of_results(function.trace(*arguments).jaxpr)


def of_results(jaxpr: Any) -> Count:
    """Counts the work that the results of a closed jaxpr need, as `count` does: compilers leave out the rest."""
    opened = getattr(jaxpr, "jaxpr", jaxpr)  # from jax 0.11, open and closed ones are of one kind
    needed, _ = partial_eval.dce_jaxpr(opened, [True] * len(opened.outvars))
    return count(needed)


def count(jaxpr: Any) -> Count:
    """Counts the work of a jaxpr, open or closed.

    A loop counts as often as it is known to turn; a `while` whose turns depend on its data counts once. Of branches,
    the one with the most operations counts.
    """
    return total(map(_of_equation, jaxpr.eqns))


def total(counts: Iterable[Count]) -> Count:
    """Adds counts up."""
    return Count(*map(math.fsum, zip(NOTHING, *counts, strict=True)))


def scaled(found: Count, factor: float) -> Count:
    """Multiplies a count."""
    return Count(*(factor * value for value in found))


def per_iteration(short: Count, long: Count, more: int) -> Count:
    """Returns the work of one iteration, without what a run does once, from runs of which one has `more` iterations."""
    return Count(*((b - a) / more for a, b in zip(short, long, strict=True)))


def _of_equation(equation: Any) -> Count:
    """Counts one equation, and the jaxprs within."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return max(map(count, params["branches"]))
    if name == "pallas_call":  # whose kernel reads and writes what is near
        turns = math.prod(params["grid_mapping"].grid)
        return Count(turns * count(params["jaxpr"]).flops, _bytes(equation))
    inner = [] if name in RULES else list(jaxprs(params))
    if inner:
        turns = {"scan": lambda: params["length"], "shard_map": lambda: params["mesh"].size}.get(name, lambda: 1)()
        return scaled(total(map(count, inner)), turns)
    return Count(float(_flops(name, equation)), _bytes(equation))


def jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs among the parameters of an equation, open or closed."""
    for value in params.values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if hasattr(one, "eqns"):
                yield one


def _bytes(equation: Any) -> float:
    """Returns the bytes of what an equation reads and writes."""
    values = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    return float(sum(value.size * value.dtype.itemsize for value in values if hasattr(value, "dtype")))


def _flops(name: str, equation: Any) -> float:
    """Counts the operations of an equation without jaxprs within."""
    given, (made, *_) = [variable.aval for variable in equation.invars], [v.aval for v in equation.outvars]
    if not any(hasattr(value, "dtype") and jnp.issubdtype(value.dtype, np.inexact) for value in (*given, made)):
        return 0
    rule = RULES.get(name)
    if rule:
        return rule(equation.params, given, made)
    if name in ELEMENTWISE:
        return made.size
    if name in REDUCTIONS:
        return given[0].size - made.size
    return made.size if name in RUNNING else 0


def _product(params: dict[str, Any], given: list[Any], made: Any) -> float:
    """Counts a product of matrices."""
    (contracted, _), _ = params["dimension_numbers"]
    return 2 * made.size * math.prod(given[0].shape[axis] for axis in contracted)


def _convolution(params: dict[str, Any], given: list[Any], made: Any) -> float:
    """Counts a convolution: the pairs of a pixel of the result and a tap that lies on a pixel of the image."""
    image, kernel = given
    (batch, _, *places), (features, channels, *taps) = params["dimension_numbers"][:2]
    results = [made.shape[axis] for axis in params["dimension_numbers"].out_spec[2:]]
    pairs = [
        _pairs(image.shape[place], kernel.shape[tap], result, *rest)
        for place, tap, result, *rest in zip(
            places,
            taps,
            results,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    ]
    images = image.shape[batch] // params["batch_group_count"]
    return 2 * images * kernel.shape[features] * kernel.shape[channels] * math.prod(pairs)


def _pairs(
    pixels: int, taps: int, results: int, stride: int, pads: tuple[int, int], dilation: int, between: int
) -> int:
    """Counts, along one axis, the pairs of a pixel of the result and a tap that lies on a pixel of the image."""
    place = np.arange(results)[:, None] * stride + np.arange(taps) * between - pads[0]
    return int(((place >= 0) & (place <= (pixels - 1) * dilation) & (place % dilation == 0)).sum())


RULES: dict[str, Callable[[dict[str, Any], list[Any], Any], float]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "scatter-add": lambda params, given, made: given[2].size,
}
