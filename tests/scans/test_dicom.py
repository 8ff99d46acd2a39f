"""DICOM series against NIfTI files of the same scan, against highdicom's reader and against dcm2niix."""

import itertools
import random
import shutil
import subprocess

import derived
import dicoms
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import uid

from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import dicom, dicom_header, memory, sources
from lgjax.scans.finding import series

DATA = (derived.brain(3) * 7).astype(np.uint16)[:, :, :6]
AFFINE = dicoms.oblique()
SIGNS = [np.array(signs) for signs in itertools.product((1, -1), repeat=3)]


def read(folder):
    return dicom.read(dicom_header.files_of(folder), str(folder), 10**7)


def canonical(data, affine):
    return nib.as_closest_canonical(nib.Nifti1Image(np.asarray(data, np.float32), affine))


def check_same(volume, data, affine):
    found, expected = canonical(volume.data, volume.affine), canonical(data, affine)
    np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in expected.shape])))
    for each in corners:
        np.testing.assert_allclose(found.affine[:3] @ [*each, 1], expected.affine[:3] @ [*each, 1], atol=1e-4)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", SIGNS, ids=str)
def test_a_series_in_any_direction_is_the_volume_that_it_was_made_of(tmp_path, axes, signs):
    turned = AFFINE[:, [*axes, 3]] * [*signs, 1]
    small = DATA[6:14:2, 6:15:2, 1:6]
    dicoms.series(tmp_path, small, turned)
    check_same(read(tmp_path), small, turned)


def test_slope_and_intercept_are_those_of_each_slice(tmp_path):
    made = dicoms.datasets(DATA, AFFINE, slopes=(0.5, 2.0, 0.25))
    for k, found in enumerate(made):
        found.RescaleIntercept = -k
    expected = DATA * np.array([0.5, 2.0, 0.25] * 2) - np.arange(6)
    check_same(read(dicoms.write(tmp_path, made)), expected, AFFINE)


def test_enhanced_mr_keeps_the_scale_and_the_place_of_each_frame(tmp_path):
    made = dicoms.datasets(DATA, AFFINE, slopes=(0.5, 2.0))
    dicoms.write(tmp_path, [dicoms.enhanced(made, (3, 0, 5, 1, 4, 2))], lambda _: "enhanced.dcm")
    expected = DATA * np.array([0.5, 2.0] * 3)
    check_same(read(tmp_path), expected, AFFINE)
    check_same(memory.read(tmp_path / "enhanced.dcm").image(), expected, AFFINE)


def test_what_is_packed_without_loss_and_what_has_a_sign_is_read(tmp_path):
    made = dicoms.datasets(DATA, AFFINE)
    for k, found in enumerate(made):
        found.PixelRepresentation = 1
        found.PixelData = (np.ascontiguousarray(DATA[:, :, k].T).astype("<i2") - 100).tobytes()
        found.compress(uid.RLELossless, generate_instance_uid=False)
    check_same(read(dicoms.write(tmp_path, made)), DATA - 100.0, AFFINE)


def test_the_grid_is_highdicoms(tmp_path):
    import highdicom

    dicoms.series(tmp_path, DATA, AFFINE)
    found = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in tmp_path.iterdir()])
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    check_same(read(tmp_path), found.array, to_ras @ found.affine)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 2, 0)], ids=["axial", "coronal", "sagittal"])
def test_the_voxels_and_their_order_are_those_of_dcm2niix(tmp_path, axes):
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not installed")
    turned = AFFINE[:, [*axes, 3]] * [-1, -1, 1, 1]
    dicoms.series(tmp_path / "in", DATA, turned, slopes=(0.5,))
    subprocess.run([program, "-b", "n", "-z", "n", "-f", "scan", "-o", tmp_path, tmp_path / "in"], check=True)
    expected, found = nib.load(tmp_path / "scan.nii"), read(tmp_path / "in")
    np.testing.assert_array_equal(found.data, expected.get_fdata())
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


def test_the_digest_does_not_depend_on_names_and_order(tmp_path):
    made = dicoms.datasets(DATA, AFFINE)
    first = sources.find(str(dicoms.write(tmp_path / "one", made)))[0]
    shuffled = random.Random(3).sample(range(6), 6)
    second = sources.find(str(dicoms.write(tmp_path / "two", made, lambda k: f"{shuffled[k]}.dcm")))[0]
    assert sources.digest(first) == sources.digest(second)
    assert first.image().sha256 == second.image().sha256
    made[2].PixelData = made[3].PixelData
    third = sources.find(str(dicoms.write(tmp_path / "three", made)))[0]
    assert sources.digest(third) != sources.digest(first)


def changed(**values):
    """Returns a change of one file: tags by keyword."""

    def change(made):
        for keyword, value in values.items():
            setattr(made[2], keyword, value)
        return made

    return change


def of_all(**values):
    def change(made):
        for found in made:
            for keyword, value in values.items():
                setattr(found, keyword, value)
        return made

    return change


def compressed(made):
    for found in made:
        found.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
        found.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        found["PixelData"].VR = "OB"
    return made


