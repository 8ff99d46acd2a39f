"""Exit codes, signals and the words for devices."""

import errno
import signal
import subprocess
import sys

import jax
import pytest

from lgjax import runtime
from lgjax.errors import EnvironmentFault, InputError, UsageError

SCRIPT = """
import sys, time
from absl import flags
from lgjax import errors, runtime

def main(argv):
    what = argv[1]
    if what == "sleep":
        print("ready", flush=True)
        time.sleep(60)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "fault":
        raise errors.InputError("scan.nii.gz", "is broken", "Copy it again")
    if what == "bug":
        raise RuntimeError("a bug")
    return 3 if what == "some" else None

runtime.run(main)
"""


def start(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("what", "code"), [("fine", 0), ("some", 3), ("interrupt", 130), ("fault", 3), ("bug", 1)])
def test_exit_codes(what, code):
    process = start(what)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("Traceback" in said) == (what == "bug")
    if what == "fault":
        assert said.strip().splitlines()[-1] == "error: scan.nii.gz: is broken. Copy it again."


def test_debug_shows_the_traceback_of_a_fault():
    assert "Traceback" in start("fault", "--debug").communicate(timeout=60)[1]


def test_sigterm_ends_at_once_with_143():
    process = start("sleep")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (InputError("x", "y", "z"), 3),
        (EnvironmentFault("x"), 4),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "full"), 4),
        (OSError(errno.EIO, "other"), None),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 4),
        (RuntimeError("a bug"), None),
    ],
)
def test_the_exit_code_of_an_error(error, code):
    assert runtime._exit_code(error) == code


def test_a_device_that_is_not_there(monkeypatch):
    def none(*_):
        raise RuntimeError("no GPU/TPU found")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(EnvironmentFault, match="--device=cpu"):
        runtime.start("auto")


def test_mesh_and_words():
    mesh = runtime.mesh()
    assert mesh.shape == {"data": len(jax.devices())}
    assert "cpu" in runtime.describe(jax.devices()[:1])
    assert runtime.describe(jax.devices()[:2]).startswith("2 x ")
