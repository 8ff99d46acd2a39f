"""What restore found in a DICOM series, as DICOM objects that refer to it, for viewers to lay over the scan.

The objects hold the patient's name, as whatever refers to a series must. They are written only where somebody asks
for them, into a folder of their own; nothing else of the outputs holds such a text.
"""

import contextlib
import importlib.util
import io
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lgjax.derivatives import read, sidecar
from lgjax.derivatives.read import Prediction
from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError
from lgjax.scans import dicom, dicom_header
from lgjax.scans.dicom import Series
from lgjax.scans.subject import Subject

FOLDER = "dicom"  # in the folder of the outputs: all that names patients
_SEGMENTATION, _MAP = _KINDS = ("label-lesion_seg", "desc-anomaly_map")
_NUMBERS = {_SEGMENTATION: 9101, _MAP: 9102}  # of the series, in their study
_RESEARCH = "research use only"
_WITHOUT = "Leave --dicom out for this scan; its other results are there"
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


def check(subjects: Sequence[Subject]) -> None:
    """Checks that objects can be written.

    Raises:
      UsageError: no scan is a DICOM series.
      EnvironmentFault: highdicom is missing.
    """
    if not any(subject.slices for subject in subjects):
        raise UsageError("--dicom writes objects that refer to DICOM series, and no scan is one. Leave --dicom out.")
    if importlib.util.find_spec("highdicom") is None:
        raise EnvironmentFault("--dicom needs highdicom. Install the extra with `pip install 'lgjax[dicom]'`.")


def file(folder: pathlib.Path, identifier: str, kind: str) -> pathlib.Path:
    """Returns the path of one of a scan's objects: label-lesion_seg or desc-anomaly_map."""
    return folder / FOLDER / f"{identifier}_{sidecar.SPACE}_{kind}.dcm"


def forget(folder: pathlib.Path, identifier: str) -> None:
    """Removes a scan's objects, since its maps are about to change."""
    for kind in _KINDS:
        file(folder, identifier, kind).unlink(missing_ok=True)


def write(folder: pathlib.Path, subject: Subject) -> None:
    """Writes a segmentation of the shown mask and a parametric map of the score, unless both are there.

    Args:
      folder: of the outputs, which hold the scan's maps.
      subject: the scan; one that is no DICOM series has no objects.

    Raises:
      InputError: the series or the maps cannot be read, or the series lacks what an object needs.
      EnvironmentFault: the disk refuses.
    """
    if not subject.slices or all(file(folder, subject.identifier, kind).exists() for kind in _KINDS):
        return
    files.check_contained(folder, folder / FOLDER)
    found = read.read_one(folder, subject.identifier)
    paths, name = subject.paths[: subject.slices], subject.identifier
    series = dicom.survey(paths, name, sys.maxsize)
    rate = found.sidecar.mask_rate
    anomaly = found.read(sidecar.ANOMALY)
    mask = found.detected(rate, anomaly)
    if anomaly.data.shape != series.stack.shape:
        raise InputError(name, "has maps of another shape than the series", read.UNFINISHED)
    with dicom_header.damage(paths, 0, name):
        sources, order = _sources(paths, series, name)
    with _refusals(name):
        objects = {
            _SEGMENTATION: _bytes(_segmentation(sources, dicom.frames_of(mask)[order], found)),
            _MAP: _bytes(_map(sources, dicom.frames_of(anomaly.data)[order], found)),
        }
    for kind, content in objects.items():
        files.atomic_write(file(folder, name, kind), content)


@contextlib.contextmanager
def _refusals(said: str) -> Iterator[None]:
    """Turns what highdicom raises of a series that lacks something into an InputError that quotes no value."""
    try:
        yield
    except Exception as error:
        what = error.name if isinstance(error, AttributeError) else type(error).__name__
        problem = f"cannot be referred to by a DICOM object: highdicom refuses the series ({what})"
        raise InputError(said, problem, _WITHOUT) from error


def _bytes(made: Any) -> bytes:
    content = io.BytesIO()
    made.save_as(content)
    return content.getvalue()


