"""Synthetic cohorts that tests make, in memory or as a BIDS data set."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lgjax.runtime import parallel
from lgjax.runtime.files import atomic_write
from lgjax.scans import nifti
from lgjax.scans.phantom import make_subject
from lgjax.scans.phantom.anatomy import Anatomy
from lgjax.scans.volume import Scan


def make_cohort(
    anatomies: Sequence[Anatomy],
    seed: int,
    indices: Sequence[int],
    kinds: Sequence[str],
    *,
    workers: int = 2,
    **image_settings,
) -> Iterator[Scan]:
    """Makes subjects in order, a few ahead of the reader; results do not depend on the number of workers.

    Args:
      indices, kinds: of equal length, one pair for each subject.
      workers: threads. NumPy frees the interpreter while it computes; threads share the anatomies and, unlike
        forked processes, live well beside JAX.
      image_settings: slices, spacing and thickness of make_subject.
    """
    jobs = list(zip(indices, kinds, strict=True))
    make = functools.partial(make_subject, anatomies, seed, **image_settings)
    return parallel.ahead(lambda job: make(*job), jobs, workers)


def write_bids(
    folder: str | Path,
    anatomies: Sequence[Anatomy],
    seed: int,
    indices: Sequence[int],
    kinds: Sequence[str],
    *,
    workers: int = 2,
    **image_settings,
) -> list[Path]:
    """Writes subjects as a BIDS data set: the arguments are make_cohort's.

    Returns:
      The paths of the T2w images. Masks lie beside them: `..._desc-brain_mask` and `..._label-lesion_mask`.
    """
    folder = Path(folder)
    description = {
        "Name": "lgjax phantom: synthetic T2-weighted brains",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "lgjax.scans.phantom", "Description": f"seed {seed}, settings {image_settings}"}],
    }
    written, rows = [], ["participant_id\tlesion_kind\tlesion_mm3"]
    cohort = make_cohort(anatomies, seed, indices, kinds, workers=workers, **image_settings)
    for index, kind, scan in zip(indices, kinds, cohort, strict=True):
        name = f"sub-{index:04d}"
        anat = folder / name / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        lesion = np.zeros_like(scan.brain) if scan.lesion is None else scan.lesion
        nifti.write(anat / f"{name}_T2w.nii.gz", scan.image.data, scan.image, np.float32)
        nifti.write(anat / f"{name}_desc-brain_mask.nii.gz", scan.brain, scan.image, np.uint8)
        nifti.write(anat / f"{name}_label-lesion_mask.nii.gz", lesion, scan.image, np.uint8)
        rows.append(f"{name}\t{kind}\t{lesion.sum() * np.prod(scan.image.zooms):.0f}")
        written.append(anat / f"{name}_T2w.nii.gz")
    atomic_write(folder / "participants.tsv", "\n".join(rows) + "\n")
    atomic_write(folder / "dataset_description.json", json.dumps(description, indent=2) + "\n")
    return written
