"""Headers of DICOM files: the tags that a scan needs are read, and no text about the patient is among them.

pydicom, of the extra lgjax[dicom], is imported when a header is read.
"""

import contextlib
import importlib.util
import math
import pathlib
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Any, NamedTuple

from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault, InputError
from lgjax.scans import foreign
from lgjax.scans.finding import folders

NEEDED = (
    "Install the extra with `pip install 'lgjax[dicom]'`, or convert the series to NIfTI, for example with dcm2niix"
)
_TAGS = [
    *("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType", "EchoTime"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_SEQUENCE = [  # what tells a sequence, by the names that converters give these tags in a sidecar
    *("Modality", "ImageType", "ScanningSequence", "SeriesDescription", "ProtocolName", "SequenceName"),
    *("EchoTime", "InversionTime", "Rows"),
]
_MILLISECONDS = ("EchoTime", "InversionTime")


class Frame(NamedTuple):
    """One slice of a series: where its pixels are kept, where the slice lies, and what the pixels mean."""

    file: int  # of the series, from 0
    number: int  # in the file, from 0
    shape: tuple[int, int]  # rows, columns
    position: tuple[float, ...]  # centre of the first pixel, mm (LPS+), [3]
    along: tuple[float, ...]  # direction of a row, then of a column, LPS+, [6]
    spacing: tuple[float, ...]  # between rows, between columns, mm
    slope: float
    intercept: float
    echo: float | None  # ms
    instance: str  # UID of the file: compared, never shown


class Header(NamedTuple):
    """What one file of a series says."""

    series: str  # UID: compared, never shown
    number: str  # of the series in its study
    modality: str
    kinds: tuple[str, ...]  # ImageType
    syntax: str  # UID of the transfer syntax
    colours: int  # samples of a pixel
    photometric: str
    frames: tuple[Frame, ...]


def files_of(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files of the series that a folder, or one file, is; () for anything else.

    A single file that is named like DICOM counts whatever it holds: its name may tell who was scanned.

    Raises:
      EnvironmentFault: it is a series, and pydicom is not installed.
    """
    if path.is_dir():
        found = tuple(series_files(path))
    else:
        is_dicom = foreign.named(path.name) == foreign.DICOM or foreign.is_dicom(path)
        found = (path,) if is_dicom and not folders.is_nifti(path) else ()
    if found and importlib.util.find_spec("pydicom") is None:
        raise EnvironmentFault(f"There is a DICOM series, and pydicom is not installed. {NEEDED}.")
    return found


def digest(paths: Sequence[pathlib.Path]) -> str:
    """Returns SHA-256 of a series: of its files' contents, whatever their names and their order.

    Raises:
      OSError: a file cannot be read.
    """
    return files.digest(sorted(files.sha256(path) for path in paths))


def series_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the DICOM files directly inside a folder by name, whatever their endings; a DICOMDIR is none."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.upper() != "DICOMDIR" and not path.name.startswith(".") and foreign.is_dicom(path):
                yield path


def is_series(folder: pathlib.Path) -> bool:
    """Returns whether a folder directly holds a DICOM file."""
    return any(True for _ in series_files(folder))


def read_all(paths: Sequence[pathlib.Path], said: str) -> list[Header]:
    """Reads the headers of all images among files; what is no image (a report, a presentation state) is passed over.

    Raises:
      InputError: a file cannot be read, or does not say where its slices lie.
    """
    found = []
    for file in range(len(paths)):
        with damage(paths, file, said):
            if header := _header(file, _read(paths[file], _TAGS)):
                found.append(header)
    return found


def summary(paths: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Returns what the first and the last file both say of the sequence, as the sidecar of a conversion would.

    {} where a file cannot be read, which is said when the scan is read, or is no image.
    """
    with contextlib.suppress(InputError):
        first, last = (_summary(paths, file) for file in (0, len(paths) - 1))
        return {key: value for key, value in first.items() if last.get(key) == value}
    return {}


def texts(value: Any) -> list[str]:
    """Returns the values of an element as texts; [] where it is absent or empty."""
    if value is None or value == "":
        return []
    return [str(each) for each in value] if isinstance(value, MutableSequence) else [str(value)]


@contextlib.contextmanager
def damage(paths: Sequence[pathlib.Path], file: int, said: str) -> Iterator[None]:
    """Turns whatever reading a file can raise into an InputError that quotes nothing of the file, nor its name."""
    _check_no_values()
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(said, f"has a file that cannot be read: {error.strerror}", "Check its permissions") from error
    except Exception as error:  # pydicom raises nearly every kind
        which = f"file {file + 1} of {len(paths)} by name" if len(paths) > 1 else "its file"
        raise InputError(
            said, f"is damaged or cut short: {which} cannot be read ({type(error).__name__})", files.COPY_AGAIN
        ) from error


def _check_no_values() -> None:
    """Has pydicom check no value from now on, since a check would warn with the value.

    pydicom has one mode for all threads: where one restored the mode, another one would still need this one.
    """
    from pydicom import config

    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE


def _read(path: pathlib.Path, tags: list[str]) -> Any:
    """Reads some tags of a file; their values are parsed when they are asked for."""
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))


def _header(file: int, found: Any) -> Header | None:
    """Returns what a file says; None: it is no image, by its class; an image that ends early has no rows."""
    kind = getattr(found.file_meta.get("MediaStorageSOPClassUID"), "name", "")
    if kind and "Image Storage" not in kind and (kind.endswith("Storage") or "Rows" not in found):
        return None
    if "Rows" not in found:
        raise EOFError("no rows")
    return Header(
        series=str(found.get("SeriesInstanceUID", "")),
        number=str(found.get("SeriesNumber", "") or "none"),
        modality=str(found.get("Modality", "") or "MR"),
        kinds=tuple(map(str.upper, texts(found.get("ImageType")))),
        syntax=str(found.file_meta.get("TransferSyntaxUID", "")),
        colours=int(found.get("SamplesPerPixel") or 1),
        photometric=str(found.get("PhotometricInterpretation", "")),
        frames=_frames(file, found),
    )


def _frames(file: int, found: Any) -> tuple[Frame, ...]:
    """Lists the slices of a file; () where it does not say where they lie."""
    own = found.get("PerFrameFunctionalGroupsSequence") or [None]
    if len(own) != int(found.get("NumberOfFrames") or 1):
        return ()
    shared = (found.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = [_frame(file, number, found, [group, shared]) for number, group in enumerate(own)]
    return tuple(filter(None, frames)) if all(frames) else ()


def _frame(file: int, number: int, found: Any, groups: Sequence[Any]) -> Frame | None:
    """Returns one slice; None where it does not say where it lies.

    Args:
      file, number: of the slice.
      found: the file.
      groups: functional groups of the slice, then those of all slices; None: there are none.
    """

    def numbers(sequence: str, keyword: str) -> tuple[float, ...]:
        for group in filter(None, groups):
            if group.get(sequence) and keyword in group[sequence].value[0]:
                return _numbers(group[sequence].value[0][keyword].value)
        return _numbers(found.get(keyword))

    position = numbers("PlanePositionSequence", "ImagePositionPatient")
    along = numbers("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing")
    if (len(position), len(along), len(spacing)) != (3, 6, 2) or min(spacing) <= 0:
        return None
    slope = numbers("PixelValueTransformationSequence", "RescaleSlope") or (1.0,)
    intercept = numbers("PixelValueTransformationSequence", "RescaleIntercept") or (0.0,)
    echo = numbers("MREchoSequence", "EffectiveEchoTime") or _numbers(found.get("EchoTime"))
    shape, instance = (int(found.Rows), int(found.Columns)), str(found.get("SOPInstanceUID", ""))
    value = echo[0] if echo else None
    return Frame(file, number, shape, position, along, spacing, slope[0], intercept[0], value, instance)


def _summary(paths: Sequence[pathlib.Path], file: int) -> dict[str, Any]:
    """Returns what one file says of the sequence, times in s; {} where it is no image."""
    with damage(paths, file, ""):
        found = _read(paths[file], _SEQUENCE)
        if "Rows" not in found:
            return {}
        told: dict[str, Any] = {key: texts(found.get(key)) for key in _SEQUENCE[:6]}
        told |= {key: values[0] for key, values in told.items() if key != "ImageType" and len(values) == 1}
        times = {key: _numbers(found.get(key)) for key in _MILLISECONDS}
        return {**told, **{key: values[0] / 1000 for key, values in times.items() if values}}


def _numbers(value: Any) -> tuple[float, ...]:
    """Returns the values of an element as numbers; () where it is absent, empty or not finite."""
    found = tuple(map(float, texts(value)))
    return found if all(map(math.isfinite, found)) else ()
