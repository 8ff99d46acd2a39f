"""Who was scanned, by the names that scans have and by what a table or the user says."""

import dataclasses

import images
import pytest

from lgjax.runtime.errors import UsageError
from lgjax.scans import participants, sources
from lgjax.scans.persons import likely, person_of

SAME = {  # names of one person each
    "HC000": """HC000_20210101_T2 HC000_20210608_T2 HC000_2021-01-01_T2 HC000_31.12.2020_T2w HC000_31Jan2021
        HC000_2021-Feb-03 HC000_20210101T1315_T2 HC000_20210101_131500_T2 20210101_HC000_T2 HC000_210101 HC000_2021-01
        20230101123000_HC000""",
    "P01": """P01 P01_V1 P01_v02 P01-baseline P01_followup P01_follow-up2 P01_FU1 P01-ses2 P01_ses-2 P01ses2 P01V2
        P01_m12 P01_visit-1 P01_tp2 P01_wk4 P01_pre P01_post P01_scan1 P01_retest visit1_P01""",
    "sub-07": "sub-07 sub-07_ses-1 sub-07_ses-2_run-1 sub-07_acq-tse",
    "OAS1_0001": "OAS1_0001_MR1 OAS1_0001_MR2",
    "002_S_0295": "002_S_0295_2006-04-18_T2 002_S_0295_2007-11-02_T2",
    "BraTS-GLI-00005": "BraTS-GLI-00005-000 BraTS-GLI-00005-001",
}
# Each a person of its own: no number that may be a person's stands before the date or the visit.
OTHERS = """T2_20210101 20210101_T2 20210102_T2 20230101_T2_TSE_AX_5 site2_20210101 3T_20210101 V1 V2 S0 S7 A0 B3 scan7
    m12 W39 baseline followup control_m12 HC_d12 study3_m12 Brats18_2013_11_1 Brats18_2013_12_1 Brats18_CBICA_AAB_1
    BraTS20_Training_355 BraTS-GLI-00000-000-x IXI002 IXI002-Guys-0828-T2 UCSF-PDGM-0004 phantom:train:healthy:0
    padded P01_1 P01_2 subject_12 S01_T2_2.5mm 99991399_P1"""


@pytest.mark.parametrize("person", SAME)
def test_dates_and_visits_do_not_make_another_person(person):
    assert {person_of(name) for name in SAME[person].split()} == {person}
    assert person_of("Müller 12 2021.03.04") == "Müller 12"


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_name_without_a_persons_number_is_a_person_of_its_own(name):
    assert person_of(name) == name


@pytest.mark.parametrize(
    ("names", "starts"),
    [
        ("HC001_1 HC001_2 HC002_1 HC003_1", ["HC001"]),
        ("HC001a HC001b HC002a HC002b", ["HC001", "HC002"]),
        ("P1-A P1-B", ["P1"]),
        ("0012_1 0012_2 0012_3", ["0012"]),
        ("subject_1 subject_2", []),  # no person's number before
        ("site3_1 site3_2", []),
        ("OAS1_01 OAS1_02 OAS1_03 OAS1_04 OAS1_05 OAS1_06", []),  # all of a study
        ("HC001_V1 HC001_V2", []),  # one person already
        ("sub-01_1 sub-01_2", []),
        ("Brats18_2013_10_1 Brats18_2013_11_1 Brats18_2013_27_1", []),
        ("IXI002 IXI012", []),
        ("Smith_20210101_T2 Smith_20220608_T2 Jones_20210101_T2 20210101_T2 20210102_T2", ["Smith"]),
        ("T2_20210101 T2_20210102 3T_20210101 3T_20210102 site2_20210101 site2_20210102", []),
    ],
)
def test_names_that_may_be_of_one_person(names, starts):
    assert list(likely(names.split())) == starts


def people(folder, names=("A1", "A2", "B1")):
    for number, name in enumerate(names):
        images.save(folder / f"{name}.nii", images.head((8, 8, 8), seed=number))
    return sources.find(str(folder))


