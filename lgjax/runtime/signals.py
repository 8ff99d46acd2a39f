"""Ctrl-C and SIGTERM, taken so that nothing is lost or half done."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

INTERRUPTED = b"\ninterrupted; run the same command again to go on\n"
GRACE = 2.0  # seconds that an interrupted command has to remove what it was writing
_ending = False  # a signal was heard that ends the process
_leaving = threading.RLock()


def _nothing(_: int) -> None:
    """Has nothing to say before the end."""


_say: Callable[[int], None] = _nothing  # what `before_end` calls


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


@contextlib.contextmanager
def before_end(say: Callable[[int], None]) -> Iterator[None]:
    """Calls a function with the exit code before a signal ends the process at once. Only for the main thread.

    SIGTERM does so with 143, and Ctrl-C with 130 where what it raises has not ended the process within `GRACE`; then
    another thread calls the function.
    """
    global _say
    before, said = signal.signal(signal.SIGTERM, terminate), _say
    _say = say
    try:
        yield
    finally:
        _say = said
        signal.signal(signal.SIGTERM, before)


def interrupt(number: int, _) -> None:
    """Handles Ctrl-C: says so at once and raises KeyboardInterrupt; ends the process where that takes long.

    Raises:
      KeyboardInterrupt: with an argument, since the line is told.
    """
    global _ending
    if _ending:  # the first one met a callback, or the user does not want to wait
        _leave(130)
    _ending = True
    os.write(2, INTERRUPTED)
    timer = threading.Timer(GRACE, _leave, (130,))  # a scan that is being prepared is not waited for
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt("told")


def terminate(*_) -> None:
    """Handles SIGTERM: ends the process at once, since whatever is being written is written aside first."""
    global _ending
    _ending = True
    _leave(143)


def listen() -> None:
    """Has a thread end the process for signals that come while the main thread is in a long call, as to a device.

    Python lets a handler run only when such a call has returned. The thread gives `interrupt` and `terminate` the time
    `GRACE` to do so, and leaves other handlers alone. Only for the main thread.
    """
    if sys.platform == "win32":  # whose signals wake sockets alone
        return
    hears, speaks = os.pipe()
    os.set_blocking(speaks, False)
    signal.set_wakeup_fd(speaks, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(hears,), daemon=True).start()


def _listen(hears: int) -> None:
    """Ends the process for signals that nobody handles in time; Python writes their numbers into the pipe."""
    global _ending
    codes: dict[object, int] = {interrupt: 130, terminate: 143}
    while number := os.read(hears, 1):
        if code := codes.get(signal.getsignal(number[0])):
            time.sleep(GRACE)
            if not _ending:
                _ending = True
                os.write(2, INTERRUPTED if code == 130 else b"")
                _leave(code)


def _leave(code: int) -> None:
    """Ends the process, once it has said what is to be said before the end.

    Another thread waits for that no longer than `GRACE`; a further signal in the same thread does not wait at all.
    """
    global _say
    _leaving.acquire(timeout=GRACE)
    say, _say = _say, _nothing
    try:
        say(code)
    finally:
        os._exit(code)


def _end(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(143)


def raise_again(what) -> None:
    """Does as Python's `sys.unraisablehook`, but a Ctrl-C that met a callback comes again a moment later."""
    if what.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(what)
