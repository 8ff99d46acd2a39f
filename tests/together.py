"""Several hosts on this machine: threads of one process, or processes that find each other on loopback."""

import pathlib
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np
from conftest import PATIENCE
from jax.experimental import multihost_utils
from server import Forked

T = TypeVar("T")


def threads(monkeypatch, count: int, work: Callable[[], T]) -> list[T]:
    """Does the work on hosts that are threads, and returns what each of them found."""
    place, barrier = threading.local(), threading.Barrier(count, timeout=PATIENCE)
    sent: list = [None] * count

    def exchange(mine):
        sent[place.number] = mine
        barrier.wait()
        found = np.stack(sent)
        barrier.wait()
        return found

    def host(number: int) -> T:
        place.number = number
        try:
            return work()
        except BaseException:
            barrier.abort()  # else the others would wait for this one
            raise

    with monkeypatch.context() as patch, ThreadPoolExecutor(count) as pool:
        patch.setattr(multihost_utils, "process_allgather", exchange)
        patch.setattr(multihost_utils, "sync_global_devices", lambda name: barrier.wait())
        patch.setattr(jax, "process_count", lambda: count)
        patch.setattr(jax, "process_index", lambda: place.number)
        return list(pool.map(host, range(count)))


def start(folder: pathlib.Path, command: Sequence[str], hosts: int = 2) -> list[Forked]:
    """Starts a command of lgjax on hosts of one device each; what they say is kept in a folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        flags = f"--coordinator=localhost:{free.getsockname()[1]}", f"--hosts={hosts}"
    return [
        Forked([*command, *flags, f"--host={host}"], folder / f"out{host}", err=folder / f"err{host}")
        for host in range(hosts)
    ]


def finish(processes: Sequence[Forked]) -> list[tuple[int, str, str]]:
    """Waits for hosts; returns the exit code, the output and the errors of each, without what Gloo says."""
    ended = [(process.communicate(PATIENCE), process) for process in processes]
    return [(process.returncode, *map(_without_gloo, said)) for said, process in ended]


def _without_gloo(said: str) -> str:
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("[Gloo]"))
