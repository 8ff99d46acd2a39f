"""Progress of long work: a bar on a terminal, a line a minute in a log file, nothing where nobody wants to know."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

INTERVAL = 60.0  # seconds between two lines of a log
_hidden = False


def hide(hidden: bool) -> None:
    """Sets whether progress is kept from this process's user."""
    global _hidden
    _hidden = hidden


def track(
    items: Iterable | None = None, label: str = "", total: int | None = None, unit: str = "it", start: int = 0
) -> Any:
    """Returns what tells of progress: iterate over it, or call its `update`, in a `with` block.

    Args:
      items: what is worked on; None: `update` is called.
      label: of the work.
      total: how many items there are; may be raised later, as the attribute `total`.
      unit: of an item.
      start: how many items were done before.
    """
    if _hidden:
        return Hidden(items, label, total, unit, start)
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return tqdm(items, label, total, unit=unit, initial=start)
    return Lines(items, label, total, unit, start)


def write(text: str, stream: TextIO | None = None) -> None:
    """Prints a line above the bars that are shown; on standard output unless another stream is given."""
    place = stream or sys.stdout
    if place is not None:  # closed
        tqdm.write(text, place)
        place.flush()


class Lines:
    """Progress as lines of a log: one a minute and one at the end, on standard error; with the methods of tqdm."""

    def __init__(self, items: Iterable | None, label: str, total: int | None, unit: str, start: int):
        self.items, self.label, self.total, self.unit, self.n = items, label, total, unit, start
        self.note, self.began, self.first, self.closed = "", time.monotonic(), start, False
        self.last = self.began

    def __iter__(self) -> Iterator:
        try:
            for item in self.items or ():
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Counts items that are done."""
        self.n += n
        if time.monotonic() - self.last >= INTERVAL:
            self._tell()

    def set_postfix_str(self, note: str) -> None:
        """Sets what stands behind the count."""
        self.note = note

    def close(self) -> None:
        """Tells the last count, once."""
        if not self.closed and self.n > self.first:
            self._tell()
        self.closed = True

    def _tell(self) -> None:
        self.last = time.monotonic()
        seconds = self.last - self.began
        of = f" of {self.total}" if self.total else ""
        rate, left = (self.n - self.first) / max(seconds, 1e-9), ""
        if self.total and self.n < self.total and rate:
            left = f", {_clock((self.total - self.n) / rate)} left"
        note = f", {self.note}" if self.note else ""
        sys.stderr.write(f"{self.label}: {self.n}{of} {self.unit}s in {_clock(seconds)}{left}{note}\n")
        sys.stderr.flush()


class Hidden(Lines):
    """Progress that is told to nobody."""

    def _tell(self) -> None:
        self.last = time.monotonic()


def _clock(seconds: float) -> str:
    """Returns hours, minutes and seconds as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
