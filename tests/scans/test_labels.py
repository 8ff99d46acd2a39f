"""Which file is the reference of a scan, as public data sets name them, and which of its values are lesion."""

import hashlib
import json
import pathlib

import images
import numpy as np
import pytest

from lgjax.evaluation import references
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.finding import labels

SCAN = images.head((8, 9, 7))
LESION = np.zeros(SCAN.shape, np.uint8)
LESION[3:5, 4:6, 3:5] = 1


def make(root, scans, masks=(), values=1):
    for number, name in enumerate(scans):
        images.save(root / f"{name}.nii.gz", SCAN + number * (SCAN > 0))
    for name in masks:
        images.save(root / f"{name}.nii.gz", LESION * np.uint8(values))


def chosen(root) -> dict[str, list[str]]:
    """The names of the files that may be the reference of each scan."""
    found = sources.find(str(root))
    return {s.original: [p.name.removesuffix(".nii.gz") for p in s.guess.args[1].paths] for s in found}


def read(root):
    (subject,) = sources.find(str(root))
    return references.read(subject, subject.image())


@pytest.mark.parametrize(
    "name",
    [
        "derivatives/manual/sub-01/anat/sub-01_label-L_desc-T1lesion_mask",  # ATLAS v2
        "derivatives/manual/sub-01/anat/sub-01_space-orig_label-L_mask",  # BIDS' own abbreviation
        "derivatives/lesion_masks/sub-01/anat/sub-01_desc-lesion_mask",  # SOOP
        "derivatives/labels/sub-01/anat/sub-01_lesion-manual",  # ivadomed
        "derivatives/labels/sub-01/anat/sub-01_T2w_lesion-manual",
        "derivatives/labels/sub-01/anat/sub-01_T2w_label-lesion_seg",
        "derivatives/labels/sub-01/anat/sub-01_PSIR_lesion-manual",
        "derivatives/sub-01/sub-01_msk",  # ISLES 2022: no folder anat
        "derivatives/any/sub-01/anat/sub-01_acq-T2sel_FLAIR_roi",  # the FCD of Bonn
        "sub-01/anat/sub-01_label-lesion_mask",
        "sub-01/anat/sub-01_desc-tumor_dseg",
        "sub-01/anat/sub-01_seg",
        "sub-01/anat/sub-01_T2w_seg",
        "sub-01/anat/sub-01_label-WMH_mask",
    ],
)
def test_references_of_bids_data_sets(tmp_path, name):
    make(tmp_path, ["sub-01/anat/sub-01_T2w"], [name])
    found = read(tmp_path)
    np.testing.assert_array_equal(found.lesion, LESION > 0)
    assert found.source == str(tmp_path / f"{name}.nii.gz")
    assert found.note == ""


@pytest.mark.parametrize(
    "name",
    [
        "sub-01/anat/sub-01_desc-brain_mask",
        "sub-01/anat/sub-01_label-GM_probseg",
        "sub-01/anat/sub-01_label-SC_seg",
        "sub-01/anat/sub-01_dseg",  # fMRIPrep's tissues
        "sub-01/anat/sub-01_desc-aparcaseg_dseg",
        "sub-01/anat/sub-01_desc-lesionfilled_T1w",
        "derivatives/x/sub-01/anat/sub-01_space-orig_label-lesion_desc-fpr0p5_mask",  # ours
        "derivatives/x/sub-011/anat/sub-011_label-lesion_mask",
        "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask",
        "derivatives/x/sub-01/anat/sub-01_run-2_label-lesion_mask",
    ],
)
def test_masks_of_other_things_are_no_references(tmp_path, name):
    make(tmp_path, ["sub-01/anat/sub-01_T2w"], [name])
    assert chosen(tmp_path) == {"sub-01": []}


