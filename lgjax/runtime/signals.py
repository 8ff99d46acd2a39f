"""Ctrl-C, taken so that nothing is lost or half done."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C wait for the end of a block, for the sake of what other threads and processes do for it.

    A second one does not wait. Only for the main thread.

    Yields:
      A function that tells whether Ctrl-C was pressed, for a block that can end early.
    """
    asked = False

    def handle(*_) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        os.write(2, b"\ninterrupting; press Ctrl-C again not to wait\n")  # print may be what it interrupts

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def raise_again(what) -> None:
    """Does as Python's `sys.unraisablehook`, but a Ctrl-C that met a callback comes again a moment later."""
    if what.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(what)
