"""Counts the bytes that the kernels of a compiled program read and write, those of its loops as often as these turn."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from lgjax.speed import hlo
from lgjax.speed.hlo import Computation, Instruction, Program

# Opcodes that launch nothing: other names for memory that is there.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier", "partition-id"}
PARTS = {"slice", "dynamic-slice", "gather"}  # opcodes that read a part of their first operand


class Launch(NamedTuple):
    """An instruction that is a kernel of its own."""

    around: Computation  # that it is one of
    instruction: Instruction
    times: int  # that it runs


def launches(program: Program, name: str = "", times: int = 1) -> Iterator[Launch]:
    """Yields the kernels of a computation in the order of launch, those of its loops as often as these run.

    A library's call counts as one kernel, although the library may launch several.

    Args:
      program: that was compiled.
      name: of the computation; the program's entry by default.
      times: how often it runs.

    Raises:
      ValueError: nobody knows how often a loop runs, or which branch is taken.
    """
    around = program.computations[name or program.entry]
    for one in around.instructions.values():
        if one.opcode == "call":
            yield from launches(program, one.called("to_apply"), times)
        elif one.opcode == "while":
            yield from launches(program, one.called("body"), times * _trips(one))
        elif one.opcode == "conditional":
            raise ValueError(f"{one.name}: which branch is taken is not known")
        elif one.opcode not in FREE and not one.opcode.endswith("-done"):
            yield Launch(around, one, times)


def of(compiled: Any) -> int | None:
    """Counts what all kernels of a program read and write on one device, in a cache or not; None where that is unknown.

    Args:
      compiled: by JAX.
    """
    try:
        program = hlo.parse(compiled.as_text() or "")
        return sum(launch.times * size(program, launch.around, launch.instruction) for launch in launches(program))
    except (ValueError, LookupError):  # a loop of unknown length, or a text of another form
        return None


def size(program: Program, around: Computation, one: Instruction) -> int:
    """Counts the bytes that one kernel reads and writes: each operand and each result once."""
    if one.opcode == "fusion":
        inner = program.computations[one.called("calls")]
        return _read(inner) + _written(inner)
    return sum(array.bytes for array in (*map(around.result, one.operands), *one.results))


def _trips(loop: Instruction) -> int:
    found = loop.found(r'"known_trip_count":\{"n":"(\d+)"\}')
    if not found:
        raise ValueError(f"{loop.name}: how often it runs is not known")
    return int(found)


def _read(inner: Computation) -> int:
    """Returns the bytes that a fusion reads: of what is sliced, the slices, and nothing of what is updated in place."""
    return sum(_of_parameter(inner, one) for one in inner.instructions.values() if one.opcode == "parameter")


def _of_parameter(inner: Computation, one: Instruction) -> int:
    """Returns the bytes that a fusion reads of one parameter."""
    whole, parts = sum(array.bytes for array in one.results), 0
    for user in inner.users(one.name):
        first = inner.origin(user.operands[0]) == one.name
        if first and user.opcode in PARTS:
            parts += user.results[0].bytes
        elif not (first and user.opcode == "dynamic-update-slice"):
            return whole
    return min(whole, parts)


def _written(inner: Computation) -> int:
    """Returns the bytes that a fusion writes: of an update in place, those of the update."""
    root = inner.instructions[inner.root]
    total = 0
    for name in root.operands if root.opcode == "tuple" else (root.name,):
        one = inner.instructions[inner.origin(name)]
        update = one.opcode == "dynamic-update-slice"
        total += inner.result(one.operands[1] if update else one.name).bytes
    return total