def test_of_several_masks_the_nearest_one_is_taken(tmp_path):
    make(tmp_path, ["sub-01/anat/sub-01_T2w", "sub-02/anat/sub-02_space-MNI_T2w", "sub-03/anat/sub-03_acq-ax_T2w"])
    make(tmp_path, [], [f"derivatives/a/sub-01/anat/sub-01_{name}_lesion-manual" for name in ("PSIR", "T2w")])
    make(tmp_path, [], ["derivatives/a/sub-01/anat/sub-01_space-MNI_T2w_lesion-manual"])
    make(tmp_path, [], [f"sub-02/anat/sub-02_{name}label-lesion_mask" for name in ("", "space-MNI_", "space-T1w_")])
    make(tmp_path, [], [f"sub-03/anat/sub-03_{name}label-lesion_mask" for name in ("acq-sag_", "acq-ax_")])
    assert chosen(tmp_path) == {
        "sub-01": ["sub-01_T2w_lesion-manual"],
        "sub-02": ["sub-02_space-MNI_label-lesion_mask"],
        "sub-03_acq-ax": ["sub-03_acq-ax_label-lesion_mask"],
    }


@pytest.mark.parametrize(
    ("scan", "masks"),
    [
        (
            "sub-01/anat/sub-01_T2w",
            [f"derivatives/{who}/sub-01/anat/sub-01_label-lesion_mask" for who in ("jane", "joe")],
        ),
        (
            "sub-01/anat/sub-01_T2w",
            [f"sub-01/anat/sub-01_label-lesion_desc-{who}_mask" for who in ("rater1", "rater2")],
        ),
        ("sub-01/anat/sub-01_T2w", ["sub-01/anat/sub-01_desc-lesion_mask", "sub-01/anat/sub-01_msk"]),
        ("scan", ["scan_mask1", "scan_mask2"]),  # ISBI 2015
        ("scan_T2", ["scan_seg", "scan_T2_seg"]),
        ("BraTS-GLI-00000-000-t2w", ["BraTS-GLI-00000-000-seg", "BraTS-GLI-00000-000-tumor-mask"]),
    ],
)
def test_where_two_may_be_it_both_are_named(tmp_path, scan, masks):
    make(tmp_path, [scan], masks)
    assert read(tmp_path).source in [f"{tmp_path / name}.nii.gz" for name in masks]  # the same mask twice is one
    images.save(tmp_path / f"{masks[1]}.nii.gz", 1 - LESION)
    with pytest.raises(InputError, match="one of 2 that may be the reference") as told:
        read(tmp_path)
    ends = [name.removeprefix("derivatives/").removeprefix("sub-01/anat/") for name in masks]
    assert f"{ends[0]}.nii.gz" in str(told.value)
    assert f"{ends[1]}.nii.gz" in str(told.value)
    assert "--labels=table.tsv" in str(told.value)


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("case_T2", "case_seg"),
        ("case_T2", "case_T2_lesion_mask"),
        ("UPENN-GBM-00001_11_T2", "UPENN-GBM-00001_11_segm"),
        ("UCSF-PDGM-0004_T2", "UCSF-PDGM-0004_tumor_segmentation"),
        ("training01_01_t2_pp", "training01_01_mask1"),  # ISBI 2015, one expert's
        ("a", "a.lesion"),
        ("a", "a_msk"),
        ("a", "a_gold_standard"),
        ("T2", "lesion_mask"),  # a patient's own folder
        ("T2", "consensus"),  # MSSEG
        ("T2", "ManualSegmentation_1"),
        ("IXI002-Guys-0828-T2", "IXI002-Guys-0828_lesion"),
        ("BraTS20_Training_356_t2", "BraTS20_Training_356_Seg"),
        ("BraTS-MET-00001-000-t2w", "BraTS-MET-00001-000-seg"),
    ],
)
def test_references_beside_a_scan(tmp_path, scan, mask):
    make(tmp_path, [scan], [mask])
    assert list(chosen(tmp_path).values()) == [[mask]]


@pytest.mark.parametrize(
    ("scans", "mask", "spec"),
    [
        (["images/A", "images/B"], "labels/A", "images"),
        (["images/A", "images/B"], "labels/A", "."),
        (["images/A_T2", "images/B_T2"], "segmentations/A_seg", "images"),
        (["A", "B"], "Labels/A", "."),
        (["A", "B"], "masks/A_lesion_mask", "."),
        (["A/T2", "B/T2"], "A/labels/lesion", "."),
        (["A/Preprocessed_Data/T2", "B/Preprocessed_Data/T2"], "A/Masks/Consensus", "."),  # MSSEG 2016
        (["A/anat/T2", "B/anat/T2"], "A/seg/tumor_mask", "."),
    ],
)
def test_references_in_a_folder_of_their_own(tmp_path, scans, mask, spec):
    make(tmp_path, scans, [mask])
    expected = mask.rpartition("/")[2]
    assert list(chosen(tmp_path / spec).values()) == [[expected], []]


