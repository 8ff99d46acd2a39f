"""The door of the house: a strict NIfTI reader, and a writer on the input's own grid.

nibabel interprets headers; every byte is read here, in bounded pieces and to the end of the file, so that the
gzip checksum is always verified. No archive and no pickle is ever opened.
"""

import contextlib
import gzip
import math
import os
import pathlib

import nibabel as nib
import numpy as np

from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans.volume import Volume

MAX_VOXELS = 2 * 512**3
_VOXEL_SIZES = (0.01, 100.0)  # mm; beyond them the header is damaged or states wrong units
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIFTI_UNITS_METER, _MM, _MICRON
_COPY_AGAIN = "Copy or download the file again"
_REWRITE = "Convert the scan from DICOM again, for example with dcm2niix"
_FOREIGN = {  # first bytes -> what it is, what to do
    b"version https://git-lfs": ("is a git-lfs pointer, not the scan itself", "Fetch it with `git lfs pull`"),
    b"\x1f\x8b": ("holds gzip data although its name does not end in .gz", "Rename it to end in .nii.gz"),
    b"PK": ("is a zip archive", "Unpack it first"),
    b"NRRD": ("is an NRRD file", "Convert it to NIfTI"),
    b"<": ("is a web page, not a scan", "Download it again; a login page may have been saved instead"),
}


def read(
    path: str | os.PathLike,
    *,
    max_voxels: int = MAX_VOXELS,
    assume_ras: bool = False,
    volume: int | None = None,
    single_slice: bool = False,
) -> Volume:
    """Reads a NIfTI-1 or NIfTI-2 image (.nii, .nii.gz, .hdr with .img), believing nothing unchecked.

    Args:
      path: the file; for a pair, either of the two.
      max_voxels: larger images are rejected from their header, before any memory is taken.
      assume_ras: accept a file that states no orientation, as RAS with its origin at the first voxel.
      volume: which volume of a 4-D file with several, from 0.
      single_slice: accept a 2-D image, as one slice [X, Y, 1].

    Returns:
      The volume: [X, Y, Z] float32 (larger values become inf), affine in mm.

    Raises:
      InputError: the file cannot be read or is not to be trusted.
    """
    path = pathlib.Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz", ".hdr", ".img")):
        raise InputError(path, "is not named like a NIfTI file", "Give a .nii, .nii.gz, .hdr or .img file")
    header_path, voxel_path = parts(path)[0], parts(path)[-1]
    paired = header_path != voxel_path
    with files.faults(path), contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open(header_path))
        digest = files.sha256(*parts(path))
        header = _header(path, stream, paired)
        shape, n_volumes = _shape(path, header, volume, single_slice, max_voxels)
        dtype = _dtype(path, header)
        slope, intercept = _scaling(path, header)
        affine, warnings = _geometry(path, header, shape, assume_ras)
        if paired:
            stream = stack.enter_context(_open(voxel_path))
        stream.skip(_offset(path, header, paired) - stream.position)
        volume_bytes = math.prod(shape) * dtype.itemsize
        stream.expect(n_volumes * volume_bytes)
        stream.skip((volume or 0) * volume_bytes)
        raw = np.empty(math.prod(shape), dtype)
        stream.fill(raw.view(np.uint8).data)
        stream.skip((n_volumes - 1 - (volume or 0)) * volume_bytes)
        stream.finish()
    data = _float32(raw, slope, intercept).reshape(shape, order="F")
    return Volume(data, affine, header, digest, str(path), warnings)


def write(path: str | os.PathLike, data: np.ndarray, like: Volume, dtype: type) -> None:
    """Writes `data` as .nii.gz on the grid of `like`: shape (4-D or 2-D as it was), qform, sform, units.

    Equal data give equal bytes. The file appears complete or not at all. Header extensions are not passed
    on: they may hold the patient's name.

    Args:
      path: the final name.
      data: [X, Y, Z], the shape of `like.data`.
      like: the volume whose grid and header the output inherits.
      dtype: np.float32 or np.uint8; the voxels are stored unscaled.

    Raises:
      EnvironmentFault: the file cannot be written.
    """
    if data.shape != like.data.shape:
        raise ValueError(f"expected data of shape {like.data.shape}, got {data.shape}")
    header = _plain_header(like) if like.header is None else _inherited_header(like.header)
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    stored = np.dtype(dtype).newbyteorder("<")
    with files.atomic_file(path) as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as stream:
        stream.write(header.binaryblock + bytes(4))  # four zeros: no extension follows
        for k in range(data.shape[2]):  # a slice at a time: big volumes are not copied
            stream.write(data[:, :, k].astype(stored).tobytes(order="F"))


