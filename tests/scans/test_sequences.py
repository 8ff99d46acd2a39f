"""Which sequence names and sidecars say, and that another than T2 is left out by name."""

import json

import images
import numpy as np
import pytest

from lgjax.evaluation import references
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import memory, sources
from lgjax.scans.finding import sequences
from lgjax.scans.sources import Reading

SCAN = images.head((8, 9, 7))


def survey(root, **reading):
    return sources.survey(str(root), Reading(**reading))


def names(listing) -> list[str]:
    return [subject.identifier for subject in listing.found]


@pytest.mark.parametrize(
    ("sequence", "said"),
    [
        ("T2", "20230101_T2_TSE_AX_5 t2_blade_tra AX_T2_PROPELLER axT2 rT2 3DT2 HC000_20210101_T2 sub-01_T2w"),
        ("T2", "T2_to_T1 T2_in_FLAIR_space sub-01_space-FLAIR_T2w PD_012_T2 sub-FLAIR1_T2w T2_SPACE_MPR phase2_P1_T2"),
        (
            "T2",
            "T2_N4_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI T2toFLAIR T22FLAIR T2w_coreg_to_FLAIR_brain T2_2FLAIR",
        ),
        ("T1", "20230101_T1_MPRAGE_3 sub-01_T1w T1ce t1gd wrT1 3DT1 T1_to_T2 IXI002-Guys-0828-T1 mp2rage subject1T1w"),
        ("T1", "T1_T2like"),
        ("T2", "T2_T1like"),
        ("FLAIR", "20230101_FLAIR_6 T2FLAIR t2_flair sub-01_acq-FLAIR_T2w t2_tirm_dark-fluid_5 BraTS-GLI-1-0-t2f"),
        (
            "FLAIR",
            "FLAIR_regtoT2 T2_FLAIR_regtoT1 regtoFLAIR patient_2FLAIR T2_autoFLAIR T2_2_FLAIR FLAIR_T2_regtoFLAIR",
        ),
        ("DWI", "dwi ep2d_diff_3scan_trace_p2 sub-01_dwi DTI_64dir"),
        ("ADC", "ADC_7 ep2d_diff_ADC"),
        ("SWI or T2*", "SWI_Images T2star t2*_fl2d gre_t2 SWI_mIP swan T2_FFE"),
        ("a T2 map", "T2_map T2map"),
        ("STIR", "COR_STIR_T2"),
        ("a phase image", "T2_TSE_5_ph sub-01_part-phase_T2w swi_phase"),
        ("a real or imaginary part", "sub-01_part-imag_T2w T2_5_real"),
        ("a localizer", "localizer_1 3-plane_loc AAHScout AAHead_Scout survey"),
        ("PD", "IXI002-Guys-0828-PD ax_pd PDw PD_3"),
        ("BOLD", "task-rest_bold rsfmri"),
        ("an angiogram", "IXI002-Guys-0828-MRA TOF_3D"),
        ("balanced SSFP", "CISS_3D trufisp"),
        ("", "scan A1 patient7 PD_001 loc-12 Patient_T12 brain masked BraTS2021 phase2_P01 S01_V1 HT10"),
    ],
)
def test_what_a_name_says(sequence, said):
    for name in said.split():
        assert (name, sequences.named(name)) == (name, sequence)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"SeriesDescription": "t1_mprage_sag"}, "T1 by SeriesDescription"),
        ({"SeriesDescription": "ax brain", "ProtocolName": "FLAIR_long"}, "FLAIR by ProtocolName"),
        ({"SeriesDescription": "t2_tse", "ProtocolName": "T1_T2_FLAIR_brain"}, ""),
        ({"SequenceName": "*ep2d_b1000t"}, "DWI by SequenceName"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "a phase image by ImageType"),
        ({"ImageType": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}, "ADC by ImageType"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "FLUID_ATTENUATED", "NONE"]}, "FLAIR by ImageType"),
        ({"ScanningSequence": "GR_IR", "SeriesDescription": "sag iso"}, "a gradient echo by ScanningSequence"),
        ({"ScanningSequence": "EP", "SeriesDescription": "b1000"}, "an echo-planar image by ScanningSequence"),
        ({"ScanningSequence": "SE_GR"}, ""),
        ({"SequenceName": "*tfl3d1_16ns"}, "T1 by SequenceName"),
        ({"SequenceName": "*tse2d1_15"}, ""),
        ({"SeriesDescription": "pd_t2_tse", "EchoTime": 0.011}, "T1 or PD by EchoTime"),
        ({"SeriesDescription": "t2_tse", "EchoTime": 0.1, "InversionTime": 2.5}, "FLAIR by InversionTime"),
        ({"Modality": None, "SeriesDescription": None, "EchoTime": None}, ""),
        ({"Modality": "CT"}, "CT by Modality"),
        ({"EchoTime": 0.00296, "RepetitionTime": 2.3}, "T1 or PD by EchoTime"),
        ({"EchoTime": 0.09, "InversionTime": 2.5}, "FLAIR by InversionTime"),
        ({"EchoTime": 0.1, "RepetitionTime": 5}, ""),
        ({"EchoTime": "short", "ImageType": 5, "SeriesDescription": None}, ""),
        ([], ""),
    ],
)
def test_what_a_sidecar_says_of_a_name_that_says_nothing(tmp_path, record, reason):
    images.save(tmp_path / "series5.nii.gz", SCAN)
    images.save(tmp_path / "series6.nii.gz", SCAN)
    (tmp_path / "series5.json").write_text(json.dumps(record))
    listing = survey(tmp_path)
    assert names(listing) == (["sub-series6"] if reason else ["sub-series5", "sub-series6"])
    assert [each.reason.startswith(reason) for each in listing.left_out] == ([True] if reason else [])


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ("B0 B1 B2 B3", "B0 B1 B2 B3"),  # people
        ("T1 T2 T3", "T1 T2 T3"),
        ("t1 t2", "t2"),
        ("T1 T2 S1", "S1 T2"),
        ("b0 P1 P2", "P1 P2"),
        ("B0 B1", "B1"),
    ],
)
def test_a_letter_and_a_number_are_a_sequence_unless_others_count_on(tmp_path, files, found):
    for number, name in enumerate(files.split()):
        images.save(tmp_path / f"{name}.nii", SCAN + number)
    assert names(survey(tmp_path)) == [f"sub-{name}" for name in found.split()]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_damaged_sidecar_says_nothing(tmp_path, content):
    images.save(tmp_path / "series5.nii.gz", SCAN)
    (tmp_path / "series5.json").write_bytes(content)
    assert names(survey(tmp_path)) == ["sub-series5"]


