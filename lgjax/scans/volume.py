"""The two records that carry images through the program: a volume, and a scan made of volumes."""

import dataclasses
from typing import NamedTuple

import nibabel as nib
import numpy as np


@dataclasses.dataclass(frozen=True)
class Volume:
    """One 3-D image with all that is needed to write another on the same grid.

    Attributes:
      data: [X, Y, Z] float32, in the file's own intensity units (slope and intercept applied).
      affine: [4, 4] float64, voxel indices -> world millimetres (RAS+).
      header: the file's header, which outputs inherit (shape, qform, sform, codes, units); None: a plain one.
      sha256: hex digest of the file's bytes (of the voxels for volumes that never were a file).
      source: the path or name shown in messages and sidecars.
      warnings: what a reader of the result should know, for example that qform and sform disagree.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header | nib.Nifti2Header | None
    sha256: str
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def zooms(self) -> np.ndarray:
        """Voxel sizes in mm, [3]."""
        return nib.affines.voxel_sizes(self.affine)

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


class Scan(NamedTuple):
    """One subject's images on one grid."""

    image: Volume
    brain: np.ndarray  # [X, Y, Z] bool, brain mask
    lesion: np.ndarray | None  # [X, Y, Z] bool, reference segmentation (label > 0), where there is one
    displaced: np.ndarray | None = None  # [X, Y, Z] bool, what a synthetic lesion changed around itself
