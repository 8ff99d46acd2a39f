"""DICOM series that the tests make of a volume and its affine, with pydicom alone."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.valuerep import format_number_as_ds

STUDY = uid.generate_uid(entropy_srcs=["study"])
FRAME = uid.generate_uid(entropy_srcs=["frame of reference"])


def oblique(turns=(10.0, -7.0, 12.0), zooms=(0.9, 1.1, 5.0), origin=(-80.0, 60.0, -40.0)) -> np.ndarray:
    """Returns the affine (RAS+) of a grid that is turned about three axes, in degrees."""
    rotation = np.eye(3)
    for axis, degrees in enumerate(turns):
        c, s, turn = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * zooms, origin
    return affine


def datasets(
    data: np.ndarray, affine: np.ndarray, name: str = "one", slopes: Sequence[float] = (1.0,)
) -> list[Dataset]:
    """Makes the files of a classic MR series: file k holds data[:, :, k], whose rows run along the first axis.

    Args:
      data: [X, Y, Z] uint16, as stored.
      affine: [4, 4], voxel indices -> mm (RAS+).
      name: of the series, for its UIDs.
      slopes: RescaleSlope of the slices, in turn.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    zooms = np.linalg.norm(lps[:3, :3], axis=0)
    along = [format_number_as_ds(value) for value in (lps[:3, :2] / zooms[:2]).T.ravel()]
    made = []
    for k in range(data.shape[2]):
        found = _plain(name, k)
        found.Rows, found.Columns = data.shape[1], data.shape[0]
        found.ImageOrientationPatient = along
        found.ImagePositionPatient = [format_number_as_ds(value) for value in (lps @ [0, 0, k, 1])[:3]]
        found.PixelSpacing = [format_number_as_ds(float(value)) for value in zooms[1::-1]]
        found.SliceThickness = format_number_as_ds(float(zooms[2]))
        found.RescaleSlope, found.RescaleIntercept, found.RescaleType = slopes[k % len(slopes)], 0, "US"
        found.PixelData = np.ascontiguousarray(data[:, :, k].T).astype("<u2").tobytes()
        made.append(found)
    return made


def _plain(name: str, k: int) -> Dataset:
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = uid.MRImageStorage
    found.SOPInstanceUID = uid.generate_uid(entropy_srcs=[name, str(k)])
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    found.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[name])
    found.StudyInstanceUID, found.FrameOfReferenceUID = STUDY, FRAME
    found.PatientName, found.PatientID, found.PatientBirthDate, found.PatientSex = "Roe^Ann", "4711", "19600229", "F"
    found.StudyDate, found.StudyTime, found.StudyID, found.AccessionNumber = "20240131", "120000", "1", "A99"
    found.ReferringPhysicianName, found.Manufacturer, found.PositionReferenceIndicator = "", "made", ""
    found.Modality, found.SeriesNumber, found.InstanceNumber = "MR", 5, (7 * k) % 31  # numbers say nothing of order
    found.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    found.ScanningSequence, found.SequenceVariant, found.ScanOptions, found.MRAcquisitionType = "SE", "SK", "", "2D"
    found.SeriesDescription, found.EchoTime, found.RepetitionTime = "t2_tse_tra", 95, 5000
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 0
    return found


def enhanced(made: Sequence[Dataset], order: Sequence[int]) -> Dataset:
    """Makes one Enhanced MR file of the files of a series, whose frames stand in another order."""
    from pydicom.sequence import Sequence as Items

    first = made[0]
    found = _plain("enhanced", 0)
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = uid.EnhancedMRImageStorage
    found.Rows, found.Columns, found.NumberOfFrames = first.Rows, first.Columns, len(made)
    found.PixelData = b"".join(made[k].PixelData for k in order)
    del found.EchoTime
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = Items([_only(first, "ImageOrientationPatient")])
    shared.PixelMeasuresSequence = Items([_only(first, "PixelSpacing", "SliceThickness")])
    for number, k in enumerate(order):
        frame = Dataset()
        frame.PlanePositionSequence = Items([_only(made[k], "ImagePositionPatient")])
        frame.PixelValueTransformationSequence = Items(
            [_only(made[k], "RescaleSlope", "RescaleIntercept", "RescaleType")]
        )
        frame.FrameContentSequence = Items([Dataset()])
        frame.FrameContentSequence[0].DimensionIndexValues = [number + 1]
        frames.append(frame)
    found.SharedFunctionalGroupsSequence, found.PerFrameFunctionalGroupsSequence = Items([shared]), Items(frames)
    return found


def _only(source: Dataset, *keywords: str) -> Dataset:
    found = Dataset()
    for keyword in keywords:
        found[keyword] = source[keyword]
    return found


def write(
    folder: pathlib.Path, made: Sequence[Dataset], name: Callable[[int], str] = lambda k: f"IM{(37 * k + 11) % 101:04d}"
) -> pathlib.Path:
    """Writes files under names that say nothing of their order, without an ending; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, found in enumerate(made):
        pydicom.dcmwrite(folder / name(k), found, enforce_file_format=True)
    return folder


def series(folder: pathlib.Path, data: np.ndarray, affine: np.ndarray, **settings) -> pathlib.Path:
    """Writes a classic series of a volume; returns the folder."""
    return write(folder, datasets(data, affine, **settings))
