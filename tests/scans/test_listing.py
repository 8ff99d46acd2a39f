"""All that is found is one subject each, and all that is passed over is named with its reason."""

import gzip
import importlib.util
import shutil

import images
import nibabel as nib
import numpy as np
import pytest

from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError
from lgjax.scans import sources, tables
from lgjax.scans.finding import listing
from lgjax.scans.sources import Reading

SCAN = images.head((8, 9, 7))
MASK = (SCAN > 0).astype(np.uint8)


def make(root, *names, data=SCAN):
    for name in names:
        images.save(root / name, data)


def survey(root, **reading):
    return sources.survey(str(root), Reading(**reading))


def names(found) -> list[str]:
    return [subject.identifier for subject in found.found]


def reasons(found) -> dict[str, str]:
    return {each.name: each.reason for each in found.left_out}


def fails(subject, *words):
    with pytest.raises(InputError) as caught:
        subject.image()
    for word in words:
        assert word in str(caught.value)


# BIDS subjects without a T2w scan


def test_people_without_a_t2w_scan_are_named(tmp_path):
    make(tmp_path, *(f"sub-{n:02d}/anat/sub-{n:02d}_T1w.nii.gz" for n in (1, 2, 3, 4)), "sub-01/anat/sub-01_T2w.nii.gz")
    (tmp_path / "sub-05/anat").mkdir(parents=True)
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\nsub-09\n")
    found = survey(tmp_path)
    assert names(found) == ["sub-01"]
    assert reasons(found) == {
        **dict.fromkeys(("sub-02", "sub-03", "sub-04", "sub-05"), "no T2 scan"),
        "sub-09": "in participants.tsv, without a folder",
    }
    assert listing.lines(found)[0] == "left out, no T2 scan: 4 (sub-02, sub-03, sub-04, sub-05)"
    found = survey(tmp_path / "sub-01/anat")
    assert names(found) == ["sub-01"]
    assert reasons(found) == {"sub-01_T1w.nii.gz": "T1 by its name"}
    with pytest.raises(UsageError, match=r"T1 by its name: 1 \(anat/sub-02_T1w"):
        survey(tmp_path / "sub-02")


def test_sessions_without_a_t2w_scan_are_named(tmp_path):
    make(tmp_path, "sub-1/ses-a/anat/sub-1_ses-a_T2w.nii.gz", "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz")
    assert reasons(survey(tmp_path)) == {"sub-1/ses-b": "no T2 scan"}


def test_cases_of_brats_and_ixi_without_t2_are_named(tmp_path):
    make(tmp_path / "b", "BraTS_1/BraTS_1_t2.nii.gz", "BraTS_1/BraTS_1_t1.nii.gz", "BraTS_2/BraTS_2_flair.nii.gz")
    make(tmp_path / "b", "BraTS-GLI-3-0-t1c.nii.gz")
    assert reasons(survey(tmp_path / "b")) == dict.fromkeys(("BraTS_2", "BraTS-GLI-3-0"), "no T2 scan")
    make(tmp_path / "i", "IXI002-Guys-0828-T2.nii.gz", "IXI002-Guys-0828-T1.nii.gz", "IXI050-Guys-0711-T1.nii.gz")
    make(tmp_path / "i", "other.nii.gz")
    assert reasons(survey(tmp_path / "i")) == {
        "IXI050": "no T2 scan",
        "other.nii.gz": "not named like IXI's T2 scans",
    }


def test_people_of_cam_can_without_a_t2w_scan_are_named(tmp_path):
    make(tmp_path, "r/anat/sub-CC1/anat/sub-CC1_T2w.nii.gz", "r/anat/sub-CC2/anat/sub-CC2_T1w.nii.gz")
    assert reasons(survey(tmp_path)) == {"r/anat/sub-CC2": "no T2 scan"}


# Folders of patients