def _sources(paths: Sequence[pathlib.Path], series: Series, said: str) -> tuple[list[Any], np.ndarray]:
    """Returns the images that an object refers to, and for each of their frames its place in the stack."""
    if len(paths) > 1 and any(frame.number for frame in series.frames):
        problem = "is a series of several files of many frames, which no DICOM object can refer to here"
        raise InputError(said, problem, _WITHOUT)
    if len(series.frames) > 1 and len({frame.file for frame in series.frames}) == 1:
        return [_read(paths[series.frames[0].file], said)], np.argsort([frame.number for frame in series.frames])
    return [_read(paths[frame.file], said) for frame in series.frames], np.arange(len(series.frames))


def _read(path: pathlib.Path, said: str) -> Any:
    """Reads a file; a tag of the patient or the study that was removed to hide who was scanned is empty."""
    import pydicom

    found = pydicom.dcmread(path)
    if missing := [keyword for keyword in _NEEDED if not found.get(keyword)]:
        problem = f"lacks {', '.join(missing)}, which a DICOM object must refer to"
        raise InputError(said, problem, _WITHOUT)
    for keyword in _MAY_BE_EMPTY:
        if keyword not in found:
            setattr(found, keyword, "")
    return found


def _segmentation(sources: list[Any], frames: np.ndarray, found: Prediction) -> Any:
    """Makes a binary segmentation with one segment, lesion candidate; frames as `sources` hold them."""
    import highdicom
    from pydicom.sr.codedict import codes

    how = highdicom.AlgorithmIdentificationSequence(
        f"lgjax {found.sidecar.method}"[:40] + f" ({_RESEARCH})",
        codes.DCM.ArtificialIntelligence,
        found.sidecar.version or "unknown",
    )
    segment = highdicom.seg.SegmentDescription(
        1,
        "lesion candidate",
        codes.SCT.MorphologicallyAbnormalStructure,
        codes.SCT.Lesion,
        highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        how,
    )
    return highdicom.seg.Segmentation(
        sources,
        frames.astype(np.uint8),
        highdicom.seg.SegmentationTypeValues.BINARY,
        [segment],
        content_label="LESION",
        content_description=f"Anomaly score above a threshold ({_RESEARCH})",
        omit_empty_frames=False,
        **_about(_SEGMENTATION, f"lgjax lesion candidates ({_RESEARCH})", sources, frames, found),
    )


def _map(sources: list[Any], frames: np.ndarray, found: Prediction) -> Any:
    """Makes a parametric map of the score, float32; frames as `sources` hold them."""
    import highdicom
    from pydicom.sr.codedict import codes

    threshold = abs(found.sidecar.thresholds[found.sidecar.mask_rate]) or 1.0
    values = highdicom.pm.RealWorldValueMapping(
        "ANOMALY",
        f"Anomaly score ({_RESEARCH})",
        codes.UCUM.NoUnits,
        (float(frames.min()), float(frames.max())),
        slope=1.0,
        intercept=0.0,
    )
    return highdicom.pm.ParametricMap(
        sources,
        frames.astype(np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[values],
        voi_lut_transformations=[highdicom.VOILUTTransformation(threshold, 2 * threshold)],
        content_label="ANOMALY",
        content_description=f"Anomaly score of every voxel ({_RESEARCH})",
        **_about(_MAP, f"lgjax anomaly score ({_RESEARCH})", sources, frames, found),
    )


def _about(kind: str, title: str, sources: list[Any], frames: np.ndarray, found: Prediction) -> dict[str, Any]:
    """Returns what both objects say of themselves; equal content has equal UIDs, so that no archive keeps it twice."""
    from pydicom.uid import generate_uid

    told = files.digest([frames.tobytes().hex(), found.sidecar.method, found.sidecar.version])
    content = [kind, told, *(str(source.SOPInstanceUID) for source in sources)]
    return {
        "series_instance_uid": generate_uid(entropy_srcs=["series", *content]),
        "sop_instance_uid": generate_uid(entropy_srcs=content),
        "series_number": _NUMBERS[kind],
        "instance_number": 1,
        "manufacturer": "lgjax",
        "manufacturer_model_name": found.sidecar.method,
        "software_versions": found.sidecar.version or "unknown",
        "device_serial_number": "none",
        "series_description": title,
    }
