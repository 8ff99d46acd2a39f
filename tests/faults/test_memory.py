"""Fault 36: memory that runs out.

Of the machine: a scan that can never fit is left out; else exit code 4. Of the device: fewer slices at once.

Allocations fail for real, since the system grants the process no more.
"""

import pathlib
import subprocess
import sys

import forked
import images
import nibabel as nib
import numpy as np
import pytest
import server

from lgjax.cli import app

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")


def enormous(path: pathlib.Path, side: int) -> None:
    """Writes a scan of side^3 voxels, a byte each, of which the disk holds the header alone."""
    image = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4))
    header = image.header.copy()
    header.set_data_shape((side, side, side))
    header["vox_offset"] = 352
    header.set_sform(np.eye(4), 1)
    header.set_slope_inter(1, 0)
    with open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + side**3)


def restored(tmp_path, before, side: int) -> tuple[subprocess.CompletedProcess, pathlib.Path]:
    """Restores an enormous scan and a small one where little memory is left."""
    images.save(tmp_path / "in" / "small.nii.gz", images.head())
    enormous(tmp_path / "in" / "large.nii", side)
    words = ["restore", "--method=mirror_tv3d", "--max_voxels=2000000000", f"--input={tmp_path / 'in'}"]
    words.append(f"--output={tmp_path / 'out'}")
    return server.run(*words, before=before, optimised=True), tmp_path / "out"


def test_a_scan_that_this_machine_cannot_hold_is_left_out(tmp_path):
    ended, out = restored(tmp_path, forked.little_memory, 512)
    assert ended.returncode == 3, ended.stderr
    assert "large.nii: has the shape (512, 512, 512), which takes about 3.49 GB of memory" in ended.stderr
    assert "take a larger machine" in ended.stderr
    assert [path.name for path in out.rglob("*desc-anomaly*.nii.gz")] == [
        "sub-small_space-orig_desc-anomaly_T2w.nii.gz"
    ]


def test_memory_that_runs_out(tmp_path):
    """The scan's bytes alone are more than the system grants, so no library meets the limit first."""
    ended, out = restored(tmp_path, forked.memory_of_others, 820)
    assert ended.returncode == 4, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("error: out of memory: ")
    assert last.endswith("run the same command again to go on.")
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory. Free"),
        (MemoryError("Unable to allocate 2 GiB."), "out of memory: Unable to allocate 2 GiB. Free"),
    ],
)
def test_what_is_told(error, told):
    assert app._told(error).startswith(told)


HUNGRY = """
import logging
import jax, jax.numpy as jnp, numpy as np
import forked
import images
from configs import vae
from lgjax.methods import names, runner as runners
from lgjax.preparation.slices import Slices
from lgjax.runtime import devices

config = vae.smoke()
config.restore.batch_size = 12
mesh = devices.mesh(jax.devices()[:1])
runner = runners.Runner(names.parse("intensity"), runners.from_config(config), None, {"a": 1.0}, mesh)
micro = runner.micro
logging.basicConfig()

@jax.jit
def hungry(params, y, *rest):  # takes 64 MB for each slice
    steps = 2 + (y[0, 0, 0, 0] > 2)  # known when the program runs, so that there is a loop
    much = jax.lax.fori_loop(0, steps, lambda _, much: much + y[:, :1, 0, 0], jnp.zeros((len(y), 1 << 24)))
    return y + 0 * much[:, :1, None, None], None

runner.programs.function = hungry
slices = Slices(*np.random.default_rng(0).random((2, 12, 8, 8, 1)).astype(np.float32), np.arange(12, dtype=np.int32))
forked.limit_memory(1 << 29)
x = np.concatenate([part for part, _ in runner(slices, np.ones(12, np.float32))])
np.testing.assert_array_equal(x, slices.y)
print(micro, runner.micro)
"""


def test_a_device_that_cannot_hold_a_batch_gets_fewer_slices_at_a_time():
    done = server.python(HUNGRY)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert 1 <= after < before
    assert f"going on with {after} slices at a time" in done.stderr
