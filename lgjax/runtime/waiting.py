"""Waiting for other processes, told now and then: one that lives and yet hangs would be waited for in silence."""

import collections
import logging
import time
from collections.abc import Callable, Sequence

from lgjax.runtime.alive import Worker
from lgjax.runtime.counting import counted

LOG = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds between the beginning of a wait and its first line; every further line takes twice as long


class Waiting:
    """One wait of this process for items that other processes hold."""

    def __init__(self, holder: Callable[[str], Worker | None], first: float | None = None):
        """Begins the wait.

        Args:
          holder: returns the process that holds an item; None: nobody does.
          first: seconds before the first line; None: `PATIENCE`.
        """
        self._holder, self._first = holder, PATIENCE if first is None else first
        self._items: tuple[str, ...] = ()
        self._began = self._due = 0.0

    def tell(self, items: Sequence[str]) -> None:
        """Says which processes hold items that are still waited for, if that has lasted; items that change begin anew.

        Args:
          items: that other processes hold; in a line, so nothing that must not be read.
        """
        now = time.monotonic()
        if self._items != tuple(items):
            self._items, self._began, self._due = tuple(items), now, now + self._first
        if now < self._due:
            return
        waited = now - self._began
        self._due = now + max(waited, PATIENCE)
        held = collections.defaultdict(list)
        for item in items:
            if worker := self._holder(item):
                held[worker].append(item)
        for worker, some in held.items():
            _tell(worker, some, waited)


def _tell(worker: Worker, items: Sequence[str], waited: float) -> None:
    """Says that a process is waited for, and, after a while, what to do if the process hangs."""
    told = f"waiting for {worker}, which is at work on {', '.join(items)}"
    if waited < PATIENCE:
        LOG.info(told)
    else:
        kill = f"`kill {worker.pid}`, or else `kill -9 {worker.pid}`,"
        end = f"That may be right for large scans. If the process hangs, {kill} on {worker.host} ends it, and its work "
        end += "is done here."
        LOG.warning("%s, for %s so far. %s", told, counted(round(waited / 60), "minute"), end)