def table(folder, *rows, encoding="utf-8"):
    (folder / "participants.tsv").write_bytes("\n".join("\t".join(row.split(",")) for row in rows).encode(encoding))


def test_a_column_of_the_table_tells_who_was_scanned(tmp_path):
    found = people(tmp_path)
    table(tmp_path, "participant_id,person,Patient", "A1,Zoë,x", "sub-A2,Zoë,y", "B1,n/a,y", encoding="latin-1")
    by_default = participants.annotate(found, [str(tmp_path)])
    assert [one.participant for one in by_default] == ["sub-Zoe", "sub-Zoe", "sub-B1"]
    asked = participants.annotate(found, [str(tmp_path)], "Patient")
    assert [one.participant for one in asked] == ["sub-x", "sub-y", "sub-y"]
    noted = [dataclasses.replace(one, person="sub-noted") for one in found]  # when the scan was prepared
    assert {one.participant for one in participants.annotate(noted, [str(tmp_path)])} == {"sub-noted"}


def test_a_pattern_tells_who_was_scanned(tmp_path):
    found = participants.annotate(people(tmp_path), [str(tmp_path)], "^([A-Z])")
    assert [one.participant for one in found] == ["sub-A", "sub-A", "sub-B"]


@pytest.mark.parametrize(
    ("person", "message"),
    [
        ("subject", "--person=subject is no column, for the table holds participant_id, age"),
        ("(A[0-9])", r"does not fit the name B1"),
        ("A([0-9]", "such as"),
        ("A()", "does not fit the name A1"),
    ],
)
def test_what_tells_nobody_is_refused(tmp_path, person, message):
    found = people(tmp_path)
    table(tmp_path, "participant_id,age", "A1,30")
    with pytest.raises(UsageError) as raised:
        participants.annotate(found, [str(tmp_path)], person)
    assert message in str(raised.value)


def test_without_a_table_a_column_is_refused_and_nothing_is_changed(tmp_path):
    found = people(tmp_path)
    assert participants.annotate(found, [str(tmp_path)]) == found
    with pytest.raises(UsageError, match="holds no participants"):
        participants.annotate(found, [str(tmp_path)], "person")


@pytest.mark.parametrize(
    ("column", "values", "kinds"),
    [
        ("lesion_kind", ("glioma", "healthy", "n/a"), ("glioma", "healthy", "")),
        ("lesion_kind", ("odd", "", ""), ("odd", "", "")),
        ("group", ("patient", "control", "Controls"), ("patient", "healthy", "healthy")),
        ("Diagnosis", ("MS", "HC", "CN"), ("MS", "healthy", "healthy")),
        ("dx", ("AD", "MCI", "NC"), ("AD", "MCI", "healthy")),
        ("group", ("patients", "patients", ""), ("patients", "patients", "")),
        ("group", ("young", "old", "old"), ("", "", "")),  # all healthy, as far as anybody says
        ("group", ("A", "B", "unknown"), ("", "", "")),
        ("sex", ("F", "M", "M"), ("", "", "")),
    ],
)
def test_a_column_tells_the_ill_from_the_healthy(tmp_path, column, values, kinds):
    found = people(tmp_path)
    table(tmp_path, f"participant_id,{column}", *(f"{n},{v}" for n, v in zip(("A1", "A2", "B1"), values, strict=True)))
    assert tuple(one.kind for one in participants.annotate(found, [str(tmp_path)])) == kinds


@pytest.mark.parametrize("kind", ["", "n/a", "healthy", "Healthy", "control", "Healthy_Controls", "HC", "none"])
def test_words_for_the_healthy(kind):
    assert participants.is_healthy(kind)


@pytest.mark.parametrize("kind", ["glioma", "MS", "patient", "ms lesion", "unhealthy", "isointense"])
def test_words_for_the_ill(kind):
    assert not participants.is_healthy(kind)


def test_a_pattern_leaves_the_ill_ill(tmp_path):
    found = people(tmp_path)
    table(tmp_path, "participant_id,group", "A1,patient", "A2,control", "B1,control")
    annotated = participants.annotate(found, [str(tmp_path)], "^([A-Z])")
    assert [(one.participant, one.kind) for one in annotated] == [
        ("sub-A", "patient"),
        ("sub-A", "healthy"),
        ("sub-B", "healthy"),
    ]


