"""The door of the house: a strict NIfTI reader, and a writer on the input's own grid.

nibabel interprets headers; every byte is read here, in bounded pieces and to the end of the file, so that the
gzip checksum is always verified. No archive and no pickle is ever opened.
"""

import contextlib
import math
import os
import pathlib
import re

import nibabel as nib
import numpy as np
from isal import igzip

from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans import foreign, room
from lgjax.scans import header as headers
from lgjax.scans.volume import Volume

MAX_VOXELS = 2 * 512**3
LEVEL = 2  # of igzip, 0 to 3: maps become about as small as by zlib's level 6, ten times faster
_GEOMETRY = (  # fields of a header that outputs inherit
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read(
    path: str | os.PathLike,
    *,
    max_voxels: int = MAX_VOXELS,
    assume_ras: bool = False,
    volume: int | None = None,
    single_slice: bool = False,
) -> Volume:
    """Reads a NIfTI-1 or NIfTI-2 image (.nii, .hdr with .img, each also as .gz), believing nothing unchecked.

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
    if not path.name.lower().removesuffix(".gz").endswith((".nii", ".hdr", ".img")):
        raise foreign.not_named(path)
    header_path, voxel_path = parts(path)[0], parts(path)[-1]
    paired = header_path != voxel_path
    with files.faults(path), contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open(header_path))
        digest = files.sha256(*parts(path))
        header = headers.read(path, stream, paired)
        shape, n_volumes = headers.shape_of(path, header, volume, single_slice, max_voxels)
        room.check(path, shape)
        dtype = headers.dtype_of(path, header)
        slope, intercept, doubts = headers.scaling_of(path, header, dtype)
        affine, warnings = headers.geometry_of(path, header, shape, assume_ras)
        if paired:
            stream = stack.enter_context(_open(voxel_path))
        stream.skip(headers.offset_of(path, header, paired) - stream.position)
        volume_bytes = math.prod(shape) * dtype.itemsize
        stream.expect(n_volumes * volume_bytes)
        stream.skip((volume or 0) * volume_bytes)
        raw = np.empty(math.prod(shape), dtype)
        stream.fill(raw.view(np.uint8).data)
        stream.skip((n_volumes - 1 - (volume or 0)) * volume_bytes)
        stream.finish()
    data = _float32(raw, slope, intercept).reshape(shape, order="F")
    return Volume(data, affine, header, digest, str(path), (*doubts, *warnings))


def write(path: str | os.PathLike, data: np.ndarray, like: Volume, dtype: type) -> None:
    """Writes `data` as .nii.gz on the grid of `like`: shape (4-D or 2-D as it was), qform, sform, units.

    Equal data give equal bytes on processors of one kind. The file appears complete or not at all. No text of the
    header and no extension is passed on: they may hold the patient's name.

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
    with files.atomic_file(path) as file, igzip.IGzipFile("", "wb", LEVEL, file, mtime=0) as stream:
        stream.write(header.binaryblock + bytes(4))  # four zeros: no extension follows
        for k in range(data.shape[2]):  # a slice at a time: big volumes are not copied
            stream.write(data[:, :, k].astype(stored).tobytes(order="F"))


def parts(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files that an image consists of: header and voxels of a .hdr/.img pair, else the one file."""
    named = re.fullmatch(r"(.*\.)(hdr|img)(\.gz)?", path.name, re.IGNORECASE)
    if not named:
        return (path,)
    start, end, packed = named[1], named[2], named[3] or ""
    return tuple(_part(path, start, name.upper() if end.isupper() else name, packed) for name in ("hdr", "img"))


def _part(path: pathlib.Path, start: str, end: str, packed: str) -> pathlib.Path:
    """Returns one part of a pair, packed like the other; otherwise where that is what is there."""
    same, otherwise = (path.with_name(f"{start}{end}{gz}") for gz in (packed, "" if packed else ".gz"))
    return otherwise if otherwise.exists() and not same.exists() else same


def check_same_grid(image: Volume, other: Volume, tolerance: float = 0.01) -> None:
    """Checks that a mask or label lies on its image: the same shape, corners within `tolerance` mm.

    Raises:
      InputError: it does not; the message holds both shapes and affines.
    """
    if image.data.shape == other.data.shape:
        distance = headers.displacement(image.affine, other.affine, image.data.shape)
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
        if headers.layout(stream.start):
            raise InputError(path, "holds plain NIfTI data although its name ends in .gz", "Rename it without .gz")
        raise foreign.error(path, stream.start)
    return stream


def _describe(volume: Volume) -> str:
    return f"{volume.data.shape}\n{np.array2string(volume.affine, precision=4, suppress_small=True)}"


def _float32(raw: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 becomes inf, which preprocessing counts
        if (slope, intercept) == (1.0, 0.0):
            return raw.astype(np.float32)
        return (raw.astype(np.float64) * slope + intercept).astype(np.float32)


def _inherited_header(original):
    """Returns a header with the geometry alone of another: no text, which may name the patient.

    Its dimensions are those of one volume: 4-D, 5-D or 2-D where the original was.
    """
    header = type(original)(endianness="<")
    for field in _GEOMETRY:
        header[field] = original[field]
    dims = header["dim"].copy()
    if dims[0] >= 4 and dims[4] > 1:
        dims[0], dims[4] = 3, 1
    header["dim"] = dims
    return header


def _plain_header(like: Volume) -> nib.Nifti1Header:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(like.data.shape)
    header.set_qform(like.affine, code=1)
    header.set_sform(like.affine, code=1)
    header.set_xyzt_units("mm")
    return header
