"""What compiled programs for several devices say of what the devices tell each other."""

import re

_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"


def collectives(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Lists the collectives of an optimised program: their kind and the shapes of what is told, such as f32[4,4].

    Args:
      text: of the program, from `compiled.as_text()`.
    """
    found = re.findall(rf"= (.*?) ({_KINDS})(?:-start)?\(", text)
    return [(kind, tuple(re.findall(r"\w+\[[\d,]*\]", shapes))) for shapes, kind in found]
