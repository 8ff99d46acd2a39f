"""Work on many items at once, in order and with bounded memory."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from lgjax.runtime.errors import EnvironmentFault, InputError

T = TypeVar("T")
PAUSE = 1.0  # seconds between two looks at items that other processes are at work on


def ahead(
    function: Callable[[Any], T], items: Iterable, workers: int, pool: ProcessPoolExecutor | None = None
) -> Generator[T, None, None]:
    """Applies a function to items in order; no more than `workers` + 1 results wait for the reader.

    Args:
      function: takes one item; in processes, it and the items and results are pickled between them.
      items: what to work on.
      workers: how many are worked on at once.
      pool: from `processes`, for what holds the interpreter's lock while it computes; None: threads.

    Raises:
      EnvironmentFault: a process died, as where memory runs out.
    """
    with contextlib.ExitStack() as stack:
        executor = pool or stack.enter_context(ThreadPoolExecutor(workers))
        pending: list[Future[T]] = []
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) > workers:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        except BrokenProcessPool as error:
            message = "a worker process died, as they do where memory runs out: use fewer with --config.workers"
            raise EnvironmentFault(message) from error
        finally:
            for future in pending:
                future.cancel()


def attempts(
    function: Callable[[Any], T], items: Iterable, workers: int, pool: ProcessPoolExecutor | None = None
) -> Generator[T | InputError, None, None]:
    """Applies a function as `ahead` does, but an InputError of the function is a result: the other items go on."""
    return ahead(functools.partial(_attempt, function), items, workers, pool)


def until_done(
    attempt: Callable[[list], Generator[T | None, None, None]], items: Iterable, wait: Callable[[list], None]
) -> Generator[tuple[Any, T], None, None]:
    """Attempts items until each is done by some process; so a process does what others leave when they die.

    Args:
      attempt: takes some items and yields what was done to each; None: another process is at work on the item.
      items: what to work on.
      wait: is told, again and again, which items other processes are at work on.

    Yields:
      An item, and what was done to the item.
    """
    left = list(items)
    while left:
        held = []
        with contextlib.closing(attempt(left)) as attempted:
            for item, done in zip(left, attempted, strict=True):
                if done is None:
                    held.append(item)
                else:
                    yield item, done
        left = held
        if left:
            wait(left)
            time.sleep(PAUSE)


def _attempt(function: Callable[[Any], T], item: Any) -> T | InputError:
    try:
        return function(item)
    except InputError as error:
        return error


@contextlib.contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Makes a pool of processes that start afresh, since forking beside JAX's threads is unsafe.

    Ctrl-C ends them at once: what they write is written aside first.
    """
    with ProcessPoolExecutor(workers, _Context(), initializer=stay_with_parent) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


class _Process(SpawnProcess):
    """A process that is born deaf to Ctrl-C, which `stay_with_parent` ignores only once it runs."""

    def start(self) -> None:
        """Starts the process."""
        if not hasattr(signal, "pthread_sigmask"):  # as on Windows
            return super().start()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what comes meanwhile is kept
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(SpawnContext):
    Process = _Process  # type: ignore[assignment]


def stay_with_parent(*_) -> None:
    """Leaves Ctrl-C to the parent of this worker process, and ends the worker with the parent, even a killed parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