def test_a_folder_for_each_patient(tmp_path):
    make(tmp_path, *(f"patient{n:02d}/T2.nii.gz" for n in (1, 2, 3)), "patient03/T1.nii.gz", "patient04/FLAIR.nii.gz")
    found = survey(tmp_path)
    assert names(found) == ["sub-patient01", "sub-patient02", "sub-patient03"]
    assert reasons(found) == {"patient03/T1.nii.gz": "T1 by its name", "patient04/FLAIR.nii.gz": "FLAIR by its name"}
    assert names(survey(tmp_path, layout="nested")) == names(found)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["A/P1/T2.nii", "A/P2/T2.nii", "B/P1/T2.nii"], ["sub-AP1", "sub-AP2", "sub-BP1"]),
        (["P1/20200101/T2.nii", "P1/20210101/T2.nii"], ["sub-P1_ses-20200101", "sub-P1_ses-20210101"]),
        (["P1/baseline/x.nii", "P1/follow-up/x.nii"], ["sub-P1_ses-baseline", "sub-P1_ses-followup"]),
        (["P1/T2/img.nii", "P1/T1/img.nii", "P2/T2/img.nii"], ["sub-P1", "sub-P2"]),
        (["P1/T2_ax.nii", "P1/T2_sag.nii"], ["sub-P1_acq-T2ax", "sub-P1_acq-T2sag"]),
        (["P1/V1/P1_T2_ax.nii", "P1/V1/P1_T2_cor.nii"], ["sub-P1_ses-V1_acq-P1T2ax", "sub-P1_ses-V1_acq-P1T2cor"]),
        (["siteA/P1.nii", "siteA/P2.nii"], ["sub-siteAP1", "sub-siteAP2"]),
        (["T2/P1.nii", "T2/P2.nii", "T1/P1.nii"], ["sub-P1", "sub-P2"]),
        (["sub-01/T2.nii", "sub-02/T2.nii"], ["sub-01", "sub-02"]),
        (["PD/P1/scan.nii", "HC/P1/scan.nii"], ["sub-HCP1", "sub-PDP1"]),
    ],
)
def test_the_part_of_the_path_that_tells_scans_apart_names_them(tmp_path, paths, expected):
    make(tmp_path, *paths)
    found = survey(tmp_path)
    assert names(found) == expected
    assert len({subject.participant for subject in found.found}) == len({name.split("_")[0] for name in expected})


def test_echoes_of_one_series_are_not_several_patients(tmp_path):
    make(
        tmp_path,
        "P1/T2_e1.nii",
        "P1/T2_e2.nii",
        "P1/T2_e3.nii",
        "P2/PD_T2_5_e1.nii",
        "P2/PD_T2_5_e2.nii",
        "P3/T2_e2.nii",
    )
    (tmp_path / "P2/PD_T2_5_e1.json").write_text('{"EchoTime": 0.011}')
    (tmp_path / "P2/PD_T2_5_e2.json").write_text('{"EchoTime": 0.1}')
    found = survey(tmp_path)
    assert names(found) == ["sub-P2", "sub-P3"]
    assert list(found.found[0].paths) == [tmp_path / "P2/PD_T2_5_e2.nii"]
    assert [name for name, reason in reasons(found).items() if "echoes" in reason] == [
        f"P1/T2_e{number}.nii" for number in (1, 2, 3)
    ]


def test_patients_whose_names_have_no_latin_letter_stay_apart(tmp_path):
    make(tmp_path, "患者一/T2.nii", "患者二/T2.nii")
    found = survey(tmp_path)
    assert len(set(names(found))) == 2
    for subject in found.found:
        np.testing.assert_array_equal(subject.image().data, SCAN)


def test_masks_and_labels_in_folders_of_patients_are_no_patients(tmp_path):
    make(tmp_path, "P1/T2.nii", "P2/T2.nii", "derivatives/P1/T2.nii")
    make(tmp_path, "P1/brain_mask.nii", "P2/T2_mask.nii", "labels/P1.nii", "P1/seg.nii", data=MASK)
    found = survey(tmp_path)
    assert names(found) == ["sub-P1", "sub-P2"]
    assert [subject.paths[1].name for subject in found.found] == ["brain_mask.nii", "T2_mask.nii"]


def test_scans_below_a_plain_folder_are_told(tmp_path):
    make(tmp_path, "a.nii", "more/b.nii", "more/c.nii", "deep/er/d.nii", "labels/a_mask.nii")
    found = survey(tmp_path)
    assert names(found) == ["sub-a"]
    assert reasons(found) == dict.fromkeys(("deep", "more"), listing.BELOW)