def test_what_dcm2niix_makes_of_one_visit(tmp_path):
    for name in ("20230101_T2_TSE_AX_5", "20230101_T1_MPRAGE_3", "20230101_FLAIR_6", "20230101_T2_TSE_AX_5_Crop_1"):
        images.save(tmp_path / f"{name}.nii.gz", SCAN)
    listing = survey(tmp_path)
    assert names(listing) == ["sub-20230101T2TSEAX5"]
    assert {each.name: each.reason for each in listing.left_out} == {
        "20230101_T1_MPRAGE_3.nii.gz": "T1 by its name",
        "20230101_FLAIR_6.nii.gz": "FLAIR by its name",
        "20230101_T2_TSE_AX_5_Crop_1.nii.gz": "made of a scan beside it",
    }
    assert len(survey(tmp_path, any_sequence=True).found) == 3


def test_a_name_that_says_t2_and_a_sidecar_that_says_flair(tmp_path):
    """A data set that calls its FLAIR scans T2w, as some do."""
    for name in ("01", "02"):
        images.save(tmp_path / f"sub-{name}/anat/sub-{name}_T2w.nii.gz", SCAN)
    (tmp_path / "sub-02/anat/sub-02_T2w.json").write_text('{"SeriesDescription": "t2_flair_tra"}')
    listing = survey(tmp_path)
    assert names(listing) == ["sub-01"]
    assert [(each.name, each.reason) for each in listing.left_out] == [
        ("sub-02/anat/sub-02_T2w.nii.gz", "FLAIR by SeriesDescription in its sidecar"),
        ("sub-02", "no T2 scan"),
    ]


@pytest.mark.parametrize("entity", ["part-phase", "acq-flair", "acq-STIR", "part-imag", "acq-swi"])
def test_a_t2w_image_of_bids_whose_entities_say_otherwise(tmp_path, entity):
    images.save(tmp_path / "sub-01/anat/sub-01_T2w.nii.gz", SCAN)
    images.save(tmp_path / f"sub-01/anat/sub-01_{entity}_T2w.nii.gz", SCAN + 1)
    listing = survey(tmp_path)
    assert names(listing) == ["sub-01"]
    assert [each.name for each in listing.left_out] == [f"sub-01/anat/sub-01_{entity}_T2w.nii.gz"]


def test_one_file_of_another_sequence_is_refused_by_name_unless_asked_for(tmp_path):
    path = images.save(tmp_path / "patient_FLAIR.nii.gz", SCAN)
    (subject,) = sources.find(str(path))
    for read in (subject.image, memory.read(path).image):
        with pytest.raises(InputError, match=r"patient_FLAIR.*FLAIR by its name.*--any_sequence"):
            read()
    for subject in (*sources.find(str(path), any_sequence=True), memory.read(path, any_sequence=True)):
        np.testing.assert_array_equal(subject.image().data, SCAN)


def test_references_of_another_sequence_are_found_where_they_are_asked_for(tmp_path):
    images.save(tmp_path / "a_FLAIR.nii.gz", SCAN)
    images.save(tmp_path / "a_FLAIR_seg.nii.gz", (SCAN > 150).astype(np.uint8))
    with pytest.raises(UsageError, match="--any_sequence"):
        references.find(str(tmp_path))
    found = references.find(str(tmp_path), any_sequence=True).subjects["sub-aFLAIR"]
    np.testing.assert_array_equal(references.read(found, found.image()).lesion, SCAN > 150)


def test_a_folder_of_other_sequences_alone_says_which(tmp_path):
    for name in ("a_T1", "b_T1", "c_FLAIR"):
        images.save(tmp_path / f"{name}.nii.gz", SCAN)
    with pytest.raises(UsageError) as caught:
        survey(tmp_path)
    for words in ("holds no scan", "T1 by its name: 2 (a_T1.nii.gz, b_T1.nii.gz)", "FLAIR by its name: 1"):
        assert words in str(caught.value)
    assert str(caught.value).endswith("--any_sequence.")
    assert "\n" not in str(caught.value)
