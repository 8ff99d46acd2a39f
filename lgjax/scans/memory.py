"""One scan for a program: a file, or an image that the program has in memory, as a subject like those of a folder."""

import functools
import hashlib
import os
import pathlib

import nibabel as nib
import numpy as np

from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import dicom_header, nifti, sources
from lgjax.scans.finding import sequences, subject_table
from lgjax.scans.names import identifier
from lgjax.scans.sources import Subject
from lgjax.scans.volume import Volume


def read(
    image: "str | nib.spatialimages.SpatialImage | np.ndarray",
    affine: np.ndarray | None = None,
    *,
    mask=None,
    name: str = "scan",
    max_voxels: int = nifti.MAX_VOXELS,
    assume_ras: bool = False,
    volume: int | None = None,
    single_slice: bool = False,
    any_sequence: bool = False,
) -> Subject:
    """Returns one scan; a file is read only when the scan is restored, strictly and to its last byte.

    Args:
      image: path of a NIfTI file, or of a folder with one DICOM series; a nibabel image; or an array [X, Y, Z].
      affine: [4, 4], voxel indices -> mm (RAS+), with an array only.
      mask: of the brain, on the same grid: for a file its path, otherwise an image or an array. None: X_mask.nii.gz
        beside X.nii.gz, or what a skull-stripped scan leaves.
      name: of a scan in memory; names the outputs, see `names.identifier`.
      max_voxels, assume_ras, volume, single_slice: as in `nifti.read`, for files.
      any_sequence: takes a file whose name or sidecar says another sequence than T2.

    Raises:
      UsageError: the path is neither a file nor the folder of a series.
      EnvironmentFault: it is a series, and pydicom is not installed.
      InputError: the image in memory is not one volume, its affine is missing or not invertible, or lgjax.restore wrote
        its file.
    """
    if isinstance(image, str | os.PathLike):
        is_folder = pathlib.Path(image).is_dir()
        if subject_table.is_table(str(image)) or (is_folder and not dicom_header.is_series(pathlib.Path(image))):
            raise UsageError(f"{image} is a folder or a table. Give one file, or list the scans with lgjax.find.")
        found = sources.find(
            str(image),
            layout="dicom" if is_folder else "auto",
            mask=None if mask is None else str(mask),
            max_voxels=max_voxels,
            assume_ras=assume_ras,
            volume=volume,
            single_slice=single_slice,
            any_sequence=any_sequence,
        )
        if len(found) > 1:
            raise UsageError(f"{image} holds series in folders of their own too. List the scans with lgjax.find.")
        return found[0]
    return _subject(image, affine, mask, name)


def _subject(
    image: nib.spatialimages.SpatialImage | np.ndarray,
    affine: np.ndarray | None,
    mask: nib.spatialimages.SpatialImage | np.ndarray | None,
    name: str,
) -> Subject:
    """Makes the subject of one image in memory; arguments and errors as in `read`."""
    scan = _volume(image, affine, name)
    if filename := not isinstance(image, np.ndarray) and image.get_filename():
        problem, remedy = sequences.refusal(pathlib.Path(filename), any_sequence=True)
        if problem:
            raise InputError(name, problem, remedy)
    brain = None if mask is None else _volume(mask, scan.affine if isinstance(mask, np.ndarray) else None, name)
    return Subject(
        identifier=identifier(name),
        original=f"{name} {scan.sha256}",  # what its digest is made of, since there is no file
        image=functools.partial(_itself, scan),
        mask=None if brain is None else functools.partial(_itself, brain),
        reading="" if brain is None else brain.sha256,
        source=f"memory:{identifier(name)}",
    )


def _volume(image, affine: np.ndarray | None, name: str) -> Volume:
    """Makes the volume of an image or an array."""
    header = None
    if not isinstance(image, np.ndarray):
        if affine is not None:
            raise InputError(name, "is an image that has an affine, and another affine is given", "Give one of them")
        affine = image.affine
        header = image.header.copy() if isinstance(image.header, nib.Nifti1Header) else None
        image = image.get_fdata(dtype=np.float32)
    if affine is None:
        raise InputError(name, "is an array without an affine", "Give affine=, [4, 4], voxel indices -> mm (RAS+)")
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(name, f"has the affine\n{affine}\nwhich cannot be inverted", "Give the scan's own affine")
    data = np.asarray(image, np.float32)
    data = data.reshape(data.shape[:3]) if data.ndim > 3 and data.size == np.prod(data.shape[:3]) else data
    if data.ndim != 3 or not data.size:
        raise InputError(name, f"has the shape {data.shape}", "Give one volume, [X, Y, Z]")
    content = hashlib.sha256(repr((data.shape, affine.tolist())).encode() + data.tobytes(order="F"))
    return Volume(data, affine, header, content.hexdigest(), name)


def _itself(volume: Volume) -> Volume:
    return volume
