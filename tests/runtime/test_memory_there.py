"""How much memory a process can have: the least of what machine, container and shell grant."""

import os
import resource

import pytest

from lgjax.runtime import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def limits(monkeypatch, tmp_path):
    """What nothing limits but the machine; returns the file of a container's limit."""
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "memory.max",))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path / "memory.max"


@pytest.mark.parametrize(("text", "expected"), [("1048576\n", 1 << 20), ("max\n", MACHINE), (str(1 << 62), MACHINE)])
def test_a_container_s_limit(limits, text, expected):
    assert memory.total() == MACHINE
    limits.write_text(text)
    assert memory.total() == expected


@pytest.mark.parametrize("limited", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_a_shell_s_limit(limits, limited, monkeypatch):
    granted = {limited: (1 << 20, 1 << 21)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: granted.get(kind, (resource.RLIM_INFINITY,) * 2))
    assert memory.total() == 1 << 20
