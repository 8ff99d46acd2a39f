"""Reads the text of a compiled program: XLA's HLO as `compiled.as_text()` prints it."""

import math
import re
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0}  # of an element whose type does not end with the number
_ARRAY = re.compile(r"\b([a-z]+(\d+)?\w*)\[([\d,]*)\]")
_MODULE = re.compile(r"HloModule ([^\s,]+)")
_HEAD = re.compile(r"^(ENTRY )?%(\S+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^  (ROOT )?%(\S+) = (.*)$")
_OPCODE = re.compile(r"([\w-]+)\(")
_SCOPE = re.compile(r'op_name="([^"]*)"')
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """The type of an array."""

    bits: int  # of an element
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes of memory."""
        return self.elements * self.bits // 8


class Instruction(NamedTuple):
    """One instruction of a computation."""

    name: str
    opcode: str
    results: tuple[Array, ...]  # one, or those of a tuple
    operands: tuple[str, ...]  # names of instructions of the same computation
    attributes: str  # what follows the operands

    def called(self, attribute: str) -> str:
        """Returns the name that an attribute gives, such as `calls` of a fusion or `body` of a loop."""
        return self.found(rf"\b{attribute}=%([\w.\-]+)")

    def found(self, pattern: str) -> str:
        """Returns what the group of a pattern matches in the attributes, "" where nothing matches."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


class Computation(NamedTuple):
    """A computation, such as the body of a loop or what a fusion computes."""

    instructions: dict[str, Instruction]  # by name; of a scheduled program in the order in which they run
    root: str  # name of the one whose result is returned

    def result(self, name: str) -> Array:
        """Returns the type of an instruction whose result is one array, or of the first array."""
        return self.instructions[name].results[0]

    def users(self, name: str) -> list[Instruction]:
        """Returns the instructions that take the result of one, bitcasts of it followed."""
        found = []
        for one in self.instructions.values():
            if name in one.operands:
                found += self.users(one.name) if one.opcode == "bitcast" and one.name != self.root else [one]
        return found

    def origin(self, name: str) -> str:
        """Follows bitcasts back to the instruction that they rename."""
        while self.instructions[name].opcode == "bitcast":
            name = self.instructions[name].operands[0]
        return name


class Program(NamedTuple):
    """A compiled program."""

    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Program:
    """Reads a program.

    Raises:
      ValueError: the text has no entry computation, or a line that is no instruction.
    """
    entry, name, root = "", "", ""
    inside: dict[str, Instruction] = {}
    computations: dict[str, Computation] = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, inside = head[2], {}
            entry = name if head[1] else entry
        elif found := _LINE.match(line):
            inside[found[2]] = _instruction(found[2], found[3])
            root = found[2] if found[1] else root
        elif line == "}":
            computations[name] = Computation(inside, root)
    if not entry:
        raise ValueError("no text of a compiled program: there is no entry computation")
    return Program(entry, computations)


def module(text: str) -> str:
    """Returns the name of a program; "" where the text is of another form."""
    found = _MODULE.match(text)
    return found[1] if found else ""


def scopes(text: str) -> dict[str, str]:
    """Returns by name what asked for each instruction, as JAX says it: functions, modules and the primitive."""
    found = ((_LINE.match(line), _SCOPE.search(line)) for line in text.splitlines())
    return {line[2]: scope[1] for line, scope in found if line and scope}


def _instruction(name: str, text: str) -> Instruction:
    """Reads what follows `name =`: type, opcode, operands and attributes."""
    opcode = _OPCODE.search(text, _closing(text, 0) if text.startswith("(") else 0)
    if not opcode:
        raise ValueError(f"no instruction: {text[:80]}")
    end = _closing(text, opcode.end() - 1)
    operands = _NAME.findall(text[opcode.end() : end])
    return Instruction(name, opcode[1], _arrays(text[: opcode.start()]), tuple(operands), text[end:])


def _closing(text: str, start: int) -> int:
    """Returns the place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _arrays(text: str) -> tuple[Array, ...]:
    """Reads the arrays of a type, such as `f32[64,8]{1,0}` or a tuple of such."""
    return tuple(
        Array(int(bits) if bits else _BITS[dtype], tuple(int(size) for size in shape.split(",") if size))
        for dtype, bits, shape in _ARRAY.findall(text)
    )
