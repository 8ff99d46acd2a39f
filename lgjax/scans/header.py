"""NIfTI headers, believed only where they make sense: layout, shape, type, scaling, geometry."""

import math
import pathlib

import nibabel as nib
import numpy as np

from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans import foreign

_VOXEL_SIZES = (0.01, 100.0)  # mm; beyond them the header is damaged or states wrong units


_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIFTI_UNITS_METER, _MM, _MICRON


_REWRITE = "Convert the scan from DICOM again, for example with dcm2niix"


def layout(start: bytes) -> tuple[type[nib.Nifti1Header], str] | None:
    """Returns the header class and byte order that the first four bytes (the header's size) declare."""
    for endianness, order in (("<", "little"), (">", "big")):
        size = int.from_bytes(start[:4], order)  # type: ignore[arg-type]
        if size in (348, 540):
            return (nib.Nifti1Header if size == 348 else nib.Nifti2Header), endianness
    return None


def read(path: pathlib.Path, stream: files.Stream, paired: bool) -> nib.Nifti1Header | nib.Nifti2Header:
    """Reads the header of an open file; raises InputError where it is none, or is of the other kind of file."""
    block = stream.read(348)
    found = layout(block)
    if found is None:
        raise foreign.error(path, block)
    cls, endianness = found
    block += stream.read(cls.sizeof_hdr - 348)
    if len(block) < cls.sizeof_hdr:
        raise EOFError(f"the header ends after {len(block)} bytes")
    header = cls(block, endianness, check=False)
    magic = bytes(header["magic"].item())
    expected = (header.pair_magic if paired else header.single_magic).rstrip(b"\0")
    if magic != expected:
        if paired and not magic.strip(b"\0"):
            raise InputError(path, "is an Analyze 7.5 image, which does not state its orientation", _REWRITE)
        raise InputError(path, f"has the magic {magic!r} where {expected!r} belongs", _REWRITE)
    return header


def shape_of(path, header, volume: int | None, single_slice: bool, max_voxels: int) -> tuple[tuple[int, int, int], int]:
    """Returns the shape of one volume, and how many volumes the file holds."""
    ndim = int(header["dim"][0])
    if not 1 <= ndim <= 7:
        raise InputError(path, f"declares {ndim} dimensions", _REWRITE)
    dims = [int(n) for n in header["dim"][1 : ndim + 1]]
    if min(dims) < 1:
        raise InputError(path, f"declares the shape {tuple(dims)}", _REWRITE)
    if math.prod(dims) > max_voxels:
        problem = f"declares the shape {tuple(dims)}, more than {max_voxels} voxels"
        raise InputError(path, problem, "If that is right, raise --max_voxels")
    if ndim == 2 and single_slice:
        return (dims[0], dims[1], 1), 1
    while len(dims) > 4 and dims[-1] == 1:  # axes that hold nothing
        dims.pop()
    if len(dims) > 3 and dims[0] == 1 < dims[-1]:
        problem = f"has the shape {tuple(dims)}: an axis of length 1, as networks have it, comes before those of space"
        raise InputError(path, problem, "Save the image without that axis, with the affine of its scan")
    if len(dims) not in (3, 4):
        remedy = "Give --slice if it is one axial slice" if ndim == 2 else "Extract one 3-D volume"
        raise InputError(path, f"is {ndim}-D, of shape {tuple(dims)}; a 3-D scan is needed", remedy)
    n_volumes = dims[3] if len(dims) == 4 else 1
    if volume is None and n_volumes > 1:
        raise InputError(path, f"holds {n_volumes} volumes", f"Choose one with --volume, 0 to {n_volumes - 1}")
    if not 0 <= (volume or 0) < n_volumes:
        raise InputError(path, f"has no volume {volume}", f"Choose --volume between 0 and {n_volumes - 1}")
    return (dims[0], dims[1], dims[2]), n_volumes


def dtype_of(path, header) -> np.dtype:
    """Returns the type of the voxels as stored; raises InputError for what is no plain number."""
    code = int(header["datatype"])
    known = nib.nifti1.data_type_codes
    dtype: np.dtype = np.dtype(known.dtype[code] if code in known else np.void)  # type: ignore[call-overload]
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = known.label[code] if code in known else "unknown"
        problem = f"has voxels of the type {kind} (code {code})"
        raise InputError(path, problem, "Convert it to one number a voxel, for example int16 or float32")
    return dtype.newbyteorder(header.endianness)