@pytest.mark.parametrize(
    ("scans", "mask", "spec"),
    [
        (["images/A", "images/B"], "masks/A", "images"),  # of the brain, perhaps
        (["images/A", "images/B"], "labels/A_2_seg", "images"),
        (["images/A", "images/B"], "labels/lesion", "images"),  # whose?
        (["study/A", "study/B"], "labels/A", "study"),  # of another study, perhaps
        (["A/T2", "B/T2"], "A/masks/brain_mask", "."),
        (["A", "B"], "probabilities/A", "."),
    ],
)
def test_what_may_be_something_else_in_a_folder_beside_is_no_reference(tmp_path, scans, mask, spec):
    make(tmp_path, scans, [mask])
    assert list(chosen(tmp_path / spec).values()) == [[], []]


def test_a_consensus_goes_before_its_experts(tmp_path):
    make(tmp_path, ["a_T2"], ["a_mask1", "a_mask2", "a_consensus"])
    assert chosen(tmp_path) == {"a_T2": ["a_consensus"]}


def test_a_reference_belongs_to_the_scan_that_it_is_named_after(tmp_path):
    make(tmp_path, ["a_T2", "a_2_T2", "a_followup_T2", "b", "post_stroke"])
    make(tmp_path, [], ["a_2_seg", "a_followup_lesion_mask", "b_3_seg", "lesion_mask", "b_tumor"])
    assert chosen(tmp_path) == {
        "a_T2": [],
        "a_2_T2": ["a_2_seg"],
        "a_followup_T2": ["a_followup_lesion_mask"],
        "b": ["b_tumor"],
        "post_stroke": [],
    }


@pytest.mark.parametrize("name", ["a_post_stroke", "tumor_02", "a_brain_seg", "a_lesion_filled", "a_tumor_FLAIR", ""])
def test_such_names_say_no_lesion(name):
    assert not labels.says_lesion(name.removeprefix("a_")) or name == "tumor_02"


def odd(root, **others):
    """The patient 355 of BraTS 2020 as it is in the archive, and others of its images."""
    folder = root / "BraTS20_Training_355"
    make(folder, ["BraTS20_Training_355_t2", "BraTS20_Training_355_flair"])
    for name, data in {"W39_1998.09.19_Segm": 4 * LESION, **others}.items():
        images.save(folder / f"{name}.nii.gz", data)
    return root


def test_the_only_image_that_looks_like_a_segmentation_is_taken_with_a_note(tmp_path):
    found = read(odd(tmp_path))
    np.testing.assert_array_equal(found.lesion, LESION > 0)
    assert found.source.endswith("W39_1998.09.19_Segm.nii.gz")
    assert found.note.startswith("sub-BraTS20Training355: W39_1998.09.19_Segm.nii.gz is taken as the reference")


def test_what_may_be_the_reference_is_not_called_a_label_of_no_scan(tmp_path, caplog):
    """By its name a label, by no name that of the scan: eval takes it, and says once what became of it."""
    folder = tmp_path / "p07"
    make(folder, ["T2_regtoFLAIR"])
    for name in ("GOLD_STANDARD_regtoMNI", "other_mask"):
        images.save(folder / f"{name}.nii.gz", LESION)
    assert len(sources.find(str(tmp_path))) == 1
    assert "perhaps the reference of the scan beside it: 1 (p07/GOLD_STANDARD_regtoMNI.nii.gz)" in caplog.text
    assert "of no scan here: 1 (p07/other_mask.nii.gz)" in caplog.text
    caplog.clear()
    known = references.find(str(tmp_path))
    assert "GOLD_STANDARD" not in caplog.text
    assert "of no scan here: 1 (p07/other_mask.nii.gz)" in caplog.text
    (subject,) = known.subjects.values()
    note = references.read(subject, subject.image()).note
    assert "GOLD_STANDARD_regtoMNI.nii.gz is taken as the reference" in note
    images.save(folder / "T2_regtoFLAIR_seg.nii.gz", LESION)
    caplog.clear()
    references.find(str(tmp_path))
    assert "of no scan here: 2" in caplog.text


