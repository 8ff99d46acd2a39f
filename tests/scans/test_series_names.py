"""Who was scanned names no series, whichever file of the series says who, and whichever file says nothing."""

import functools
import itertools
import pathlib
import shutil

import derived
import dicoms
import images
import nibabel as nib
import numpy as np
import pydicom
import pytest

from lgjax.preparation import pipeline, recipe
from lgjax.preparation.slices import Grid
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import dicom_identity, sources
from lgjax.scans.finding import series

DATA = (derived.brain(3) * 7).astype(np.uint16)[6:14:2, 6:15:2, :6]
AFFINE = dicoms.oblique()
COUNT = DATA.shape[2]
WHO = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate")


def write(folder: pathlib.Path, made=None) -> pathlib.Path:
    return dicoms.write(folder, made or dicoms.datasets(DATA, AFFINE), lambda k: f"{k:03d}")


def emptied(found):
    for keyword in WHO:
        setattr(found, keyword, "")
    return found


def of_all(**values):
    made = dicoms.datasets(DATA, AFFINE)
    for found in made:
        for keyword, value in values.items():
            setattr(found, keyword, value)
    return made


def stub(path: pathlib.Path) -> None:
    path.write_bytes(bytes(128) + b"DICM")


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:480])


def garbled(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:132] + bytes(reversed(content[132:])))


def empty(path: pathlib.Path) -> None:
    pydicom.dcmwrite(path, emptied(pydicom.dcmread(path)), enforce_file_format=True)


def anonymous(path: pathlib.Path) -> None:
    found = emptied(pydicom.dcmread(path))
    found.PatientName, found.PatientID = "Anonymous^^", "000000"
    pydicom.dcmwrite(path, found, enforce_file_format=True)


def truncated(path: pathlib.Path) -> None:
    path.write_bytes(b"")


FAULTS = (stub, cut, garbled, empty, anonymous, truncated)
FILES = {"first": [0], "middle": [2], "last": [COUNT - 1], "all but one": [0, 1, 2, 4, 5], "all": range(COUNT)}


def check_hidden(root: pathlib.Path, inputs: list[str], words=("roe", "ann")) -> str:
    """Checks that nothing of a listing names the patient, and returns the name of the scan."""
    listing = sources.survey(str(root), sources.Reading())
    (subject,) = listing.found
    name = subject.identifier
    told = f"{name} {subject.original} {subject.source} {subject.said} {listing.notes} {listing.left_out}"
    assert not [word for word in words if word in told.lower()]
    assert len(name) == 12
    assert subject.source == f"series:{name[4:]}"
    assert series.nameable(inputs, listing.found) == []
    return name


