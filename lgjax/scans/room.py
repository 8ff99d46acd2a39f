"""Whether this machine can hold a scan: asked before the scan is read, since a system out of memory kills processes."""

import math
from collections.abc import Sequence

from lgjax.runtime import memory
from lgjax.runtime.errors import InputError

# The least that is done to a scan, to prepare it, takes 2.0 to 2.4 GB for 512x512x300 voxels; restoration takes 3.4 to
# 3.7 GB (benchmarks/memory_512x512x300_cpu.json and the records beside it).
BYTES_PER_VOXEL = 26


def check(said: object, shape: Sequence[int]) -> None:
    """Checks that the memory which this process can have suffices for a scan.

    Args:
      said: what messages call the scan.
      shape: of one volume.

    Raises:
      InputError: the memory does not suffice.
    """
    needed, there = math.prod(shape) * BYTES_PER_VOXEL, memory.total()
    if needed > there:
        problem = f"has the shape {tuple(shape)}, which takes about {needed / 1e9:.3g} GB of memory"
        remedy = f"This process can have {there / 1e9:.3g} GB. Crop or resample the scan, or take a larger machine"
        raise InputError(said, problem, remedy)