def scaling_of(path, header, dtype: np.dtype) -> tuple[float, float, tuple[str, ...]]:
    """Returns slope and intercept of the intensities, and what is doubtful; raises InputError where not finite.

    Slope and intercept that are both NaN in an image of integers mean not scaled: fMRIPrep up to 20.2 wrote such
    masks, and nibabel, FSL and ITK read them so.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:  # the standard: not scaled
        return 1.0, 0.0, ()
    if math.isnan(slope) and math.isnan(intercept) and dtype.kind in "iu":
        return 1.0, 0.0, ("slope and intercept are NaN; the voxels are taken unscaled",)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InputError(path, f"has the intensity scaling slope {slope}, intercept {intercept}", _REWRITE)
    return slope, intercept, ()


def offset_of(path, header, paired: bool) -> int:
    """Returns where the voxels begin, in bytes; raises InputError where that lies inside the header."""
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and offset >= (0 if paired else header.single_vox_offset)):
        raise InputError(path, f"declares that its voxels start at byte {offset:g}", _REWRITE)
    return int(offset)


def geometry_of(path, header, shape, assume_ras: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the affine in mm (the sform where there is one), and what is doubtful about it."""
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    warnings: list[str] = []
    if not (0 <= qform_code <= 5 and 0 <= sform_code <= 5):
        raise InputError(path, f"has qform_code {qform_code} and sform_code {sform_code}", _REWRITE)
    with np.errstate(all="ignore"):
        qform = _qform(path, header) if qform_code else None
        if sform_code:
            affine = header.get_sform()
            if qform is None and qform_code:
                warnings.append("the qform is invalid; the sform is used")
            elif qform is not None:
                distance = displacement(affine, qform, shape)
                # A quaternion near 180 degrees, rounded to float32, is off by up to a tenth of a voxel.
                if not distance <= 0.25 * np.linalg.norm(affine[:3, :3], axis=0).min():
                    warnings.append(f"qform and sform disagree by up to {distance:.3g} mm; the sform is used")
        elif qform_code:
            affine = np.full((4, 4), np.nan) if qform is None else qform
        elif assume_ras:
            affine = np.diag([*header["pixdim"][1:4].astype(np.float64), 1.0])
            warnings.append("the file states no orientation; RAS is assumed")
        else:
            problem = "states no orientation (qform and sform codes are 0)"
            raise InputError(path, problem, "If its axes point right, anterior and superior, give --assume_ras")
        affine = np.asarray(affine, np.float64)
        affine[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
        _check_affine(path, affine)
    return affine, tuple(warnings)


def _qform(path, header) -> np.ndarray | None:
    """Mends what the standard lets stand (qfac 0 means 1), and returns the qform: None if it is invalid."""
    if float(header["pixdim"][0]) == 0:
        header["pixdim"][0] = 1
    try:
        qform = header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError, np.linalg.LinAlgError):
        return None
    return qform if np.isfinite(qform).all() else None


def _check_affine(path, affine: np.ndarray) -> None:
    if not np.isfinite(affine).all():
        raise InputError(path, "has an affine that is invalid or not finite", _REWRITE)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (sizes.min() >= _VOXEL_SIZES[0] and sizes.max() <= _VOXEL_SIZES[1]):
        problem = f"has voxels of {' x '.join(f'{size:g}' for size in sizes)} mm"
        raise InputError(path, problem, "Correct its affine, voxel sizes or units")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise InputError(path, "has a singular affine: its axes do not span space", _REWRITE)


def displacement(first: np.ndarray, second: np.ndarray, shape) -> float:
    """Returns the largest distance in mm between a corner voxel under one affine and under the other."""
    corners = np.array([[*(np.array(corner) * (np.array(shape) - 1)), 1] for corner in np.ndindex(2, 2, 2)])
    return float(np.linalg.norm(corners @ (first - second)[:3].T, axis=1).max())
