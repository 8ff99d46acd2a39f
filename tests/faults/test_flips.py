"""Fault 34: 200 bits of a checkpoint, each flipped alone. Released models: tests/workdir/test_released.py."""

import numpy as np
import pytest

from lgjax.runtime.errors import InputError
from lgjax.workdir import checkpoints

STATE = {"kernel": np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32), "step": np.ones((), np.int32)}


@pytest.fixture
def newest(tmp_path):
    """The only checkpoint, so that there is none to fall back on."""
    checkpoints.save(tmp_path, 7, STATE)
    return tmp_path / "7"


def test_no_flipped_bit_of_a_checkpoint_is_used(newest):
    rng = np.random.default_rng(3)
    files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
    assert {"manifest.json", "manifest.sha256"} < {path.name for path in files}
    for number in range(200):
        path = files[number % len(files)]
        whole = path.read_bytes()
        flipped = bytearray(whole)
        bit = int(rng.integers(8 * len(whole)))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="holds no valid checkpoint"):
            checkpoints.restore_newest(newest.parent, STATE)
        assert checkpoints.best(newest.parent) is None
        path.write_bytes(whole)
    restored, step = checkpoints.restore_newest(newest.parent, STATE)
    assert step == 7
    np.testing.assert_array_equal(restored["kernel"], STATE["kernel"])
