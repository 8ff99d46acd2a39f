"""Volumes as a page embeds them: cut to the brain, rounded to few levels, in a NIfTI file that says nothing else."""

import base64
import gzip
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from lgjax.scans import orientation

LEVELS = 1023  # steps between the percentiles `FEW` and 100 - `FEW`: values are rounded to 0.1 % of that range
FEW = 0.1  # %, of the voxels at either end of the values, which do not set the range
MARGIN = 3  # voxels around the brain that are kept
_MOST = 32000  # levels that are used on either side of 0, as int16 holds them: some 15 ranges and more


class Rounded(NamedTuple):
    """A volume in integers: value = slope * levels + intercept."""

    levels: np.ndarray  # [X, Y, Z] int16
    slope: float  # float32, as a NIfTI header holds both
    intercept: float


def box(inside: np.ndarray) -> tuple[slice, slice, slice]:
    """Returns the bounding box of what is True in [X, Y, Z] bool, with a margin; all of an empty volume."""
    if not inside.any():
        return tuple(slice(0, n) for n in inside.shape)  # type: ignore[return-value]
    first, second, third = orientation.box(inside)
    return _wider(first), _wider(second), _wider(third)


def shifted(affine: np.ndarray, part: tuple[slice, slice, slice]) -> np.ndarray:
    """Returns the affine of a part of a volume, voxel indices of the part -> mm, [4, 4]."""
    move = np.eye(4)
    move[:3, 3] = [axis.start for axis in part]
    return np.asarray(affine) @ move


def rounded(data: np.ndarray) -> Rounded:
    """Rounds a volume to the nearest of evenly spaced levels, of which 0 is one where 0 is not far from the values.

    Levels reach beyond the range that sets their distance; a value beyond all levels becomes the last of them.
    """
    low, high = _range(data)
    slope = _step(low, high)
    start = np.float32(0 if high > low and abs(low) <= slope * _MOST / 2 else low)
    return Rounded(_held(np.round((data - start) / slope)), float(slope), float(start))


def rounded_above(data: np.ndarray, threshold: float) -> Rounded:
    """Rounds a volume up to levels of which a threshold is one: exactly the values above it stay above.

    Where the threshold is positive, 0 is a level too, so that 0 stays 0. Values beyond all levels: see `rounded`.
    """
    level = np.float32(threshold)
    low, high = _range(data)
    step = _step(min(low, 0.0, float(level)), max(high, 0.0, float(level)))
    if level <= step * LEVELS / _MOST:
        return Rounded(_held(np.ceil((data - level) / step)), float(step), float(level))
    below = max(1, int(level / step))  # levels from 0 to the threshold
    step = level / np.float32(below)
    levels = np.where(data == 0, -below, np.ceil((data - level) / step))
    return Rounded(_held(levels), float(step), float(level))


def bordered(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, [X, Y, Z] bool, as uint8: 1 inside, 2 where a voxel has a face to the outside."""
    return mask.astype(np.uint8) + (mask & ~ndimage.binary_erosion(mask)).astype(np.uint8)


def nifti(levels: np.ndarray, affine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """Returns a gzipped NIfTI-1 file whose header holds shape, sform and scaling, and no text.

    Args:
      levels: [X, Y, Z], uint8 or int16.
      affine: [4, 4], voxel indices -> mm (RAS+).
      slope, intercept: of the values.
    """
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(levels.shape)
    header.set_data_dtype(levels.dtype)
    header.set_zooms(nib.affines.voxel_sizes(affine))
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    return gzip.compress(header.binaryblock + bytes(4) + levels.tobytes(order="F"), 6, mtime=0)


def text(file: bytes) -> str:
    """Returns a file as the text that a page holds it in, base64."""
    return base64.b64encode(file).decode()


def _range(data: np.ndarray) -> tuple[float, float]:
    """Returns the range of all but the few lowest and highest values; of all where most are equal."""
    low, high = (float(value) for value in np.percentile(data, (FEW, 100 - FEW)).astype(np.float32))
    return (low, high) if high > low else (float(data.min()), float(data.max()))


def _held(levels: np.ndarray) -> np.ndarray:
    """Returns levels as int16; those beyond the last become the last."""
    return np.clip(levels, -_MOST, _MOST).astype(np.int16)


def _step(low: float, high: float) -> np.float32:
    """Returns the distance of two levels: never 0."""
    spread = np.float32(high - low)
    return spread / np.float32(LEVELS) if spread > 0 else np.float32(1)


def _wider(axis: slice) -> slice:
    """Returns a range of voxels with its margin; indices above the last one do no harm."""
    return slice(max(0, axis.start - MARGIN), axis.stop + MARGIN)
