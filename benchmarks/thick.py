"""Writes scans and their references in thick slices, to see what a detection loses in them.

    python benchmarks/thick.py --scans=../shared/data/brats18 --output=T --slices=5
    lgjax restore --model=released --input=T --output=D && lgjax eval --predictions=D --labels=T --output=E

A thick slice is the mean of thin ones, as a scanner without gaps gives it, and lesion where half of them or more are.
Thin slices at the top that fill no thick slice are left out.
"""

import argparse
import pathlib

import nibabel as nib
import numpy as np

from lgjax.scans import sources


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--slices", type=int, default=5)
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True)
    for subject in sources.find(arguments.scans):
        name = subject.identifier.removeprefix("sub-")
        image, reference = subject.image(), subject.lesion()
        data, affine = thick(image.data, image.affine, arguments.slices)
        nib.save(nib.Nifti1Image(data, affine), folder / f"{name}_T2w.nii.gz")
        share, affine = thick(reference.data != 0, reference.affine, arguments.slices)
        nib.save(nib.Nifti1Image((share >= 0.5).astype(np.uint8), affine), folder / f"{name}_T2w_seg.nii.gz")
        print(name, flush=True)


def thick(data: np.ndarray, affine: np.ndarray, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Averages slices of a volume, [X, Y, Z], from bottom to top.

    Returns:
      The means, [X', Y', Z' // slices], axes in the order RAS+, and their affine.
    """
    image = nib.as_closest_canonical(nib.Nifti1Image(data.astype(np.float32), affine))
    whole = image.shape[2] // slices * slices
    thin = np.asarray(image.dataobj)[..., :whole].reshape(*image.shape[:2], -1, slices)
    step = np.diag([1.0, 1.0, slices, 1.0])
    step[2, 3] = (slices - 1) / 2  # the middle of the first
    return thin.mean(axis=3), image.affine @ step


if __name__ == "__main__":
    main()
