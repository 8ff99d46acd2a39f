"""Writes scans and their references turned and shifted, to see what a detection loses in a tilted head.

    python benchmarks/turned.py --scans=../shared/data/brats18 --output=T --turn=10,10,10 --shift=10,0,0
    lgjax restore --method=mirror_tv3d --input=T --output=D && lgjax eval --predictions=D --labels=T --output=D

A scan is interpolated linearly, its reference by the nearest voxel, in a volume that grows by a margin, so that nothing
leaves it. Degrees are about the axes from right to left, back to front and bottom to top, in this order; mm along them.
"""

import argparse
import pathlib

import nibabel as nib
import numpy as np
from midplane import motion_about_the_middle, resampled

from lgjax.scans import sources

MARGIN = 20  # voxels


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--turn", default="10,10,10")
    parser.add_argument("--shift", default="10,0,0")
    arguments = parser.parse_args()
    turn, shift = ([float(part) for part in text.split(",")] for text in (arguments.turn, arguments.shift))
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True)
    for subject in sources.find(arguments.scans):
        image, reference = subject.image(), subject.lesion()
        affine = image.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, MARGIN)
        name = subject.identifier.removeprefix("sub-")
        for volume, suffix, order in ((image, "T2w", 1), (reference, "T2w_seg", 0)):
            padded = np.pad(volume.data, MARGIN)
            motion = motion_about_the_middle(padded.shape, affine, turn, shift)
            data = resampled(padded, affine, motion, order)
            nib.save(nib.Nifti1Image(data, affine), folder / f"{name}_{suffix}.nii.gz")
        print(name, flush=True)


if __name__ == "__main__":
    main()
