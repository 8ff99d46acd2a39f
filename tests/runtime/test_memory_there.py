"""How much memory a process can have: the least of what machine, container and shell grant."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import ROOT

from lgjax.runtime import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A process that nothing limits but the machine, and whose control groups are files here; returns their folder."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path


def limit(groups, line, place, text):
    """Puts the process into a group, and a limit into a file."""
    (groups / "cgroup").write_text(f"12:cpu,cpuacct:/other\n{line}\n")
    file = groups / "mounted" / place
    file.parent.mkdir(parents=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("0::/", "memory.max"),
        ("0::/slurm/job_7/step_0", "slurm/job_7/step_0/memory.max"),
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("9:memory:/slurm/job_7", "memory/slurm/job_7/memory.limit_in_bytes"),
    ],
)
def test_a_container_s_or_a_job_s_limit(groups, line, place):
    assert memory.total() == MACHINE
    limit(groups, line, place, "1048576\n")
    assert memory.total() == 1 << 20


@pytest.mark.parametrize("text", ["max\n", str(1 << 62)])
def test_a_container_without_a_limit(groups, text):
    limit(groups, "0::/", "memory.max", text)
    assert memory.total() == MACHINE


@pytest.mark.parametrize("limited", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_a_shell_s_limit(groups, limited, monkeypatch):
    granted = {limited: (1 << 20, 1 << 21)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: granted.get(kind, (resource.RLIM_INFINITY,) * 2))
    assert memory.total() == 1 << 20


CLEARED = """
import ctypes, resource, threading
from lgjax.runtime import memory

library, size, counts = ctypes.CDLL(None), 64 << 20, []
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def use():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        address = library.malloc(size)
        ctypes.memset(address, 1, size)
        library.free(address)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

use()
memory.keep_freed()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(*counts)
"""


def ended(code: str) -> subprocess.CompletedProcess:
    """Runs a program that imports no JAX, in a process that has begun no threads."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_pages_that_are_kept_are_not_cleared_again():
    """The system counts the pages that it hands out and clears; those of a thread that begins later are kept too."""
    said = ended(CLEARED)
    assert said.returncode == 0, said.stderr
    *given_back, first, second, third = map(int, said.stdout.split())
    assert min(given_back) >= 32  # all pages each time, of 4 KB or of 2 MB
    assert first >= 32
    assert max(second, third) < min(given_back) / 10


TRAINS = """
import runpy, sys
from lgjax.cli import early
from lgjax.runtime import memory

found = []
memory.keep_freed = lambda: found.append("numpy" in sys.modules)
early.begin = lambda command: sys.exit(found != [False])
runpy.run_module("lgjax.train", run_name="__main__")
"""


def test_training_keeps_its_memory_before_anything_heavy_is_imported():
    assert ended(TRAINS).returncode == 0
