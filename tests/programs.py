"""What programs hold: equations as traced, what devices tell each other as compiled; programs for an absent device."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import AbstractMesh

from lgjax.speed import counts

_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"


def collectives(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Lists the collectives of an optimised program: their kind and the shapes of what is told, such as f32[4,4].

    Args:
      text: of the program, from `compiled.as_text()`.
    """
    found = re.findall(rf"= (.*?) ({_KINDS})(?:-start)?\(", text)
    return [(kind, tuple(re.findall(r"\w+\[[\d,]*\]", shapes))) for shapes, kind in found]


def equations(jaxpr: Any, looping: bool = False) -> Iterator[tuple[Any, bool]]:
    """Yields (equation, whether it is within a loop) of a jaxpr, and of those within."""
    for one in jaxpr.eqns:
        yield one, looping
        for inner in counts.jaxprs(one.params):
            yield from equations(inner, looping or one.primitive.name in ("while", "scan"))


def an_absent_gpu() -> AbstractContextManager:
    """Sets the device that what is traced within is meant for; `lower(lowering_platforms=("cuda",))` needs no other."""
    gpu = jax.sharding.AbstractDevice("NVIDIA H200", None, "cuda")
    return jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=gpu))