def parts(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files that an image consists of: header and voxels of a .hdr/.img pair, else the one file."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return (path,)
    return tuple(path.with_suffix(end.upper() if path.suffix.isupper() else end) for end in (".hdr", ".img"))


def check_same_grid(image: Volume, other: Volume, tolerance: float = 0.01) -> None:
    """Checks that a mask or label lies on its image: the same shape, corners within `tolerance` mm.

    Raises:
      InputError: it does not; the message holds both shapes and affines.
    """
    if image.data.shape == other.data.shape:
        distance = _displacement(image.affine, other.affine, image.data.shape)
        if distance <= tolerance:
            return
        problem = f"lies up to {distance:.3g} mm away from {image.source}"
    else:
        problem = f"is on another grid than {image.source}"
    problem += f": shape and affine\n{_describe(other)}\nagainst\n{_describe(image)}"
    raise InputError(other.source, problem, "Resample it to the grid of the image, with nearest neighbours for labels")


def _open(path: pathlib.Path) -> files.Stream:
    stream = files.Stream(path)
    if stream.compressed != path.name.lower().endswith(".gz"):
        stream.close()
        raise _foreign(path, stream.start)
    return stream


def _foreign(path: pathlib.Path, start: bytes) -> InputError:
    """Says what a file that is no NIfTI file, or not the kind its name says, seems to be."""
    if not start:
        return InputError(path, "is empty (zero bytes)", _COPY_AGAIN)
    if _layout(start) and path.name.lower().endswith(".gz"):
        return InputError(path, "holds plain NIfTI data although its name ends in .gz", "Rename it to end in .nii")
    if start[128:132] == b"DICM":
        return InputError(path, "is a DICOM file", "Convert the series to NIfTI, for example with dcm2niix")
    for magic, (problem, remedy) in _FOREIGN.items():
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            return InputError(path, problem, remedy)
    return InputError(path, "holds no NIfTI header", f"{_COPY_AGAIN}, or convert it to NIfTI")


def _layout(start: bytes) -> tuple[type[nib.Nifti1Header], str] | None:
    """Returns the header class and byte order that the first four bytes (the header's size) declare."""
    for endianness, order in (("<", "little"), (">", "big")):
        size = int.from_bytes(start[:4], order)  # type: ignore[arg-type]
        if size in (348, 540):
            return (nib.Nifti1Header if size == 348 else nib.Nifti2Header), endianness
    return None


def _header(path: pathlib.Path, stream: files.Stream, paired: bool) -> nib.Nifti1Header | nib.Nifti2Header:
    block = stream.read(348)
    layout = _layout(block)
    if layout is None:
        raise _foreign(path, block)
    cls, endianness = layout
    block += stream.read(cls.sizeof_hdr - 348)
    if len(block) < cls.sizeof_hdr:
        raise EOFError(f"the header ends after {len(block)} bytes")
    header = cls(block, endianness, check=False)
    magic = bytes(header["magic"].item())
    expected = (header.pair_magic if paired else header.single_magic).rstrip(b"\0")
    if magic != expected:
        hint = "; an Analyze header does not state the orientation" if paired and not magic.strip(b"\0") else ""
        raise InputError(path, f"has the magic {magic!r} where {expected!r} belongs{hint}", _REWRITE)
    return header


def _shape(path, header, volume: int | None, single_slice: bool, max_voxels: int) -> tuple[tuple[int, int, int], int]:
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
    if ndim not in (3, 4):
        remedy = "Give --slice if it is one axial slice" if ndim == 2 else "Extract one 3-D volume"
        raise InputError(path, f"is {ndim}-D, of shape {tuple(dims)}; a 3-D scan is needed", remedy)
    n_volumes = dims[3] if ndim == 4 else 1
    if volume is None and n_volumes > 1:
        raise InputError(path, f"holds {n_volumes} volumes", f"Choose one with --volume, 0 to {n_volumes - 1}")
    if not 0 <= (volume or 0) < n_volumes:
        raise InputError(path, f"has no volume {volume}", f"Choose --volume between 0 and {n_volumes - 1}")
    return (dims[0], dims[1], dims[2]), n_volumes


def _dtype(path, header) -> np.dtype:
    code = int(header["datatype"])
    known = nib.nifti1.data_type_codes
    dtype: np.dtype = np.dtype(known.dtype[code] if code in known else np.void)  # type: ignore[call-overload]
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = known.label[code] if code in known else "unknown"
        problem = f"has voxels of the type {kind} (code {code})"
        raise InputError(path, problem, "Convert it to one number a voxel, for example int16 or float32")
    return dtype.newbyteorder(header.endianness)


def _scaling(path, header) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:  # the standard: not scaled
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InputError(path, f"has the intensity scaling slope {slope}, intercept {intercept}", _REWRITE)
    return slope, intercept


def _offset(path, header, paired: bool) -> int:
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and offset >= (0 if paired else header.single_vox_offset)):
        raise InputError(path, f"declares that its voxels start at byte {offset:g}", _REWRITE)
    return int(offset)


def _geometry(path, header, shape, assume_ras: bool) -> tuple[np.ndarray, tuple[str, ...]]:
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
                distance = _displacement(affine, qform, shape)
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


def _describe(volume: Volume) -> str:
    return f"{volume.data.shape}\n{np.array2string(volume.affine, precision=4, suppress_small=True)}"


def _displacement(first: np.ndarray, second: np.ndarray, shape) -> float:
    """Returns the largest distance in mm between a corner voxel under one affine and under the other."""
    corners = np.array([[*(np.array(corner) * (np.array(shape) - 1)), 1] for corner in np.ndindex(2, 2, 2)])
    return float(np.linalg.norm(corners @ (first - second)[:3].T, axis=1).max())


def _float32(raw: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 becomes inf, which preprocessing counts
        if (slope, intercept) == (1.0, 0.0):
            return raw.astype(np.float32)
        return (raw.astype(np.float64) * slope + intercept).astype(np.float32)


def _inherited_header(original):
    """Returns a copy whose dimensions are those of one volume: 4-D or 2-D where the original was."""
    header = original.as_byteswapped("<")
    dims = header["dim"].copy()
    if dims[0] == 4 and dims[4] > 1:
        dims[0], dims[4] = 3, 1
    header["dim"] = dims
    header["cal_max"] = header["cal_min"] = 0  # the display range of other intensities
    header["intent_code"] = 0
    return header


def _plain_header(like: Volume) -> nib.Nifti1Header:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(like.data.shape)
    header.set_qform(like.affine, code=1)
    header.set_sform(like.affine, code=1)
    header.set_xyzt_units("mm")
    return header