def test_results_inside_the_input_are_no_patients(tmp_path):
    make(tmp_path, "P1/T2.nii", "prepared/sub-P1/anat/sub-P1_desc-preproc_T2w.nii.gz")
    (tmp_path / "prepared/dataset_description.json").write_text('{"GeneratedBy": [{"Name": "lgjax"}]}')
    assert names(survey(tmp_path)) == ["sub-P1"]
    make(tmp_path, "a.nii")
    assert reasons(survey(tmp_path)) == {"P1": listing.BELOW}


# What is no scan


def test_files_in_other_formats_are_named_with_the_remedy(tmp_path):
    make(tmp_path, "a.nii", "b_mask.nii", "c_desc-anomaly_T2w.nii")
    for name in ("d.mgz", "e.nii.xz", "notes.txt", "picture.png", "table.tsv", "f.nrrd"):
        (tmp_path / name).write_text("x")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "lonely.img.gz").write_bytes(b"")
    found = reasons(survey(tmp_path))
    assert found.keys() == {
        *(
            "b_mask.nii",
            "c_desc-anomaly_T2w.nii",
            "d.mgz",
            "e.nii.xz",
            "f.nrrd",
            "1 file, names untold",
            "lonely.img.gz",
        )
    }
    assert "mri_convert" in found["d.mgz"]
    assert "dcm2niix" in found["1 file, names untold"]
    assert ".hdr" in found["lonely.img.gz"]


def test_a_dicom_export_beside_each_scan_is_counted(tmp_path):
    make(tmp_path, "P1/T2.nii")
    (tmp_path / "P1/dicom").mkdir()
    for number in range(30):
        (tmp_path / "P1/dicom" / f"IM{number:04d}").write_bytes(bytes(128) + b"DICM")
    (line,) = listing.lines(survey(tmp_path))
    assert "a DICOM file" in line
    assert ": 1 (30 files, names untold)" in line


def test_a_folder_of_dicom_files_is_one_scan_and_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "series").mkdir()
    for number in range(7):
        (tmp_path / "series" / f"1.2.840.{number}").write_bytes(bytes(128) + b"DICM" + bytes(9))
    for root in (tmp_path, tmp_path / "series"):
        (subject,) = survey(root).found
        assert subject.source == f"series:{subject.identifier[4:]}"  # no file says that the folder tells nothing
        with pytest.raises(InputError, match="damaged"):
            subject.image()
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None)
            with pytest.raises(EnvironmentFault, match=r"lgjax\[dicom\].*dcm2niix") as fault:
                survey(root)
            assert str(tmp_path) not in str(fault.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("B_1/B_1_t2.nii/B_1_t2.nii", "B_2/B_2_t2.nii.gz"),
        ("B_1_t2.nii/B_1_t2.nii", "B_2_t2.nii.gz"),
        ("BraTS_1/BraTS_1_t2.nii/BraTS_1_t2.nii", "BraTS_2/BraTS_2_t2.nii.gz"),
        ("sub-1/anat/sub-1_T2w.nii.gz/sub-1_T2w.nii", "sub-2/anat/sub-2_T2w.nii.gz"),
        ("IXI002-Guys-0828-T2.nii.gz/IXI002-Guys-0828-T2.nii.gz", "IXI012-HH-1211-T2.nii.gz"),
    ],
)
def test_folders_that_an_unpacker_named_like_scans(tmp_path, first, second):
    make(tmp_path, first, second)
    mask = first.split("/")[-1].replace(".nii", "_mask.nii")
    make(tmp_path / first.rpartition("/")[0] / "..", f"{mask}/{mask}", data=MASK)
    found = survey(tmp_path)
    assert len(found.found) == 2
    assert [subject.mask is not None for subject in found.found] == [True, False]
    for subject in found.found:
        np.testing.assert_array_equal(subject.image().data, SCAN)


# Two files of one name


