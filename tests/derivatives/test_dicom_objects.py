"""Maps of a DICOM series are those of its NIfTI file, DICOM objects lie on it, nothing else names the patient."""

import contextlib
import io
import json
import logging
import pathlib
import warnings

import derived
import dicoms
import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import uid
from test_privacy import written

from lgjax.batch import restorations
from lgjax.derivatives import dicom, sidecar
from lgjax.runtime.errors import UsageError
from lgjax.scans import sources
from lgjax.scans.finding import listing

DATA = (derived.brain(3) * 7).astype(np.uint16)
AFFINE = dicoms.oblique(zooms=(8.0, 8.0, 20.0)) @ np.diag([1, 1, -1, 1])
CANARIES = {
    "PatientName": "Canaria^Birdie",
    "PatientID": "CANARY12",
    "PatientBirthDate": "19011231",
    "AccessionNumber": "CANARY34",
    "StudyDate": "20201130",
    "InstitutionName": "Canary Clinic",
    "ReferringPhysicianName": "Canary^Doctor",
    "StudyDescription": "canary study",
    "SeriesDescription": "t2_tse canary",
    "OtherPatientIDs": "CANARY56",
}
FORBIDDEN = ("canar", "birdie", "19011231", "20201130", dicoms.STUDY.lower(), dicoms.FRAME.lower())


def restore(scans: pathlib.Path, folder: pathlib.Path, as_dicom: bool = True) -> restorations.Outcome:
    return restorations.restore(derived.detector(), sources.find(str(scans)), folder, 1, as_dicom=as_dicom)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An export of three series, two of them in folders named after the patient, a damaged one among them."""
    place = tmp_path_factory.mktemp("place")
    for name, folder in {"a": "P01/T2", "b": "Canaria_Birdie/T2", "c": "CANARY12/T2"}.items():
        made = dicoms.datasets(DATA, AFFINE, name)
        for found in made[: 4 if name == "c" else 6]:
            for keyword, value in CANARIES.items():
                setattr(found, keyword, value)
        dicoms.write(place / "export" / folder, made[:3] + made[4:] if name == "c" else made)
    return place


@pytest.fixture(scope="module")
def told():
    """What a terminal and a log were told while the export was restored."""
    return io.StringIO()


@pytest.fixture(scope="module")
def restored(place, told):
    handler = logging.StreamHandler(told)
    logging.getLogger().addHandler(handler)
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), warnings.catch_warnings():
        warnings.simplefilter("always")
        found = sources.survey(str(place / "export"), sources.Reading())
        outcome = restorations.restore(derived.detector(), found.found, place / "out", 1, as_dicom=True)
    logging.getLogger().removeHandler(handler)
    listing.record(place / "out", found)
    told.write("\n".join([*listing.lines(found), *(str(each) + each.source for each in found.found), str(outcome)]))
    assert (outcome.total, len(outcome.failures)) == (3, 1)
    return place / "out"


def canonical(path) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.load(path))


def output(folder, entities, identifier="sub-P01"):
    return sidecar.file(folder, identifier, entities)


MASK = "label-lesion_desc-fpr1_mask"


def test_maps_are_to_the_bit_those_of_the_nifti_file(restored, place):
    nib.save(nib.Nifti1Image(DATA, AFFINE), place / "P01.nii.gz")
    restore(place / "P01.nii.gz", place / "nifti", as_dicom=False)
    for entities in (sidecar.ANOMALY, MASK, "desc-brain_mask"):
        found, expected = (canonical(output(folder, entities)) for folder in (restored, place / "nifti"))
        np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
        assert found.get_fdata().any()
    assert not (place / "nifti" / dicom.FOLDER).exists()


def as_image(volume) -> nib.Nifti1Image:
    """Returns a volume of highdicom's, LPS, as a NIfTI image in canonical order."""
    image = nib.Nifti1Image(
        np.squeeze(volume.array).astype(np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    )
    return nib.as_closest_canonical(image)


@pytest.mark.parametrize(
    ("kind", "entities"), [("label-lesion_seg", MASK), ("desc-anomaly_map", sidecar.ANOMALY)], ids=["mask", "score"]
)
def test_objects_lie_where_the_maps_do(restored, kind, entities):
    found = as_image(highdicom.imread(dicom.file(restored, "sub-P01", kind)).get_volume())
    expected = canonical(output(restored, entities))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())