@pytest.mark.parametrize(
    "others",
    [
        {"another": LESION},
        {"W39_1998.09.19_Segm": LESION * np.float32(0.5)},
        {"W39_1998.09.19_Segm": LESION[:-1]},
        {"W39_1998.09.19_Segm": 0 * LESION},
        {"W39_1998.09.19_Segm": (SCAN > 0).astype(np.uint8)},  # a mask of the whole brain
        {"W39_1998.09.19_Segm": SCAN.astype(np.int16)},
    ],
)
def test_what_does_not_look_like_one_segmentation_is_not_guessed(tmp_path, others):
    with pytest.raises(InputError) as told:
        read(odd(tmp_path, **others))
    said = str(told.value)
    assert (
        "has no reference segmentation. Looked for BraTS20_Training_355_seg, BraTS20_Training_355_lesion_mask" in said
    )
    assert "beside the scan: BraTS20_Training_355_flair.nii.gz, W39_1998.09.19_Segm.nii.gz" in said
    assert "lesion_kind is healthy" in said


@pytest.mark.parametrize(("kind", "is_needed"), [("healthy", False), ("Controls", False), ("n/a", True), ("", True)])
def test_who_is_called_healthy_needs_no_reference(tmp_path, kind, is_needed):
    make(tmp_path, ["sub-01/anat/sub-01_T2w"])
    (tmp_path / "participants.tsv").write_text(f"participant_id\tlesion_kind\nsub-01\t{kind}\n")
    (subject,) = sources.find(str(tmp_path))
    if is_needed:
        with pytest.raises(InputError, match="Looked for sub-01_label-lesion_mask"):
            references.read(subject, subject.image())
    else:
        assert not references.read(subject, subject.image()).lesion.any()


@pytest.mark.parametrize("name", ["W39_brain", "extraction_mask", "bet"])
def test_masks_of_the_brain_are_not_guessed(tmp_path, name):
    folder = odd(tmp_path) / "BraTS20_Training_355"
    (folder / "W39_1998.09.19_Segm.nii.gz").rename(folder / f"{name}.nii.gz")
    with pytest.raises(InputError, match="has no reference"):
        read(tmp_path)


def test_among_the_scans_of_several_patients_nothing_is_guessed(tmp_path):
    make(tmp_path, ["a", "b"], ["W39_1998.09.19_Segm"])
    first, *_ = sources.find(str(tmp_path))
    with pytest.raises(InputError, match="Looked for a_seg"):
        references.read(first, first.image())


@pytest.mark.parametrize("value", [255, 4, 0.5, -1, 7, 1e6])
def test_of_two_values_the_one_that_is_not_0_is_lesion(tmp_path, value):
    make(tmp_path, ["a"])
    images.save(tmp_path / "a_seg.nii.gz", LESION * np.float32(value))
    np.testing.assert_array_equal(read(tmp_path).lesion, LESION > 0)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ((0, 255, 1), "label values 255;"),
        ((0, 1, 0.5), "label values 0.5;"),
        ((1, 2), "and no 0"),
        ((0, 7, 8, 9), "It holds 0, 7, 8, 9"),
    ],
)
def test_other_values_are_named_and_the_flag_too(tmp_path, held, told):
    make(tmp_path, ["a"])
    images.save(tmp_path / "a_seg.nii.gz", np.resize(np.float32(held), SCAN.shape))
    with pytest.raises(InputError, match=told) as error:
        read(tmp_path)
    assert "--lesion_labels" in str(error.value)


@pytest.mark.parametrize(("values", "lesion"), [((1, 2, 3, 5), (1, 5)), ((5,), (5,)), ((7,), ()), ((0.5,), (0.5,))])
def test_lesion_labels_are_those_that_are_named(tmp_path, values, lesion):
    make(tmp_path, ["a"])
    held = np.resize(np.float32([0, 1, 5, 9] if 0.5 not in values else [0, 0.5, 1]), SCAN.shape)
    images.save(tmp_path / "a_seg.nii.gz", held)
    (subject,) = sources.find(str(tmp_path))
    found = references.read(subject, subject.image(), values)
    np.testing.assert_array_equal(found.lesion, np.isin(held, np.float32(lesion)))