@pytest.mark.parametrize("other", ["A.nii", "A.hdr", "A.hdr.gz"])
@pytest.mark.parametrize("same", [True, False])
def test_two_files_of_one_name_are_one_scan_or_fail_alone(tmp_path, other, same):
    make(tmp_path, "A.nii.gz", "B.nii.gz")
    data = SCAN if same else SCAN + 1
    if other == "A.nii":
        make(tmp_path, other, data=data)
    else:
        images.save(tmp_path / "A.hdr", data, cls=nib.Nifti1Pair)
        same = False  # its bytes differ from those of the single file
    if other.endswith(".gz"):
        for part in ("A.hdr", "A.img"):
            (tmp_path / f"{part}.gz").write_bytes(gzip.compress((tmp_path / part).read_bytes()))
            (tmp_path / part).unlink()
    found = survey(tmp_path)
    first, second = found.found
    np.testing.assert_array_equal(second.image().data, SCAN)
    if same:
        np.testing.assert_array_equal(first.image().data, SCAN)
        assert reasons(found) == {"A.nii.gz": "the same as A.nii"}
    else:
        fails(first, "two scans that would both be sub-A", f"{tmp_path}/{other}", f"{tmp_path}/A.nii.gz", "Keep one")


@pytest.mark.parametrize(
    "paths",
    [
        ["sub-1/anat/sub-1_T2w.nii", "sub-1/anat/sub-1_desc-preproc_T2w.nii"],
        ["sub-1/anat/sub-1_space-MNI_T2w.nii", "sub-1/anat/sub-1_space-orig_T2w.nii"],
        ["sub-1/anat/sub-1_res-2_T2w.nii", "sub-1/anat/sub-1_res-1_T2w.nii", "sub-1/anat/sub-1_T2w.nii"],
        ["sub-1/anat/sub-1_T2w.nii", "sub-1/anat/sub-1_T2w.nii.gz"],
    ],
)
def test_an_image_of_a_subject_that_cannot_be_chosen_fails_alone(tmp_path, paths):
    for number, path in enumerate(paths):
        make(tmp_path, path, data=SCAN + number)
    make(tmp_path, "sub-2/anat/sub-2_T2w.nii")
    first, second = survey(tmp_path).found
    fails(first, *(str(tmp_path / path) for path in paths), "Keep one")
    np.testing.assert_array_equal(second.image().data, SCAN)


def test_one_scan_twice_in_a_table_beside_a_folder_of_its_own(tmp_path):
    make(tmp_path, "scans/A.nii", "scans/A.nii.gz", "scans/B_T1.nii")
    (tmp_path / "study").mkdir()
    rows = ["participant_id\timage", "A\t../scans/A.nii", "A\t../scans/A.nii.gz", "B\t../scans/B_T1.nii"]
    (tmp_path / "study/table.tsv").write_text("\n".join(rows))
    found = survey(tmp_path / "study/table.tsv")
    np.testing.assert_array_equal(found.found[0].image().data, SCAN)
    assert [each.reason for each in found.left_out] == ["the same as A.nii"]
    fails(found.found[1], "B_T1.nii", "T1 by its name", "--any_sequence")
    assert survey(tmp_path / "study/table.tsv", any_sequence=True).found[1].image().data.shape == SCAN.shape


def test_a_damaged_twin_is_no_twin(tmp_path):
    make(tmp_path, "A.nii")
    (tmp_path / "A.nii.gz").write_bytes(b"/annex/objects/KEY\n")
    fails(survey(tmp_path).found[0], "A.nii.gz", "Keep one")


def test_two_masks_of_one_name(tmp_path):
    make(tmp_path, "A.nii")
    make(tmp_path, "A_mask.nii", "A_mask.nii.gz", data=MASK)
    (subject,) = survey(tmp_path).found
    np.testing.assert_array_equal(subject.mask().data, MASK)
    make(tmp_path, "A_mask.nii.gz", data=1 - MASK)
    with pytest.raises(InputError, match=r"not the same mask as A_mask\.nii"):
        survey(tmp_path).found[0].mask()


