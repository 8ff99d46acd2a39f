"""Several hosts on this machine: threads of one process, or processes that find each other on loopback."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np
from conftest import ONE_DEVICE, ROOT
from jax.experimental import multihost_utils

T = TypeVar("T")


def threads(monkeypatch, count: int, work: Callable[[], T]) -> list[T]:
    """Does the work on hosts that are threads, and returns what each of them found."""
    place, barrier = threading.local(), threading.Barrier(count, timeout=60)
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


def start(command: Sequence[str], hosts: int = 2) -> list[subprocess.Popen]:
    """Starts a command of lgjax on hosts of one device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        flags = f"--coordinator=localhost:{free.getsockname()[1]}", f"--hosts={hosts}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ONE_DEVICE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([sys.executable, "-m", *command, *flags, f"--host={host}"], cwd=ROOT, env=environment, **pipes)
        for host in range(hosts)
    ]


def finish(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Waits for hosts; returns the exit code, the output and the errors of each, without what Gloo says."""
    ended = [(process.communicate(timeout=300), process) for process in processes]
    return [(process.returncode, *map(_without_gloo, said)) for said, process in ended]


def _without_gloo(said: str) -> str:
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("[Gloo]"))