def coloured(made):
    for found in made:
        found.SamplesPerPixel, found.PhotometricInterpretation, found.PlanarConfiguration = 3, "RGB", 0
    return made


def another(**values):
    """Returns a series of other images at the same places, some of whose tags differ, beside the first."""

    def change(made):
        return made + of_all(**values)(dicoms.datasets(DATA, AFFINE, values.get("name", "two")))

    return change


def sheared(made):
    for k, found in enumerate(made):
        x, y, z = map(float, found.ImagePositionPatient)
        found.ImagePositionPatient = [x + k, y, z]
    return made


SAME = dicoms.datasets(DATA, AFFINE)[0].SeriesInstanceUID
REFUSED = {
    "a slice is missing": (lambda made: made[:2] + made[3:], "misses slices: 1 gap of up to 10 mm"),
    "uneven": (changed(ImagePositionPatient=["80.2", "-59", "-31.5"]), "uneven distances|misses slices"),
    "copies": (lambda made: [*made, *made], "12 images of which some are copies"),
    "echoes": (another(SeriesInstanceUID=SAME, EchoTime=12), "echoes of 12, 95 ms"),
    "repetitions": (another(SeriesInstanceUID=SAME), "12 images at 6 places"),
    "two series": (another(SeriesNumber=8), "holds 2 series: number 5 of 6 files, number 8 of 6 files"),
    "sheared": (sheared, "shifted against each other"),
    "three directions": (changed(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "2 directions, as a localizer"),
    "localizer": (of_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
    "CT": (of_all(Modality="CT"), "modality CT, not MR"),
    "JPEG": (compressed, "JPEG Lossless.*pylibjpeg"),
    "colour": (coloured, "RGB, not MONOCHROME2"),
    "cut short": (changed(PixelData=bytes(100)), r"cut short: file \d of 6 by name.*Copy or download"),
    "one slice": (lambda made: made[:1], "holds one slice"),
    "no place": (of_all(ImagePositionPatient=None), "does not say where its slices lie"),
    "not finite": (changed(ImagePositionPatient=["nan", "0", "0"]), "does not say where its slices lie"),
    "another size": (changed(PixelSpacing=[2, 2]), "more than one pixel size"),
    "no right angle": (of_all(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not at right angles"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_series_of_one_stack_is_refused_by_name(tmp_path, case):
    change, told = REFUSED[case]
    with pydicom.config.disable_value_validation():
        dicoms.write(tmp_path, change(dicoms.datasets(DATA, AFFINE)), lambda k: f"{k:03d}")
    with pytest.raises(InputError, match=told):
        read(tmp_path)


def test_no_value_is_warned_of_although_another_thread_has_read_its_file_meanwhile(monkeypatch):
    monkeypatch.setattr(pydicom.config, "settings", pydicom.config.Settings())
    with pytest.warns(UserWarning, match="quagga"):
        pydicom.DataElement("Modality", "CS", "quagga")
    one, other = (dicom_header.damage([], 0, "it") for _ in range(2))
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    pydicom.DataElement("Modality", "CS", "quagga")  # else the warning would be an error
    other.__exit__(None, None, None)
    pydicom.DataElement("Modality", "CS", "quagga")


def test_a_file_cut_off_in_its_header_is_refused(tmp_path):
    dicoms.series(tmp_path, DATA, AFFINE)
    path = sorted(tmp_path.iterdir())[0]
    whole = path.read_bytes()
    for size in (140, 300, 400, 700, 1000, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut short|misses|more than one series|does not say"):
            read(tmp_path)


def test_a_series_of_too_many_voxels_is_refused_from_its_headers(tmp_path):
    dicoms.series(tmp_path, DATA, AFFINE)
    with pytest.raises(InputError, match="max_voxels"):
        dicom.read(dicom_header.files_of(tmp_path), "it", 100)


def test_the_frames_of_a_volume_are_those_of_the_files(tmp_path):
    dicoms.series(tmp_path, DATA, AFFINE)
    paths = dicom_header.files_of(tmp_path)
    found, surveyed = read(tmp_path), dicom.survey(paths, "it", 10**7)
    for frame, pixels in zip(surveyed.frames, dicom.frames_of(found.data), strict=True):
        np.testing.assert_array_equal(pixels, pydicom.dcmread(paths[frame.file]).pixel_array)


def test_a_tree_of_series_lists_each_folder_and_leaves_out_other_sequences(tmp_path):
    for patient in ("P01", "P02"):
        dicoms.series(tmp_path / patient / "T2_tse", DATA, AFFINE, name=patient)
        localizer = of_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(dicoms.datasets(DATA, AFFINE, "l"))
        dicoms.write(tmp_path / patient / "S1", localizer)
        t1 = of_all(SeriesDescription="t1_mprage", EchoTime=3)(dicoms.datasets(DATA, AFFINE, "t1"))
        dicoms.write(tmp_path / patient / "S2", t1)
    dicoms.write(tmp_path, [dicoms.datasets(DATA, AFFINE, "disc")[0]], lambda _: "DICOMDIR")
    (tmp_path / "P01" / "T2_tse" / "notes.txt").write_text("by hand")
    (tmp_path / "P01" / "T2_tse" / ".DS_Store").write_bytes(bytes(9))
    listing = sources.survey(str(tmp_path), sources.Reading())
    assert [subject.identifier for subject in listing.found] == ["sub-P01", "sub-P02"]
    assert [subject.source for subject in listing.found] == ["bids:raw:P01/T2_tse", "bids:raw:P02/T2_tse"]
    assert {name: reason for name, reason in listing.left_out if name.startswith("P01")} == {
        "P01/S1": "a localizer by ImageType in its header",
        "P01/S2": "T1 by SeriesDescription in its header",
    }
    everything = sources.survey(str(tmp_path), sources.Reading(any_sequence=True))
    assert len(everything.found) == 6
    for subject in listing.found:
        check_same(subject.image(), DATA, AFFINE)


def test_a_study_in_one_folder_is_refused_although_its_first_file_is_t1(tmp_path):
    t1 = of_all(SeriesDescription="t1_mprage", EchoTime=3)(dicoms.datasets(DATA, AFFINE, "t1"))
    dicoms.write(tmp_path, [*t1, *dicoms.datasets(DATA, AFFINE)], lambda k: f"IM{k:04d}")
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match="holds 2 series"):
        subject.image()


def test_a_report_beside_the_images_is_passed_over(tmp_path):
    dicoms.series(tmp_path, DATA, AFFINE)
    report = dicoms.datasets(DATA, AFFINE, "report")[0]
    report.Modality = "SR"
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = uid.BasicTextSRStorage
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    dicoms.write(tmp_path, [report], lambda _: "SR0001")
    check_same(read(tmp_path), DATA, AFFINE)


@pytest.mark.parametrize(
    "folder",
    ["Roe_Ann", "ANN-ROE", "p4711b", "1960-02-29", "29.02.1960", "scan_20240131", "röe", dicoms.STUDY],
)
def test_a_folder_named_after_the_patient_names_nothing(tmp_path, folder):
    dicoms.series(tmp_path / folder / "T2", DATA, AFFINE)
    dicoms.series(tmp_path / "P9" / "T2", DATA, AFFINE, name="other")
    listing = sources.survey(str(tmp_path), sources.Reading())
    names = [subject.identifier for subject in listing.found]
    assert "sub-P9" in names
    (hidden,) = set(names) - {"sub-P9"}
    assert len(hidden) == 12
    (subject,) = (each for each in listing.found if each.identifier == hidden)
    assert subject.source == f"series:{hidden[4:]}"
    assert hidden in listing.notes[0]
    assert "table.tsv" in listing.notes[0]
    (alone,) = sources.find(str(tmp_path / folder / "T2"))
    assert alone.identifier == hidden
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / folder)
        assert sources.find("T2")[0].identifier == hidden
    inputs = [str(tmp_path), str(tmp_path / folder), str(tmp_path / "P9")]
    assert series.nameable(inputs, listing.found) == [inputs[0], inputs[2]]


def test_a_pseudonym_is_kept_where_the_header_says_that_it_is_one(tmp_path):
    made = of_all(PatientIdentityRemoved="YES", PatientID="P01", PatientName="P01")(dicoms.datasets(DATA, AFFINE))
    dicoms.write(tmp_path / "P01" / "T2", made)
    (subject,) = sources.find(str(tmp_path))
    assert subject.identifier == "sub-P01"


def test_a_table_names_series_as_the_user_likes(tmp_path):
    dicoms.series(tmp_path / "Roe_Ann", DATA, AFFINE)
    (tmp_path / "table.tsv").write_text("participant_id\timage\nP7\tRoe_Ann\n")
    (subject,) = sources.find(str(tmp_path / "table.tsv"))
    assert (subject.identifier, subject.source) == ("sub-P7", "series:P7")
    check_same(subject.image(), DATA, AFFINE)


def test_read_takes_the_folder_of_one_series(tmp_path):
    dicoms.series(tmp_path / "T2", DATA, AFFINE)
    mask = nib.Nifti1Image((read(tmp_path / "T2").data > 0).astype(np.uint8), read(tmp_path / "T2").affine)
    nib.save(mask, tmp_path / "T2_mask.nii.gz")
    subject = memory.read(tmp_path / "T2")
    check_same(subject.image(), DATA, AFFINE)
    assert subject.mask().data.sum() == mask.get_fdata().sum()
    nib.save(mask, tmp_path / "given.nii.gz")
    assert memory.read(tmp_path / "T2", mask=tmp_path / "given.nii.gz").mask().source == "the mask given for the series"
    with pytest.raises(UsageError, match="folder or a table"):
        memory.read(tmp_path)
    dicoms.series(tmp_path / "T2" / "more", DATA, AFFINE, name="more")
    with pytest.raises(UsageError, match="series in folders of their own"):
        memory.read(tmp_path / "T2")
