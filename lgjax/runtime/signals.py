"""Ctrl-C and SIGTERM, taken so that nothing is lost or half done."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


class Terminated(SystemExit):
    """SIGTERM came during a block that had to be whole."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C and SIGTERM wait for the end of a block, for the sake of what other threads and processes do for it.

    A second signal does not wait. Only for the main thread.

    Yields:
      A function that tells whether a signal came, for a block that can end early.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed.
      Terminated: SIGTERM came.
    """
    asked = 0

    def handle(number: int, _) -> None:
        nonlocal asked
        if asked:
            _end(number)
        asked = number
        os.write(2, b"\nending; send the signal again not to wait\n")  # print may be what the signal interrupts

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        _end(asked)


def _end(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(143)


def raise_again(what) -> None:
    """Does as Python's `sys.unraisablehook`, but a Ctrl-C that met a callback comes again a moment later."""
    if what.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(what)