def test_lesion_labels_of_blurred_labels_are_refused(tmp_path):
    make(tmp_path, ["a"])
    images.save(tmp_path / "a_seg.nii.gz", np.resize(np.float32([0, 1, 0.25]), SCAN.shape))
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match=r"label values 0\.25; labels are whole"):
        references.read(subject, subject.image(), (1, 2))


def test_a_reference_without_any_of_the_lesion_labels_is_noted(tmp_path):
    make(tmp_path, ["a"], ["a_seg"], values=255)
    (subject,) = sources.find(str(tmp_path))
    assert references.read(subject, subject.image(), (1,)).note.endswith(
        "reference holds 0, 255, no value of --lesion_labels"
    )
    assert references.read(subject, subject.image(), (255,)).note == ""


def test_a_segmentation_of_tissue_is_doubted(tmp_path):
    """FSL's FAST calls the tissues of X.nii.gz X_seg.nii.gz."""
    make(tmp_path, ["a"])
    images.save(tmp_path / "a_seg.nii.gz", np.digitize(SCAN, [1, 80, 120]).astype(np.uint8))
    assert read(tmp_path).note == "sub-a: a_seg.nii.gz calls 100% of the brain lesion; is it a segmentation of tissue?"


def test_lesion_labels_that_no_reference_holds_are_an_error(tmp_path):
    make(tmp_path, ["a", "b"], ["a_seg", "b_seg"], values=3)
    known = references.by_identifier(str(tmp_path), sources.find(str(tmp_path)), (1, 2))
    with pytest.raises(UsageError, match=r"--lesion_labels=1,2: no reference holds them\. They hold 0, 3\."):
        references.check_values(known, ["sub-a", "sub-b"])
    references.check_values(known._replace(values=()), ["sub-a"])


def test_a_prepared_data_set_may_hold_the_references(tmp_path):
    scan = images.save(tmp_path / "sub-01/anat/sub-01_desc-preproc_T2w.nii.gz", SCAN)
    digest = hashlib.sha256(scan.read_bytes()).hexdigest()
    record = {"InputSHA256": "ab" * 32, "SHA256": digest, "BiasField": None, "Warnings": []}
    scan.with_name("sub-01_desc-preproc_T2w.json").write_text(json.dumps(record))
    make(tmp_path, [], ["sub-01/anat/sub-01_desc-brain_mask", "sub-01/anat/sub-01_label-lesion_mask"])
    (subject,) = sources.find(str(tmp_path))
    assert not subject.mask_found  # its mask was made with it: one that does not fit is refused
    assert references.read(subject, subject.image()).source.endswith("sub-01_label-lesion_mask.nii.gz")


def test_a_folder_of_references_without_scans_is_told_to_be_one(tmp_path):
    make(tmp_path / "plain", [], ["A", "B"])
    first, _ = sources.find(str(tmp_path / "plain"))
    with pytest.raises(InputError, match=r"A: is a segmentation itself, without its scan.*--labels=table\.tsv"):
        references.read(first, images.volume(SCAN))
    make(tmp_path / "named", [], ["A_seg", "B_seg"])
    with pytest.raises(UsageError, match=r"holds no scan.*References need their scans beside them, or a table"):
        references.find(str(tmp_path / "named"))


def test_paths_of_references_are_relative(tmp_path):
    root = tmp_path / "data" / "imagesTs"
    root.mkdir(parents=True)
    for path, told in (
        (root / "x" / "a.nii", "x/a.nii"),
        (tmp_path / "data" / "labelsTs" / "a.nii", "../labelsTs/a.nii"),
        (tmp_path / "jane" / "a.nii", "a.nii"),
        ("", ""),
        ("phantom:test:ms:1", "phantom:test:ms:1"),
        ("the reference of the series", "the reference of the series"),
    ):
        if isinstance(path, pathlib.Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert references.relative(str(root), str(path)) == told
