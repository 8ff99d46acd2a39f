"""Prepared scans that stay in memory for the next method, so that several methods read and prepare a scan once."""

import pathlib
import threading

from lgjax.preparation import pipeline
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import memory
from lgjax.scans.sources import Subject

MACHINE_SHARE = 0.125  # of the machine's memory, for scans that stay


class Kept:
    """Scans by what their preparation depends on; those that came first stay, as many as there is room for.

    Every method takes the scans in one order, so the scans that came last would be gone when their turn comes again.
    """

    def __init__(self, room: float = 0):
        """Begins with no scan.

        Args:
          room: bytes of the arrays that may stay; 0: every scan is prepared anew.
        """
        self._room, self._scans = room, dict[tuple[str, str, str], Prepared]()
        self._lock = threading.Lock()

    def prepare(self, subject: Subject, recipe: Recipe, digest: str, scratch: pathlib.Path | None = None) -> Prepared:
        """Prepares one subject, or returns what was prepared before; the arrays are not to be written to.

        Args:
          subject: whose scan it is.
          recipe: how scans are prepared.
          digest: of the subject's files, from `sources.digest`.
          scratch: a folder of the user's choice for what an external tool needs.

        Raises:
          InputError: the scan or its mask cannot be used.
        """
        key = subject.identifier, digest, recipe.digest
        with self._lock:
            known = self._scans.get(key)
        if known:
            return known
        made = pipeline.prepare(subject, recipe, scratch)
        with self._lock:
            if size(made) <= self._room:
                self._room -= size(made)
                self._scans[key] = made
        return made


def room(methods: int) -> float:
    """Returns the bytes that prepared scans may take where so many methods follow each other on this machine."""
    return MACHINE_SHARE * memory.total() if methods > 1 else 0


def size(prepared: Prepared) -> int:
    """Returns the bytes of a prepared scan's arrays."""
    slices, placement = prepared.slices, prepared.placement
    arrays = [prepared.image.data, slices.y, slices.mask, placement.brain, placement.mask]
    arrays += [] if prepared.field is None else [prepared.field]
    return sum({id(array): array.nbytes for array in arrays}.values())
