"""Whether a process of this machine still runs: told by its pid, and by when it began, since pids are used again."""

import os
import pathlib
from typing import NamedTuple

_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


class Worker(NamedTuple):
    """A process that works in a folder."""

    run: str  # random: names the process's file
    host: str
    pid: int
    began: str  # see `began`
    system: str  # see `system`
    task: str = ""  # digest of what the process works at; "": not said yet
    label: str = ""  # of the task, in words

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def system() -> str:
    """Names what counts this process's pid: a boot of a machine, and a container on it; "" where nothing tells."""
    try:
        return f"{_BOOT.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # only Linux tells
        return ""


def began(pid: int) -> str:
    """Returns when a process began, in ticks since the boot; "" where nothing tells, or where the process has ended."""
    try:
        state, *others = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else others[18]


def is_dead(pid: int, start: str) -> bool:
    """Returns whether a process of this system has ended for certain.

    Args:
      pid: of the process.
      start: what `began` told of the process while it ran.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, of which the system may tell nothing more
        return False
    return began(pid) != start
