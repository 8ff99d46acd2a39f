"""Reads the dump of a compiled program's thunks: what the host of a GPU launches."""

import re

_THUNK = re.compile(r"^( *)\d+: (\w+)")


def captured(thunks: str) -> bool:
    """Returns whether every loop of a program lies within a command buffer (a CUDA graph).

    Args:
      thunks: of the program, as XLA dumps them after its passes: `000: kWhile ...`, what is within indented further.
    """
    buffer, outside = -1, False  # how far the command buffer is indented that the line lies in; -1: in none
    for line in thunks.splitlines():
        if found := _THUNK.match(line):
            indent = len(found[1])
            buffer = -1 if indent <= buffer else buffer
            if buffer < 0 and found[2] == "kCommandBuffer":
                buffer = indent
            outside |= found[2] == "kWhile" and buffer < 0
    return not outside
