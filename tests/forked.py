"""What commands in forked processes lack: a disk, memory, a network; or where they stand still. Called there."""

import ctypes
import os
import pathlib
import resource
import socket
import time

import images
from conftest import until

from lgjax.derivatives import write
from lgjax.runtime import memory, waiting
from lgjax.scans import pictures
from lgjax.training.log import Log


def heads(folder: pathlib.Path, count: int = 3) -> pathlib.Path:
    """Writes heads of 20x24x16 voxels, which are prepared and restored in a second; returns their folder."""
    for number in range(count):
        images.save(folder / "scans" / f"s{number}.nii.gz", images.head(seed=number))
    return folder / "scans"


def said(log: pathlib.Path) -> str:
    """Returns what a command has said so far; "" of one that has not begun."""
    return log.read_text() if log.exists() else ""


def small_files_only() -> None:
    """Makes a disk that is full for this process after 4 KB of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def little_memory() -> None:
    """Allows this process 2 GB beyond what it has."""
    limit_memory(1 << 31)


def memory_of_others() -> None:
    """Allows this process .5 GB beyond what it has, though it believes that it can have plenty: others took it."""
    limit_memory(1 << 29)
    memory.total = lambda: 1 << 60


def limit_memory(more: int) -> None:
    """Allows this process so many bytes of data beyond what it has; address space that it only reserves is free."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def undrawn() -> None:
    """Makes a process group, and has a training draw no curves and empty pictures, which take longer than its steps."""
    os.setsid()
    Log.draw = lambda *_: None
    pictures.samples_figure = lambda rows: b""


def stand_still(lines: int, place: pathlib.Path) -> None:
    """Has a training in a process group of its own wait when it has logged so many lines; called in its process."""
    undrawn()
    write = Log.write

    def written(log, *rest):
        found = write(log, *rest)
        if len(log.lines) == lines:
            (place / "reached").touch()
            until((place / "go on").exists)
        return found

    Log.write = written


def in_a_call() -> None:
    """Keeps the main thread for ever in a call that no signal ends, as a call to a busy device lasts."""
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    for _ in range(2):  # the second waits for the first
        libc.pthread_mutex_lock(mutex)


def hang() -> None:
    """Has a restoration stay for ever at the first scan that it writes; called in its process."""
    write.write = lambda *_: time.sleep(3600)


def impatient() -> None:
    """Has this process say at once whom it waits for."""
    waiting.PATIENCE = 0.1


def without_network() -> None:
    """Leaves this process no network but a loopback that is down where the system allows, and no socket but local ones.

    Raises:
      AssertionError: in whoever asks for a socket, with a line on standard output that tests look for.
    """
    new_user, new_network = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
    libc = ctypes.CDLL(None, use_errno=True)
    alone = not libc.unshare(new_network) or not libc.unshare(new_user | new_network)
    print("no network" if alone else "no namespace of its own", flush=True)

    class Local(socket.socket):
        def __init__(self, family=-1, *rest, **named):
            if family not in (socket.AF_UNIX, -1) or (family == -1 and named.get("fileno") is None):
                print("a socket was asked for", flush=True)
                raise AssertionError("a socket was asked for")
            super().__init__(family, *rest, **named)

    def unresolved(*_, **__):
        print("an address was asked for", flush=True)
        raise AssertionError("an address was asked for")

    socket.socket, socket.getaddrinfo, socket.create_connection = Local, unresolved, unresolved


def ask_for_a_socket() -> None:
    """Does what `without_network` forbids."""
    without_network()
    socket.create_server(("localhost", 0))