def test_a_table_of_other_names_is_told(tmp_path, caplog):
    found = people(tmp_path)
    table(tmp_path, "participant_id,lesion_kind", "P1,glioma", "P2,glioma")
    assert participants.annotate(found, [str(tmp_path)]) == found
    assert "participants.tsv tells of none of these scans" in caplog.text
    caplog.clear()
    table(tmp_path, "participant_id,lesion_kind", "A1,glioma", "P2,healthy")
    participants.annotate(found, [str(tmp_path)])
    assert not caplog.text
    table(tmp_path, "participant_id,lesion_kind", "A1,glioma", "P2,glioma")
    participants.annotate(found, [str(tmp_path)])
    assert "ill people who are none of these scans (P2), and does not tell of sub-A2, sub-B1" in caplog.text


def test_a_column_of_the_table_that_is_the_input(tmp_path):
    found = people(tmp_path)
    table(tmp_path, "participant_id,image,who", "A1,A1.nii,x", "A2,A2.nii,x", "B1,B1.nii,")
    annotated = participants.annotate(found, [str(tmp_path / "participants.tsv")], "who")
    assert [one.participant for one in annotated] == ["sub-x", "sub-x", "sub-B1"]


def test_every_folder_s_table_tells_of_its_own_people(tmp_path):
    kinds = {"first": ("A1", "healthy"), "second": ("B1", "glioma")}
    for folder, (name, kind) in kinds.items():
        images.save(tmp_path / folder / f"{name}.nii.gz", images.head((4, 5, 6)))
        (tmp_path / folder / "participants.tsv").write_text(f"participant_id\tdiagnosis\nsub-{name}\t{kind}\n")
    specs = [str(tmp_path / folder) for folder in kinds]
    found = [subject for spec in specs for subject in sources.find(spec)]
    assert [one.kind for one in participants.annotate(found, specs)] == ["healthy", "glioma"]
    (tmp_path / "first" / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-B1\thealthy\n")
    with pytest.raises(UsageError, match="differ about sub-B1"):
        participants.annotate(found, specs)


@pytest.mark.parametrize(
    "kind", ["healthy volunteer", "Normal control", "control subjects", "no lesion", "CTL", "HV", "healthy-controls"]
)
def test_usual_words_for_healthy(kind):
    assert participants.is_healthy(kind)


@pytest.mark.parametrize("kind", ["no surgery", "unhealthy", "control lesion", "patient", "volunteer", "not healthy"])
def test_words_that_do_not_say_healthy(kind):
    assert not participants.is_healthy(kind)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (("participant_id,diagnosis", "A1,glioma", "A1,healthy"), "glioma"),  # a row a session
        (("participant_id,diagnosis", "A1,healthy", "A1,glioma"), "glioma"),
        (("participant_id,lesion_kind,group", "A1,n/a,patient", "A2,n/a,control"), "patient"),
        (("participant_id,group,disease", "A1,control,none", "A2,patient,glioma"), "healthy"),
        (("participant_id,status", "A1,patient", "A2,control"), "patient"),
        (("participant_id,lesion_kind,dx", "A1,healthy,stroke", "A2,healthy,control"), "stroke"),
    ],
)
def test_who_is_ill_in_one_row_or_one_column_is_ill(tmp_path, rows, kind):
    found = people(tmp_path)
    table(tmp_path, *rows)
    by_name = {one.original: one.kind for one in participants.annotate(found, [str(tmp_path)])}
    assert by_name["A1"] == kind


def test_the_table_beside_a_scan_and_names_without_their_t2(tmp_path):
    images.save(tmp_path / "pat1_T2.nii.gz", images.head((4, 5, 6)))
    table(tmp_path, "participant_id,lesion_kind", "pat1,glioma")
    scan = str(tmp_path / "pat1_T2.nii.gz")
    assert [one.kind for one in participants.annotate(sources.find(scan), [scan])] == ["glioma"]
