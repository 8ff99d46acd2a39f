"""Connected components: of detections, and of the healthy scans' false positives that detections are held against."""

import numpy as np
from scipy import ndimage

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours: voxels that share a corner are one component


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the connected components of a mask.

    Args:
      mask: [X, Y, Z] bool.

    Returns:
      The number of every voxel's component, [X, Y, Z], 0 outside; and how many components there are.
    """
    return ndimage.label(mask, CONNECTIVITY)
