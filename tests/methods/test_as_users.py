"""The promise of equal bits, in programs that are compiled as users have them: most tests compile for speed."""

import os
import subprocess
import sys

from conftest import AS_USERS, ROOT


def test_bits_depend_on_the_slice_alone_as_users_compile():
    mine = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {name: value for name, value in os.environ.items() if name not in mine} | {AS_USERS: "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["tests/methods/test_methods.py", "-m", "as_users"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
