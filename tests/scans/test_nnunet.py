"""Data sets of nnU-Net and the Decathlon: which channel is T2, and which label belongs to it."""

import json
import pathlib

import images
import numpy as np
import pytest

from lgjax.evaluation import references
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.finding import nnunet

SCAN = images.head((8, 9, 7))


def make(root, names, **dataset):
    for name in names:
        images.save(root / f"{name}.nii.gz", SCAN if "images" in name else (SCAN > 120).astype(np.uint8))
    if dataset:
        (root / "dataset.json").write_text(json.dumps(dataset))


def told(root) -> dict[str, tuple[str, str | None]]:
    """The image and the reference of each case."""
    return {
        case.name: (case.image.name, case.reference and case.reference.relative_to(case.image.parents[1]).as_posix())
        for case in nnunet.find(root)
    }


@pytest.mark.parametrize("name", ["T2", "T2w", "MR T2", "t2w", "T2-w", "T2 (axial)"])
def test_the_channel_that_dataset_json_calls_t2(tmp_path, name):
    parts = [f"imagesTr/case_01_000{k}" for k in range(4)] + ["labelsTr/case_01", "imagesTs/case_02_0003"]
    make(tmp_path, parts, channel_names={"0": "T1", "1": "T2-FLAIR", "2": "T2*", "3": name})
    assert told(tmp_path) == {
        "case_01": ("case_01_0003.nii.gz", "labelsTr/case_01.nii.gz"),
        "case_02": ("case_02_0003.nii.gz", None),
    }


@pytest.mark.parametrize("start", ["imagesTs", "labelsTs", "."])
def test_the_folder_of_images_or_of_labels_may_be_given(tmp_path, start, monkeypatch):
    make(tmp_path, ["imagesTs/a_0000", "labelsTs/a"])
    assert told(tmp_path / start) == {"a": ("a_0000.nii.gz", "labelsTs/a.nii.gz")}
    monkeypatch.chdir(tmp_path / start)
    (case,) = nnunet.find(pathlib.Path("."))
    assert case.reference
    assert case.reference.resolve() == tmp_path / "labelsTs" / "a.nii.gz"


def test_the_decathlon_has_no_numbers_of_channels(tmp_path):
    make(tmp_path, ["imagesTr/BRATS_001", "labelsTr/BRATS_001"], modality={"0": "FLAIR", "1": "T2w"})
    assert told(tmp_path) == {"BRATS_001": ("BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")}


def test_masks_among_the_images_are_no_cases(tmp_path):
    make(tmp_path, ["imagesTs/a_0000", "imagesTs/a_0000_mask", "imagesTs/a_0000_bet", "imagesTr/b", "imagesTr/b_mask"])
    assert list(told(tmp_path)) == ["b", "a"]


def test_a_t2_channel_of_which_there_is_no_file_is_told(tmp_path):
    make(tmp_path, ["imagesTs/a_0000"], channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(UsageError, match=r"no file of the channel 0001, which dataset\.json calls T2, but of 0000"):
        nnunet.find(tmp_path)


def test_one_channel_needs_no_dataset_json(tmp_path):
    make(tmp_path, ["imagesTs/a_0000", "imagesTs/b_0000"])
    assert told(tmp_path) == {"a": ("a_0000.nii.gz", None), "b": ("b_0000.nii.gz", None)}


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({}, r"channels 0000, 0001, and no dataset\.json says"),
        ({"name": "x"}, r"no dataset\.json says"),
        ({"channel_names": {"0": "T1", "1": "FLAIR"}}, "names the channels T1, FLAIR: none is T2"),
        ({"channel_names": {"0": "T2", "1": "T2w"}}, "several are T2"),
        ({"channel_names": {"0": "CT"}}, "names the channels CT: none is T2"),
        ({"modality": {"0": "T2 FLAIR"}}, "none is T2"),
    ],
)
def test_where_no_channel_is_known_to_be_t2_nothing_is_taken(tmp_path, dataset, words):
    make(tmp_path, ["imagesTs/a_0000", "imagesTs/a_0001"], **dataset)
    with pytest.raises(UsageError, match=words) as error:
        nnunet.find(tmp_path)
    assert "--input=table.tsv" in str(error.value)


def test_other_folders_are_no_such_data_set(tmp_path):
    make(tmp_path, ["images/a_0000", "b_0000"])
    (tmp_path / "imagesTs").mkdir()
    assert nnunet.find(tmp_path) == []
    assert nnunet.find(tmp_path / "images") == []


def test_such_a_data_set_is_recognised(tmp_path):
    make(tmp_path, ["imagesTs/a_0000", "imagesTs/b_0000", "labelsTs/a"])
    for spec in (tmp_path, tmp_path / "imagesTs", tmp_path / "labelsTs"):
        for layout in ("auto", "nnunet"):
            a, b = sources.find(str(spec), layout=layout)
            assert (a.identifier, b.identifier) == ("sub-a", "sub-b")
            np.testing.assert_array_equal(references.read(a, a.image()).lesion, SCAN > 120)
            with pytest.raises(InputError, match="Looked for labelsTs/b"):
                references.read(b, b.image())