# participants.tsv


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("participant_id\tsite\tlesion_kind\nsub-01\tZürich\tglioma\n".encode("latin-1"), "Latin-1"),
        ("participant_id\tlesion_kind\nsub-01\tglioma\n".encode("utf-16"), "UTF-16"),
        ("participant_id\tlesion_kind\r\nsub-01\tglioma\r\n".encode("utf-16-le"), "UTF-16"),
        ("\ufeffparticipant_id\tlesion_kind\nsub-01\tglioma\n".encode(), ""),
        (b"participant_id\tlesion_kind\tage\nsub-02\nsub-01\tglioma\t3\textra\n", "another length"),
        (b"participant_id,lesion_kind\nsub-01,glioma\n", "separated by ','"),
        ("participant_id\tsite\tlesion_kind\rsub-01\tZ…\tglioma\r".encode("cp1252"), "Latin-1"),
        (b"Participant_ID \tLesion_Kind\n\n01\tglioma\n\n", ""),
        (b'participant_id\tlesion_kind\nsub-01\t"glioma"\n', ""),
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path, content, note):
    make(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_bytes(content)
    found = survey(tmp_path)
    assert found.found[0].kind == "glioma"
    assert [note in each for each in found.notes] == ([True] if note else [])
    assert [line for line in listing.lines(found) if line.startswith("note: participants.tsv")] == [
        f"note: {each}" for each in found.notes
    ]


@pytest.mark.parametrize(
    "content", [b"", b"name\tage\nx\t3\n", b"PK\x03\x04\0\0\xff\xff\xd8", b"a\tb\n" + b'"' * 200_000]
)
def test_a_table_that_cannot_be_used_stops_no_scan(tmp_path, content):
    make(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_bytes(content)
    found = survey(tmp_path)
    np.testing.assert_array_equal(found.found[0].image().data, SCAN)
    assert "is not used" in found.notes[0]


def test_a_table_that_is_a_folder(tmp_path):
    assert "is not used" in tables.read(tmp_path).notes[0]


# The last lines and the record


NINE = [listing.LeftOut(f"sub-{n}", listing.NO_T2) for n in range(9)]


def test_lines_count_by_reason_and_show_some_names():
    left = (*NINE, listing.LeftOut("a\tb\nc", "T1 by its name"))
    lines = listing.lines(listing.Listing([], left, ("a note",)))
    assert lines == [
        "left out, no T2 scan: 9 (sub-0, sub-1, sub-2, sub-3, sub-4, 4 more)",
        "left out, T1 by its name: 1 (a\\tb\\nc)",
        "Rename what is T2 after all, or take all sequences with --any_sequence.",
        "note: a note",
    ]


def test_the_record_lists_all_and_goes_when_nothing_is_left_out(tmp_path):
    listing.record(tmp_path, listing.Listing([], (*NINE, listing.LeftOut("a\nb", "x"))))
    rows = (tmp_path / "left_out.tsv").read_text().splitlines()
    assert rows == ["name\treason", *(f"sub-{n}\tno T2 scan" for n in range(9)), "a\\nb\tx"]
    listing.record(tmp_path, listing.Listing([]))
    assert not (tmp_path / "left_out.tsv").exists()


def test_find_tells_the_log_what_is_left_out(tmp_path, caplog):
    make(tmp_path, "a.nii", "b_T1.nii")
    assert len(sources.find(str(tmp_path))) == 1
    assert "T1 by its name: 1 (b_T1.nii)" in caplog.text
    shutil.rmtree(tmp_path)


# Several files, as a shell's pattern names them


def chosen(root, *patterns, **reading):
    paths = [str(path) for pattern in patterns for path in sorted(root.glob(pattern))]
    return sources.survey_files(paths, Reading(**reading))


def test_all_files_of_a_folder_are_not_all_scans(tmp_path):
    make(tmp_path, "a_T2.nii", "b_T2.nii", "c_FLAIR.nii")
    make(tmp_path, "a_T2_mask.nii", "a_T2_seg.nii", "z_mask.nii", data=MASK)
    images.save(tmp_path / "d_T2.img", SCAN, cls=nib.Nifti1Pair)
    for name in ("a_T2.json", "notes.txt", "e.mgz"):
        (tmp_path / name).write_text("x")
    found = chosen(tmp_path, "*")
    assert names(found) == ["sub-aT2", "sub-bT2", "sub-cFLAIR", "sub-dT2", "sub-emgz"]
    assert reasons(found) == {
        "z_mask.nii": "a mask or label of no scan here",
        "notes.txt": "no image by its name",
    }
    a, b, c, d, e = found.found
    np.testing.assert_array_equal(a.mask().data, MASK)
    for subject in (a, b, d):
        np.testing.assert_array_equal(subject.image().data, SCAN)
    fails(c, "c_FLAIR.nii", "FLAIR by its name", "--any_sequence")
    fails(e, "e.mgz", "mri_convert")
    assert [subject.source for subject in (a, d)] == ["bids:raw:a_T2.nii", "bids:raw:d_T2.hdr"]


def test_files_of_one_name_in_folders_of_patients(tmp_path, monkeypatch):
    make(tmp_path, "P1/T2.nii", "P2/T2.nii", "P3/anat/T2.nii")
    assert names(chosen(tmp_path, "*/T2.nii", "*/anat/T2.nii")) == ["sub-P1", "sub-P2", "sub-P3"]
    monkeypatch.chdir(tmp_path)
    found = sources.survey_files(["P1/T2.nii", "P2/T2.nii"], Reading())
    assert names(found) == ["sub-P1", "sub-P2"]
    assert [subject.source for subject in found.found] == ["bids:raw:P1/T2.nii", "bids:raw:P2/T2.nii"]


def test_of_named_files_two_with_one_name_fail_alone(tmp_path):
    make(tmp_path, "a.nii", "b.nii", "b.nii.gz")
    make(tmp_path, "a.nii.gz", data=SCAN + 1)
    found = chosen(tmp_path, "*.nii*")
    assert names(found) == ["sub-a", "sub-b"]
    fails(found.found[0], "a.nii", "a.nii.gz", "Keep one")
    assert reasons(found) == {"b.nii.gz": "the same as b.nii"}


def test_named_files_without_a_scan(tmp_path):
    make(tmp_path, "a_mask.nii", "b_mask.nii", data=MASK)
    with pytest.raises(UsageError, match=r"None of the 2 files is a scan\. Left out, a mask or label .*a_mask\.nii"):
        chosen(tmp_path, "*")
    make(tmp_path, "c.nii", "d.nii")
    with pytest.raises(UsageError, match="goes with a folder"):
        chosen(tmp_path, "?.nii", layout="bids")


def test_files_of_two_places_one_given_from_the_root(tmp_path, monkeypatch):
    make(tmp_path, "here/a.nii.gz", "there/b.nii.gz")
    monkeypatch.chdir(tmp_path / "here")
    for paths in (["a.nii.gz", str(tmp_path / "there" / "b.nii.gz")], [str(tmp_path / "there/b.nii.gz"), "a.nii.gz"]):
        assert names(sources.survey_files(paths, Reading())) == ["sub-a", "sub-b"]


def test_of_a_folder_named_like_a_scan_the_sidecar_is_no_scan(tmp_path):
    make(tmp_path, "X_T2.nii/X_T2.nii")
    (tmp_path / "X_T2.nii" / "X_T2.json").write_text("{}")
    paths = [str(tmp_path / "X_T2.nii" / name) for name in ("X_T2.nii", "X_T2.json")]
    assert names(sources.survey_files(paths, Reading())) == ["sub-XT2"]


def test_a_folder_with_another_sequence_alone_in_a_folder_named_like_it(tmp_path):
    make(tmp_path, "X_FLAIR.nii/X_FLAIR.nii")
    with pytest.raises(UsageError, match="holds no scan"):
        survey(tmp_path)


def test_folders_of_labels_hold_no_patients(tmp_path):
    make(tmp_path, "images/p1/T2.nii.gz", "gt/p2/T2.nii.gz", "lesions/p3/T2.nii.gz", "manual/p4/T2.nii.gz")
    assert names(survey(tmp_path)) == ["sub-p1"]


def test_a_bids_folder_without_t2w_is_no_folder_of_patients(tmp_path):
    make(
        tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/fmap/sub-01_phasediff.nii.gz", "sub-01/anat/sub-01_UNIT1.nii"
    )
    with pytest.raises(UsageError, match="BIDS folder without a T2w scan"):
        survey(tmp_path)