def test_objects_refer_to_the_series_and_say_what_they_are(restored, place):
    series = {path: pydicom.dcmread(path) for path in (place / "export" / "P01" / "T2").iterdir()}
    first = next(iter(series.values()))
    for kind in ("label-lesion_seg", "desc-anomaly_map"):
        found = pydicom.dcmread(dicom.file(restored, "sub-P01", kind))
        assert (found.StudyInstanceUID, found.PatientID) == (first.StudyInstanceUID, first.PatientID)
        assert found.FrameOfReferenceUID == first.FrameOfReferenceUID
        assert found.SeriesInstanceUID != first.SeriesInstanceUID
        assert "research use only" in found.SeriesDescription
        referred = found.ReferencedSeriesSequence[0]
        assert referred.SeriesInstanceUID == first.SeriesInstanceUID
        instances = {each.ReferencedSOPInstanceUID for each in referred.ReferencedInstanceSequence}
        assert instances <= {each.SOPInstanceUID for each in series.values()}
    (segment,) = highdicom.seg.segread(dicom.file(restored, "sub-P01", "label-lesion_seg")).SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("lesion candidate", "AUTOMATIC")
    how = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (how.AlgorithmName, how.AlgorithmVersion) == ("lgjax intensity (research use only)", "made")


def test_objects_that_are_missing_come_without_a_restoration_and_old_ones_never_stay(restored, place, monkeypatch):
    path = dicom.file(restored, "sub-P01", "label-lesion_seg")
    before = pydicom.dcmread(path).SOPInstanceUID
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(derived.Detector, "detect", None)  # a restoration would fail
        assert restore(place / "export", place / "out").skipped == 2
    assert pydicom.dcmread(path).SOPInstanceUID == before  # the same content under the same name
    (subject,) = (each for each in sources.find(str(place / "export")) if each.identifier == "sub-P01")
    derived.detector()(subject).save(restored)
    assert not path.exists()
    assert restore(place / "export", restored).skipped == 2
    assert path.exists()


def test_enhanced_mr_is_referred_to_frame_by_frame(tmp_path):
    made = dicoms.datasets(DATA, AFFINE)
    dicoms.write(tmp_path / "P7", [dicoms.enhanced(made, (3, 0, 5, 1, 4, 2))], lambda _: "enhanced.dcm")
    assert restore(tmp_path / "P7", tmp_path / "out").failures == []
    for kind, entities in (("label-lesion_seg", MASK), ("desc-anomaly_map", sidecar.ANOMALY)):
        found = as_image(highdicom.imread(dicom.file(tmp_path / "out", "sub-P7", kind)).get_volume())
        np.testing.assert_array_equal(
            found.get_fdata(), canonical(output(tmp_path / "out", entities, "sub-P7")).get_fdata()
        )


def test_a_series_without_the_patient_s_tags_has_objects_and_one_without_a_frame_of_reference_has_not(tmp_path):
    for name, gone in {
        "P8": ("PatientName", "PatientID", "StudyTime", "StudyID"),
        "P9": ("FrameOfReferenceUID",),
    }.items():
        made = dicoms.datasets(DATA, AFFINE, name)
        for found in made:
            for keyword in gone:
                delattr(found, keyword)
            found.PatientIdentityRemoved = "YES"
        dicoms.write(tmp_path / "in" / name, made)
    ((name, told),) = restore(tmp_path / "in", tmp_path / "out").failures
    assert name == "sub-P9"
    assert "FrameOfReferenceUID" in told
    assert dicom.file(tmp_path / "out", "sub-P8", "desc-anomaly_map").exists()
    assert output(tmp_path / "out", MASK, "sub-P9").exists()


def test_dicom_objects_need_dicom_series(tmp_path):
    nib.save(nib.Nifti1Image(DATA, AFFINE), tmp_path / "P01.nii.gz")
    with pytest.raises(UsageError, match="no scan is one"):
        dicom.check(sources.find(str(tmp_path)))


def test_prepared_scans_name_no_patient_either(place, monkeypatch, capfd):
    folder = place / "Canaria_Birdie"
    for name in ("a", "b"):  # the second is a copy under another UID
        made = [pydicom.dcmread(path) for path in (place / "export/Canaria_Birdie/T2").iterdir()]
        for found in made:
            found.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[name])
        dicoms.write(folder / name, made)
    assert derived.prepare(folder, place / "prepared", monkeypatch) == 3
    told = capfd.readouterr()
    contents = {name: data.decode("latin-1") for name, data in written(place / "prepared").items()}
    texts = [*told, *contents, *contents.values()]
    assert [word for word in FORBIDDEN for text in texts if word in text.lower()] == []
    assert json.loads(contents["run.json"]) == {"Inputs": []}


def test_nothing_but_the_objects_names_the_patient(restored, told):
    contents = {name: data.decode("latin-1") for name, data in written(restored).items()}
    objects = {name: contents.pop(name) for name in list(contents) if name.startswith("dicom/")}
    texts = [told.getvalue(), *objects, *contents, *contents.values()]
    assert [word for word in FORBIDDEN for text in texts if word in text.lower()] == []
    for each in ("called by a hash", "intensity: ", "misses slices", "sub-P01"):
        assert each in told.getvalue()
    assert {"results.json", "dataset_description.json"} < set(contents)
    assert len(objects) == 4  # of two scans
    assert all("Canaria^Birdie" in data for data in objects.values())
