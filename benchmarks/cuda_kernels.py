"""Counts what a program compiled for CUDA launches: kernels, what each reads and writes, and its operations."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lgjax.speed import traffic
from lgjax.speed.hlo import Array, Computation, Instruction, Program
from lgjax.speed.traffic import Launch

# Opcodes within a fusion that say which element is meant, and compute none.
_MOVES = (
    traffic.FREE
    | traffic.PARTS
    | {"broadcast", "reshape", "transpose", "pad", "concatenate", "iota", "copy", "reverse"}
)
_MOVES |= {"dynamic-update-slice", "convert"}
_REDUCTIONS = {"reduce", "reduce-window"}
_LIBRARIES = {"__cudnn$conv": "convolution", "__cublas": "product"}  # kind of a call by how its target begins
LIBRARIES = frozenset(_LIBRARIES.values())
OWN = "own"  # kind of a kernel that lgjax brings, a call of Triton
_TARGET = r'custom_call_target="([^"]*)"'


class Kernel(NamedTuple):
    """One launch, and how often it comes."""

    kind: str  # convolution, product, triton (a product by XLA), own, reduction, elementwise, copy or other
    times: float
    bytes: int  # read and written, each operand and each result once
    flops: int  # of convolutions and products of matrices: two a product
    scope: str = ""  # of the program's text that asks for it: XLA's op_name


def kernels(program: Program, own: Mapping[str, float] | None = None) -> list[Kernel]:
    """Returns the kernels of a program in the order of launch, those of its loops as often as these run.

    Args:
      program: that was compiled.
      own: operations of our own kernels, by name: XLA's text does not tell them.

    Raises:
      ValueError: nobody knows how often a loop runs, which branch is taken, or what a kernel computes.
    """
    found = [_kernel(program, launch) for launch in traffic.launches(program)]
    return [_told(one, own or {}) if one.kind == OWN else one for one in found]


def _told(one: Kernel, own: Mapping[str, float]) -> Kernel:
    """Adds the operations of one of our own kernels."""
    names = [name for name in own if f"({name})" in one.scope or f"/{name}/" in one.scope]
    if len(names) != 1:
        raise ValueError(f"{one.scope}: what this kernel computes is not known")
    return one._replace(flops=round(own[names[0]]))


def of_unit(found: Iterable[Kernel], units: int) -> list[Kernel]:
    """Returns the kernels of one iteration, each with how often it comes there; what runs once is left out.

    Args:
      found: the kernels of a run.
      units: iterations of the run; 0: there are none, and everything counts.
    """
    return [one._replace(times=one.times / (units or 1)) for one in found if one.times > 1 or not units]


def written(found: Iterable[Kernel]) -> list[str]:
    """Returns lines for a record: how often, kind, bytes, operations; kernels that are alike have one line."""
    alike: Counter[tuple] = Counter()
    for one in found:
        alike[one.kind, one.bytes, one.flops] += one.times
    return [f"{count:g} {kind} {size} {flops}" for (kind, size, flops), count in alike.items()]


def read(lines: Sequence[str]) -> list[Kernel]:
    """Reads the kernels that `written` wrote."""
    words = [line.split() for line in lines]
    return [Kernel(kind, float(count), int(size), int(flops)) for count, kind, size, flops in words]


def _kernel(program: Program, launch: Launch) -> Kernel:
    """Counts one launch."""
    around, one, times = launch
    scope, size = one.found(r'op_name="([^"]*)"'), traffic.size(program, around, one)
    if one.opcode == "fusion":
        inner = program.computations[one.called("calls")]
        flops = sum(_dot(inner, each) for each in inner.instructions.values())
        return Kernel(_kind(one, inner), times, size, flops, scope)
    if one.opcode == "custom-call":
        operands = [around.result(name) for name in one.operands]
        return Kernel(_library(one), times, size, _operations(one, operands), scope)
    return Kernel("copy" if one.opcode.startswith("copy") else "other", times, size, 0, scope)


def _kind(one: Instruction, inner: Computation) -> str:
    """Names the kind of a fusion."""
    opcodes = {each.opcode for each in inner.instructions.values()}
    if "__triton" in one.attributes:
        return "triton"
    return "reduction" if opcodes & _REDUCTIONS else "elementwise" if opcodes - _MOVES else "copy"


def _dot(inner: Computation, one: Instruction) -> int:
    """Counts the operations of a product of matrices within a fusion."""
    if one.opcode != "dot":
        return 0
    contracted = one.found(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
    return _product(one.results[0], inner.result(one.operands[0]), contracted)


def _product(result: Array, left: Array, contracted: list[str]) -> int:
    return 2 * result.elements * math.prod(left.shape[int(axis)] for axis in contracted)


def _library(one: Instruction) -> str:
    """Names the kind of a call of a library."""
    target = one.found(_TARGET)
    if "triton" in target:
        return OWN
    return next((kind for start, kind in _LIBRARIES.items() if target.startswith(start)), "other")


def _operations(one: Instruction, operands: list[Array]) -> int:
    """Counts the operations of a call of a library, 0 where nothing tells them."""
    target = one.found(_TARGET)
    if target.startswith("__cudnn$conv"):
        return _convolution(one, target, operands)
    if target.startswith("__cublas"):
        numbers = json.loads(one.found(r'"dot_dimension_numbers":(\{[^}]*\})'))
        return _product(one.results[0], operands[0], numbers["lhs_contracting_dimensions"])
    return 0


def _convolution(one: Instruction, target: str, operands: list[Array]) -> int:
    """Counts the operations of a convolution; its two gradients have as many."""
    first, second, result = operands[0], operands[1], one.results[0]
    image, kernel = result, second
    if target.endswith("BackwardFilter"):
        image, kernel = second, result
    elif target.endswith("BackwardInput"):
        image = first
    features = one.found(r"dim_labels=\w+_(\w+)->").index("o")
    return 2 * image.elements * kernel.elements // kernel.shape[features]
