"""Items shared out over hosts: each works on its own, and what is found of them is pooled to the bits of one host."""

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")
S = TypeVar("S")
PIECE = 2**22  # bytes that a host sends at a time: what devices hold of a message, once for each host


@dataclasses.dataclass(frozen=True)
class Share(Generic[T]):
    """Items of which every host has some.

    Attributes:
      own: the items of this host, in order.
      owners: the host of every item, of all hosts, in order.
      host: this one.
    """

    own: tuple[T, ...]
    owners: tuple[int, ...]
    host: int = 0

    def of(self, values: Sequence[S]) -> list[S]:
        """Picks the values of this host's items from those of all items."""
        return [value for value, owner in zip(values, self.owners, strict=True) if owner == self.host]

    def chosen(self, places: Sequence[int]) -> "Share[T]":
        """Returns the items at some places among all items."""
        own = dict(zip(self.of(range(len(self.owners))), self.own, strict=True))
        mine = tuple(own[place] for place in places if place in own)
        return Share(mine, tuple(self.owners[place] for place in places), self.host)

    def having(self, own: Sequence[S]) -> "Share[S]":
        """Returns other items in the places of these."""
        return Share(tuple(own), self.owners, self.host)

    def pooled(self, values: Sequence[Any]) -> list[Any]:
        """Returns the values of all items in order; each host gives those of its own and waits for the others.

        Args:
          values: as JSON has them; several hosts return tuples as lists.
        """
        if self.is_whole:
            return list(values)
        texts = [np.frombuffer(json.dumps(value).encode(), np.uint8) for value in values]
        return [json.loads(text.tobytes()) for text in self.pooled_arrays(texts)]

    def pooled_arrays(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the arrays of all items in order, bit for bit; each host gives those of its own, of any shape."""
        if self.is_whole:
            return list(arrays)
        found = [iter(each) for each in gathered(arrays)]
        return [next(found[owner]) for owner in self.owners]

    @property
    def is_whole(self) -> bool:
        """Whether there is no other host."""
        return jax.process_count() == 1


def alone(items: Sequence[T]) -> Share[T]:
    """Returns items of which this process has all, whatever other hosts do."""
    return Share(tuple(items), (0,) * len(items))


def divided(items: Sequence[T]) -> Share[T]:
    """Returns items that all hosts know, of which every host takes each n-th."""
    host, hosts = jax.process_index(), jax.process_count()
    return Share(tuple(items[host::hosts]), tuple(place % hosts for place in range(len(items))), host)


def gathered(arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Returns the arrays of every host, to the bit and in any number and shape; each host waits here for the others."""
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array, allow_pickle=False)
    return [_arrays(content) for content in _exchanged(stream.getvalue())]


def _exchanged(content: bytes) -> list[bytes]:
    """Returns the bytes of every host. As uint8: JAX would round 64 bits."""
    sizes = multihost_utils.process_allgather(np.frombuffer(len(content).to_bytes(8, "little"), np.uint8))
    lengths = [int.from_bytes(size.tobytes(), "little") for size in sizes]
    found = [bytearray() for _ in lengths]
    piece = min(PIECE, 1 << max(max(lengths) - 1, 0).bit_length())  # few shapes, since each is compiled
    for start in range(0, max(lengths), piece):
        mine = np.frombuffer(content[start : start + piece].ljust(piece, b"\0"), np.uint8)
        for each, part in zip(found, multihost_utils.process_allgather(mine), strict=True):
            each += part.tobytes()
    return [bytes(each[:length]) for each, length in zip(found, lengths, strict=True)]


def _arrays(content: bytes) -> list[np.ndarray]:
    """Reads arrays that were saved one after the other."""
    stream, found = io.BytesIO(content), []
    while stream.tell() < len(content):
        found.append(np.load(stream, allow_pickle=False))
    return found
