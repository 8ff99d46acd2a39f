"""Contestants in turns: each is compiled and timed in the first turn, timed again in the others, and may fail alone."""

import logging
from collections.abc import Callable
from typing import Any

from lgjax.runtime import places

LOG = logging.getLogger(__name__)


class Entrant:
    """A contestant of a benchmark, compiled when its first turn comes."""

    def __init__(self, kind: str, name: str, compile: Callable[[], Any]):
        """Compiles nothing yet.

        Args:
          kind: methods or training, where the record has it.
          name: of the method, or of the model that is trained.
          compile: returns the contestant, compiled.
        """
        self.kind, self.name, self.compile = kind, name, compile
        self.told = name if kind == "methods" else f"{kind} of {name}"
        self.item: Any = None  # the contestant, once it is compiled
        self.turns = 0  # in which it was timed
        self.fault = ""  # why it takes no further turn

    def turn(self) -> None:
        """Times the contestant, which is compiled first where it was not; a fault is told and ends its turns."""
        if self.fault:
            return
        try:
            self.item = self.item or self.compile()
            self.item.sample()
            self.turns += 1
        except Exception as error:  # compilers and devices refuse in their own words; others are measured all the same
            self.fault = places.told(f"{type(error).__name__}: {error}".partition("\n")[0])
            LOG.warning("warning: %s: no further turn: %s", self.told, self.fault)

    def lacks(self, turns: int) -> str:
        """Says how many of so many turns were taken, and why not all were; nothing where all were."""
        taken = f"{self.told}: {self.turns} of {turns} turns"
        return "" if self.turns == turns else ": ".join(filter(None, (taken, self.fault)))
