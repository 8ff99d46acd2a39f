"""How much memory this process can have."""

import os
import pathlib
import resource

_LIMITS = (pathlib.Path("/sys/fs/cgroup/memory.max"), pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def total() -> int:
    """Returns the bytes that this process can have: the machine's, its container's, or what its shell allows."""
    allowed = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    granted = [bytes_ for bytes_ in allowed if bytes_ != resource.RLIM_INFINITY]
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([of_machine, *granted, *_of_container()])


def _of_container() -> list[int]:
    """Returns the limits of this process's control group, where there are any."""
    found = [path.read_text().strip() for path in _LIMITS if path.is_file()]
    return [int(text) for text in found if text.isdecimal()]
