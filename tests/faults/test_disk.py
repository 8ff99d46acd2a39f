"""Fault 33: a disk that is full, or that may not be written to: exit code 4, one line, nothing half written."""

import contextlib
import os
import pathlib
import subprocess

import forked
import numpy as np
import pytest
import server

from benchmarks import kills
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import EnvironmentFault
from lgjax.workdir import checkpoints

RESTORE = ["restore", "--method=mirror_tv3d"]
PREPROCESS = ["preprocess", "--config=data:smoke", "--config.bias_field.iterations=10", "--config.workers=1"]
COMMANDS = pytest.mark.parametrize("command", [RESTORE, PREPROCESS], ids=lambda words: words[0])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return forked.heads(tmp_path_factory.mktemp("disk"), 2)


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *options: str):
    """Mounts something for a while; skips the test where the system forbids it."""
    folder.mkdir()
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def refused(ended: subprocess.CompletedProcess, reason: str) -> None:
    """Checks that a command ended with 4, and said why in one line at the end."""
    assert ended.returncode == 4, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    errors = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("error: ")]
    assert errors == ended.stderr.strip().splitlines()[-1:]
    assert reason in errors[0]
    assert errors[0].endswith("Make room, check the permissions, or choose another output folder.")


def litter(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


@COMMANDS
def test_a_full_disk(command, scans, tmp_path):
    """Once there is room, the same command goes on to the end of a run that had room from the first."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=160k", "tmpfs") as disk:
        words = [*command, f"--input={scans}", f"--output={disk / 'out'}"]
        refused(server.run(*words, before=server.in_forks, optimised=True), "No space left on device")
        assert litter(disk) == []
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        resumed = server.run(*words, before=server.in_threads, optimised=True)
        assert resumed.returncode == 0, resumed.stderr
        found = kills.of_files(disk / "out")
    server.run(
        *command, f"--input={scans}", f"--output={tmp_path / 'whole' / 'out'}", before=server.in_threads, optimised=True
    )
    assert kills.differences(found, kills.of_files(tmp_path / "whole" / "out")) == []


def test_a_disk_that_takes_no_more_of_a_file(scans, tmp_path):
    """As a quota does; needs no right to mount."""
    out = tmp_path / "out"
    words = [*RESTORE, f"--input={scans}", f"--output={out}"]
    refused(server.run(*words, before=forked.small_files_only, optimised=True), "File too large")
    assert litter(out) == []


@COMMANDS
def test_a_folder_that_may_only_be_read(command, scans, tmp_path):
    (tmp_path / "own").mkdir()
    with mounted(tmp_path / "shown", "--bind", "-o", "ro", str(tmp_path / "own")) as shown:
        words = [*command, f"--input={scans}", f"--output={shown / 'out'}"]
        refused(server.run(*words, before=server.in_threads, optimised=True), "Read-only file system")
    assert list((tmp_path / "own").iterdir()) == []


def test_a_file_stands_where_a_folder_is_wanted(scans, tmp_path):
    (tmp_path / "file").write_text("mine")
    words = [*RESTORE, f"--input={scans}", f"--output={tmp_path / 'file' / 'out'}"]
    refused(server.run(*words, optimised=True), "Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(scans, tmp_path):
    (tmp_path / "own").mkdir(mode=0o555)
    words = [*RESTORE, f"--input={scans}", f"--output={tmp_path / 'own' / 'out'}"]
    refused(server.run(*words, optimised=True), "Permission denied")


def test_a_claim_that_a_full_disk_refused_holds_nobody_up(tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
        with Claims(disk) as mine:
            with contextlib.suppress(OSError), open(disk / "filling", "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            with pytest.raises(EnvironmentFault, match="No space left"):
                mine.take("scan")
            (disk / "filling").unlink()
        with Claims(disk) as other:
            assert other.take("scan")


def test_a_full_disk_keeps_the_checkpoints_of_before(tmp_path):
    state = {"kernel": np.random.default_rng(0).normal(size=20_000).astype(np.float32)}
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=300k", "tmpfs") as disk:
        checkpoints.save(disk / "checkpoints", 1, state)
        checkpoints.save(disk / "checkpoints", 2, state)
        with pytest.raises(EnvironmentFault, match="cannot be written"):
            checkpoints.save(disk / "checkpoints", 3, state)
        restored, step = checkpoints.restore_newest(disk / "checkpoints", state)
        assert sorted(path.name for path in (disk / "checkpoints").iterdir()) == ["1", "2"]
    assert step == 2
    np.testing.assert_array_equal(restored["kernel"], state["kernel"])


UNDEBUGGED = """
import pathlib, resource, sys
import numpy as np
from absl import flags
from lgjax.cli import app, commands
from lgjax.workdir import checkpoints

def main(words):
    state = {"kernel": np.random.default_rng(0).normal(size=20_000).astype(np.float32)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # which tracebacks do not reach
    checkpoints.save(pathlib.Path(words[1]), 1, state)

commands.define_common(flags.FLAGS)
app.run(main, flags.FLAGS(sys.argv))
"""


@pytest.mark.parametrize(("arguments", "shown"), [((), False), (("--debug",), True)])
def test_a_checkpoint_that_cannot_be_written_is_told_in_one_line(tmp_path, arguments, shown):
    """Orbax logs tracebacks of its own."""
    done = server.python(UNDEBUGGED, tmp_path / "checkpoints", *arguments)
    assert done.returncode == 4
    assert ("Traceback" in done.stderr) == shown
    assert (
        done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'checkpoints' / '1'}: cannot be written")
    )
    assert len(done.stderr.strip().splitlines()) == 1 or shown