@pytest.mark.parametrize(
    ("fault", "which"),
    [pair for pair in itertools.product(FAULTS, FILES) if pair != (truncated, "all")],  # such a folder holds no DICOM
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_a_file_that_says_nothing_does_not_let_the_folder_tell(tmp_path, which, fault):
    folder = write(tmp_path / "in" / "Roe_Ann" / "T2")
    whole = check_hidden(tmp_path / "in", [str(folder), str(folder.parent)])
    for k in FILES[which]:
        fault(folder / f"{k:03d}")
    name = check_hidden(tmp_path / "in", [str(folder), str(folder.parent)])
    assert name == check_hidden(folder, [str(folder), str(folder.parent)])
    if which != "all" or fault in (empty, anonymous):
        assert name == whole  # the UID of the series is known still


def test_a_file_that_cannot_be_read_makes_any_name_suspect(tmp_path):
    folder = write(tmp_path / "in" / "Birdie" / "T2")
    (subject,) = sources.find(str(tmp_path / "in"))
    assert subject.identifier == "sub-Birdie"
    cut(folder / "003")
    inputs = [str(tmp_path / "in"), str(folder), str(folder / "..")]
    assert check_hidden(tmp_path / "in", inputs, ("birdie",)) == check_hidden(folder, inputs, ("birdie",))


def test_without_any_identity_the_content_names_the_scan(tmp_path):
    names = []
    for place in ("one", "two"):
        folder = write(tmp_path / place / "Roe_Ann", of_all(SeriesInstanceUID=None))
        names.append(check_hidden(tmp_path / place, [str(folder)]))
        folder.rename(folder.with_name("Ann_Roe"))
    assert names[0] == names[1]
    other = write(tmp_path / "three" / "Roe_Ann", of_all(SeriesInstanceUID=None, EchoTime=96))
    assert check_hidden(tmp_path / "three", [str(other)]) != names[0]


def text(path: pathlib.Path) -> None:
    path.write_text("a web page")


def dead_link(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("fault", [truncated, stub, garbled, dead_link, text])
@pytest.mark.parametrize("name", ["Roe_Ann.dcm", "Roe_Ann.IMA"])
def test_a_single_file_that_cannot_be_read_is_not_called_by_its_name(tmp_path, name, fault):
    path = write(tmp_path / "in", dicoms.datasets(DATA, AFFINE)[:1]) / "000"
    path = path.rename(path.with_name(name))
    fault(path)
    check_hidden(path, [str(path), str(path.parent)])
    (subject,) = sources.find(str(path))
    with pytest.raises(InputError) as told:
        subject.image()
    assert "roe" not in str(told.value).lower()


@pytest.mark.parametrize("place", ["Roe_Ann/loc", "P1/loc_RoeAnn", "Roe_Ann"])
def test_what_is_left_out_is_not_named_after_the_patient_of_another_series(tmp_path, place):
    write(tmp_path / "P1" / "T2")
    nameless = of_all(PatientIdentityRemoved="YES", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(tmp_path / place, nameless)
    write(tmp_path / "P2" / "loc", nameless)
    listing = sources.survey(str(tmp_path), sources.Reading())
    names = [name for name, _ in listing.left_out]
    assert len(names) == 2
    assert "P2/loc" in names
    assert not [word for word in ("roe", "ann") if word in str(names).lower()]


@pytest.mark.parametrize("fault", [stub, cut, garbled])
def test_what_was_removed_by_its_own_account_needs_every_file(tmp_path, fault):
    folder = write(tmp_path / "P01", of_all(PatientIdentityRemoved="YES", PatientName="", PatientID=""))
    (subject,) = sources.find(str(tmp_path))
    assert subject.identifier == "sub-P01"
    assert series.nameable([str(tmp_path), str(folder)], [subject]) == [str(tmp_path), str(folder)]
    fault(folder / "004")
    assert sources.find(str(tmp_path))[0].identifier != "sub-P01"


def test_one_file_of_another_patient_is_compared_too(tmp_path):
    made = dicoms.datasets(DATA, AFFINE)
    made[4].PatientName = "Zebra^Quagga"
    write(tmp_path / "quagga", made)
    check_hidden(tmp_path, [str(tmp_path / "quagga")], ("quagga",))


def test_a_link_tells_where_it_leads(tmp_path):
    folder = write(tmp_path / "Roe_Ann" / "T2")
    for name, target in (("one", folder), ("two", folder.parent)):
        (tmp_path / name).symlink_to(target)
        check_hidden(tmp_path / name, [str(tmp_path / name)])


def test_a_series_that_two_folders_hold_is_refused_and_tells_nothing(tmp_path):
    for name in ("Roe_Ann", "Ann"):
        shutil.copytree(write(tmp_path / "x"), tmp_path / "in" / name / "T2")
    listing = sources.survey(str(tmp_path / "in"), sources.Reading())
    (subject,) = listing.found
    with pytest.raises(Exception, match="two scans that would both be") as refused:
        subject.image()
    assert not [word for word in ("roe", "ann/") if word in f"{refused.value}{subject.source}".lower()]
    assert series.nameable([str(tmp_path / "in" / "Roe_Ann")], listing.found) == []


def test_a_table_may_lie_in_a_folder_named_after_the_patient(tmp_path):
    write(tmp_path / "in" / "Roe_Ann" / "T2")
    for place, image in ((tmp_path / "in", "Roe_Ann/T2"), (tmp_path / "in" / "Roe_Ann", "T2")):
        (place / "table.tsv").write_text(f"participant_id\timage\nP7\t{image}\n")
        subjects = sources.find(str(place / "table.tsv"))
        assert subjects[0].identifier == "sub-P7"
        told = series.nameable([str(place / "table.tsv")], subjects)
        assert told == ([] if place.name == "Roe_Ann" else [str(place / "table.tsv")])


def truncated_mask(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:90])


def missing_mask(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("Roe_Ann_gone.nii"))


def twin_mask(path: pathlib.Path) -> None:
    images.save(path.with_name(f"{path.name}.gz"), np.zeros(DATA.shape, np.uint8), AFFINE)


def pair_mask(path: pathlib.Path) -> None:
    nib.save(nib.Nifti1Pair(np.ones(DATA.shape, np.uint8), AFFINE), path.with_suffix(".img"))
    path.with_suffix(".img").unlink()
    path.unlink()


@pytest.mark.parametrize("given", [False, True], ids=["found", "given"])
@pytest.mark.parametrize("fault", [truncated_mask, missing_mask, twin_mask, pair_mask])
def test_a_fault_of_a_mask_beside_a_series_names_no_file(tmp_path, fault, given):
    folder = write(tmp_path / "T2_Roe_Ann")
    path = images.save(tmp_path / "T2_Roe_Ann_mask.nii", np.ones(DATA.shape, np.uint8), AFFINE)
    fault(path)
    path = path if fault is not pair_mask else path.with_suffix(".hdr")
    (subject,) = sources.find(str(folder), mask=str(path)) if given else sources.find(str(tmp_path))
    told = []
    for each in (subject.mask, functools.partial(sources.digest, subject)):
        try:
            each()
        except InputError as error:
            told.append(str(error))
    assert told or (fault is twin_mask and given)
    assert all(one.startswith(f"the mask {'given for' if given else 'beside'} the series: ") for one in told)
    assert not [one for one in told if "roe" in one.lower() or str(tmp_path) in one]


def test_a_mask_that_does_not_fit_is_passed_over_without_its_name(tmp_path):
    write(tmp_path / "T2_Roe_Ann", dicoms.datasets((derived.brain(3) * 7).astype(np.uint16), AFFINE))
    images.save(tmp_path / "T2_Roe_Ann_mask.nii", np.ones((3, 3, 3), np.uint8))
    (subject,) = sources.find(str(tmp_path))
    found = pipeline.correct(subject, recipe.bare(Grid(32, 32, 8.0)))
    (note,) = found.image.warnings
    assert note.startswith("the mask beside the series, found by its name, is passed over: the mask is on another grid")


def test_dicom_files_in_other_layouts_and_by_a_shell_s_pattern_are_counted_alone(tmp_path):
    images.save(tmp_path / "P1" / "T2.nii", derived.brain(1), derived.GRID)
    folder = write(tmp_path / "P2" / "Roe_Ann")
    for listing in (
        sources.survey(str(tmp_path), sources.Reading()),
        sources.survey_files([str(tmp_path / "P1" / "T2.nii"), *map(str, folder.iterdir())], sources.Reading()),
    ):
        assert len(listing.found) == 1
        assert [name for name, _ in listing.left_out] == [f"{COUNT} files, names untold"]
    with pytest.raises(UsageError, match=r"None of the 6 files is a scan\. Left out, a DICOM file") as fault:
        sources.survey_files(list(map(str, folder.iterdir())), sources.Reading())
    assert "roe" not in str(fault.value).lower()


SPELLED = {
    "Roe^Ann": ["roe-ann", "AnnRoe", "annroe_T2", "Roe1", "x.ROE.y", "RÖE"],
    "Müller^Jörg": ["mueller", "Muller_J", "JOERG", "müller2", "Mu\u0308ller"],
    "Sørensen^Łucja": ["Sorensen", "soerensen", "lucja"],
    "Weiß^Zoë": ["weiss", "Zoe", "WEISS_ZOE"],
    "Li^Wu": ["LiWu", "wuli", "li_1", "WU"],
    "Yamada^Tarou=山田^太郎=やまだ^たろう": ["yamada", "山田太郎", "山田T2", "たろう"],
    "王^伟": ["王伟", "王伟_T2"],
    "Roe^Ann^Mary^Dr^PhD": ["MaryRoe", "annmary"],
}


@pytest.mark.parametrize(("name", "folder"), [(name, each) for name, folders in SPELLED.items() for each in folders])
def test_a_name_is_known_by_any_spelling(tmp_path, name, folder):
    found = dicoms.datasets(DATA, AFFINE)[0]
    found.SpecificCharacterSet, found.PatientName = "ISO_IR 192", name
    identity = dicom_identity.of([write(tmp_path, [found]) / "000"])
    assert dicom_identity.tells(identity, folder)
    assert not dicom_identity.tells(identity, "T2_tse_tra")


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_letters_of_another_coding_than_the_header_says_are_known(tmp_path, coding):
    found = dicoms.datasets(DATA, AFFINE)[0]
    found.PatientName = "M__ller^Ann"
    path = write(tmp_path, [found]) / "000"
    path.write_bytes(path.read_bytes().replace(b"M__ller", "Müller".encode(coding).ljust(7)))
    assert dicom_identity.tells(dicom_identity.of([path]), "mueller")


def with_items(found):
    item = pydicom.Dataset()
    item.PatientID = "Q815"
    found.OtherPatientIDsSequence = [item]


@pytest.mark.parametrize(
    ("change", "folder"),
    [
        ({"PatientID": "0004711"}, "4711"),
        ({"PatientID": "MRN-004711"}, "p4711"),
        ({"PatientID": "12"}, "case12"),
        ({"OtherPatientIDs": ["A7", "B815"]}, "b815"),
        ({"OtherPatientNames": "Moe^Joe"}, "moe"),
        ({"PatientBirthName": "Smith"}, "Smith_T2"),
        ({"ResponsiblePerson": "Parent^Of"}, "parent"),
        ({"PatientBirthDate": "19600229"}, "29-02-1960"),
        ({"AcquisitionDate": "20240202"}, "x20240202"),
        (with_items, "Q815_T2"),
    ],
)
def test_other_texts_that_tell_are_known(tmp_path, change, folder):
    found = dicoms.datasets(DATA, AFFINE)[0]
    if callable(change):
        change(found)
    else:
        for keyword, value in change.items():
            setattr(found, keyword, value)
    identity = dicom_identity.of([write(tmp_path, [found]) / "000"])
    assert dicom_identity.tells(identity, folder)
    assert not dicom_identity.tells(identity, "visit_baseline")
