"""The vectors among parameters as one array: a GPU would update each of them by a kernel of its own.

They are packed before several steps and unpacked after them, so that no state outside knows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models import convolutions


class Packing(NamedTuple):
    """Two functions of parameters, and of all that is laid out as they are."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]  # the inverse


def none(tree: Any) -> Any:
    """Returns parameters as they are."""
    return tree


def of(params: Any) -> Packing:
    """Returns how the parameters of a training lie on the device at hand: on a CPU as they are.

    Args:
      params: a tree of arrays, or of their shapes.
    """
    return _vectors(params) if convolutions.launches() else Packing(none, none)


def _vectors(params: Any) -> Packing:
    """Returns what packs all vectors into one array, before a list of the other arrays."""
    leaves, structure = jax.tree.flatten(params)
    small = [leaf.ndim == 1 for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves if leaf.ndim == 1])[:-1]

    def pack(tree: Any) -> tuple[jax.Array, list[jax.Array]]:
        sorted_out: dict[bool, list[jax.Array]] = {True: [], False: []}
        for leaf, is_small in zip(jax.tree.leaves(tree), small, strict=True):
            sorted_out[is_small].append(leaf)
        return jnp.concatenate(sorted_out[True]), sorted_out[False]

    def unpack(packed: tuple[jax.Array, list[jax.Array]]) -> Any:
        vectors, others = iter(jnp.split(packed[0], ends)), iter(packed[1])
        return jax.tree.unflatten(structure, [next(vectors if is_small else others) for is_small in small])

    return Packing(pack, unpack)


def within(tree: Any, like: Any, change: Callable[[Any], Any]) -> Any:
    """Changes all parts of a tree that are laid out as the parameters are.

    Args:
      tree: such as the state of an optimiser.
      like: the parameters.
      change: of a part.
    """
    layout: Any = jax.tree.structure(like)

    def found(part: Any) -> bool:
        return bool(layout == jax.tree.structure(part))

    return jax.tree.map(lambda part: change(part) if found(part) else part, tree, is_leaf=found)
