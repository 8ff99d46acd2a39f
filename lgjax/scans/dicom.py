"""A DICOM series read strictly into a volume, and the way back from a volume to the frames of the series."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError
from lgjax.scans import dicom_geometry, dicom_header, room
from lgjax.scans.dicom_geometry import Stack
from lgjax.scans.dicom_header import Frame, Header
from lgjax.scans.volume import Volume

_ONE_FOLDER = "Move each series into a folder of its own"
_DECODE = "Install a decoder, `pip install pylibjpeg pylibjpeg-libjpeg`, or convert the series with dcm2niix"


class Series(NamedTuple):
    """A series that can be read: its images and where they lie."""

    frames: tuple[Frame, ...]  # by place, see `dicom_geometry.stack`
    stack: Stack


def read(paths: Sequence[pathlib.Path], said: str, max_voxels: int) -> Volume:
    """Reads a series, classic or Enhanced MR: slope and intercept applied frame by frame.

    Args:
      paths: its files, in any order.
      said: what a message calls the series.
      max_voxels: larger series are refused before any memory is taken.

    Returns:
      The volume, [columns, rows from the last, slices] float32; affine in mm (RAS+).

    Raises:
      InputError: the series cannot be read, or is not to be trusted.
    """
    series = survey(paths, said, max_voxels)
    with dicom_header.damage(paths, 0, said):
        content = dicom_header.digest(paths)
    return Volume(_voxels(paths, series, said), series.stack.affine, None, content, said)


def survey(paths: Sequence[pathlib.Path], said: str, max_voxels: int) -> Series:
    """Reads the headers of a series and orders its slices; arguments and errors as in `read`."""
    headers = dicom_header.read_all(paths, said)
    if not headers:
        raise InputError(said, "holds no DICOM image", "Give the folder of a series")
    _check(headers, said)
    frames = [frame for header in headers for frame in header.frames]
    stack = dicom_geometry.stack(frames, said)
    if np.prod(stack.shape) > max_voxels:
        problem = f"declares the shape {stack.shape}, more than {max_voxels} voxels"
        raise InputError(said, problem, "If that is right, raise --max_voxels")
    room.check(said, stack.shape)
    return Series(tuple(frames[k] for k in stack.order), stack)


def frames_of(data: np.ndarray) -> np.ndarray:
    """Returns the frames of a volume as the series holds them, by place, [slices, rows, columns].

    Args:
      data: [columns, rows from the last, slices], as from `read`.
    """
    return np.ascontiguousarray(data[:, ::-1].T)


def _check(headers: Sequence[Header], said: str) -> None:
    """Raises InputError for what is no scan in grey, of one series, that can be decoded and says where it lies."""
    series = {header.series: header.number for header in headers}
    if len(series) > 1:
        counts = {key: sum(header.series == key for header in headers) for key in series}
        told = ", ".join(f"number {series[key]} of {counted(count, 'file')}" for key, count in counts.items())
        raise InputError(said, f"holds {len(series)} series: {told}", _ONE_FOLDER)
    for header in headers:
        if header.modality != "MR":
            raise InputError(said, f"is of the modality {header.modality}, not MR", "Give an MR scan")
        if "LOCALIZER" in header.kinds:
            raise InputError(said, "is a localizer by its ImageType", "Give the T2 series")
        if header.colours != 1 or header.photometric != "MONOCHROME2":
            raise InputError(
                said, f"holds pixels of the kind {header.photometric}, not MONOCHROME2", "Give the scan itself"
            )
        if not header.frames:
            problem = "does not say where its slices lie, in which direction, or how large a pixel is"
            raise InputError(said, problem, "Export the original images, and no pictures of them")
    for syntax in {header.syntax for header in headers}:
        _check_syntax(syntax, said)


def _check_syntax(syntax: str, said: str) -> None:
    """Raises InputError for a compression that pydicom cannot undo here."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        found = get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        found = False
    if not found:
        raise InputError(
            said, f"is compressed by {UID(syntax).name or 'an unknown syntax'}, which cannot be undone here", _DECODE
        )


def _voxels(paths: Sequence[pathlib.Path], series: Series, said: str) -> np.ndarray:
    """Reads the pixels of all frames, [columns, rows from the last, slices] float32."""
    data = np.empty(series.stack.shape, np.float32, order="F")
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(series.frames):
        places.setdefault(frame.file, []).append(place)
    for file, found in places.items():
        with dicom_header.damage(paths, file, said):
            pixels = _pixels(paths[file])
            for place in found:
                frame = series.frames[place]
                values = pixels[frame.number].astype(np.float64) * frame.slope + frame.intercept
                data[:, :, place] = values.astype(np.float32).T[:, ::-1]
    return data


def _pixels(path: pathlib.Path) -> np.ndarray:
    """Returns the stored values of one file, [frames, rows, columns]."""
    from pydicom.pixels import pixel_array

    values = pixel_array(path, raw=True)
    return values if values.ndim == 3 else values[None]
