"""How much memory this process can have, and whether freed memory goes back to the system."""

import ctypes
import os
import pathlib
import resource

_GROUPS = pathlib.Path("/proc/self/cgroup")  # a line for each kind: number, kinds, path; version 2 has no kinds
_MOUNTED = pathlib.Path("/sys/fs/cgroup")
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1  # options of mallopt, in <malloc.h>


def total() -> int:
    """Returns the bytes that this process can have: the machine's, its container's, or what its shell allows."""
    allowed = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    granted = [bytes_ for bytes_ in allowed if bytes_ != resource.RLIM_INFINITY]
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([of_machine, *granted, *_of_container()])


def keep_freed() -> None:
    """Has glibc keep what this process frees, for what the process allocates next; other C libraries stay as they are.

    XLA allocates the buffers of a program anew for each run of it. Large buffers come from the system, which clears
    their pages: a fifth of the CPU seconds of a training step on a CPU. Call this before anything begins a thread: a
    thread may have a heap of its own. Do not call this where memory is scarce: gaps between buffers stay.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, (1 << 31) - 1)):
            library.mallopt(option, value)


def _of_container() -> list[int]:
    """Returns the limits of this process's control groups and of all above them, as containers and SLURM set them."""
    if not _GROUPS.is_file():
        return []
    found = []
    for _, kinds, path in (line.split(":", 2) for line in _GROUPS.read_text().splitlines()):
        if kinds in ("", "memory"):
            root, name = (_MOUNTED, "memory.max") if not kinds else (_MOUNTED / kinds, "memory.limit_in_bytes")
            group = pathlib.PurePosixPath(path.lstrip("/"))
            found += [root / above / name for above in (group, *group.parents)]
    texts = [limit.read_text().strip() for limit in found if limit.is_file()]
    return [int(text) for text in texts if text.isdecimal()]
