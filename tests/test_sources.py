"""What a user may have on disk, and which subjects it becomes."""

import hypothesis
import images
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st

from lgjax.data import sources
from lgjax.errors import InputError, UsageError

SCAN = images.head((8, 9, 7))
LABEL = (SCAN > 120).astype(np.uint8)


def make(root, *names, data=SCAN):
    for name in names:
        images.save(root / name, data)


def identifiers(spec) -> list[str]:
    return [subject.identifier for subject in sources.find(str(spec))]


def test_a_single_file_with_and_without_a_mask(tmp_path):
    make(tmp_path, "My scan (1).nii.gz")
    make(tmp_path, "brain.nii", data=(SCAN > 0).astype(np.uint8))
    path = tmp_path / "My scan (1).nii.gz"
    (subject,) = sources.find(str(path))
    assert (subject.identifier, subject.original, subject.kind) == ("sub-Myscan1", "My scan (1)", "")
    assert subject.mask is None
    assert subject.lesion is None
    np.testing.assert_array_equal(subject.image().data, SCAN)
    (subject,) = sources.find(str(path), mask=str(tmp_path / "brain.nii"))
    np.testing.assert_array_equal(subject.mask().data, SCAN > 0)
    with pytest.raises(UsageError, match="--mask"):
        sources.find(str(tmp_path), mask=str(tmp_path / "brain.nii"))


def test_reading_options_are_passed_on(tmp_path):
    images.save(tmp_path / "two.nii", np.stack([SCAN, SCAN + 1], axis=-1))
    with pytest.raises(InputError, match="--volume"):
        sources.find(str(tmp_path))[0].image()
    np.testing.assert_array_equal(sources.find(str(tmp_path), volume=1)[0].image().data, SCAN + 1)
    with pytest.raises(InputError, match="--max_voxels"):
        sources.find(str(tmp_path), volume=1, max_voxels=10)[0].image()


@pytest.mark.parametrize("folder", ["", "HGG/{}", "{}", "a/HGG/{}"])
@pytest.mark.parametrize(
    "style", ["Brats18_CBICA_{}_1_t2.nii.gz", "BraTS2021_{}_T2.NII.GZ", "BraTS-GLI-{}-000-t2w.nii.gz"]
)
def test_brats(tmp_path, folder, style):
    for case in ("ABM", "ALU"):
        name = style.format(case)
        seg = name.replace("_t2.", "_seg.").replace("_T2.", "_Seg.").replace("-t2w.", "-seg.")
        other = seg.replace("seg", "flair").replace("Seg", "T1")
        inner = tmp_path / folder.format(case)
        for part, data in ((name, SCAN), (seg, LABEL), (other, SCAN)):
            saved = images.save(inner / part.replace(".NII.GZ", ".nii.gz"), data)
            saved.rename(inner / part)
    found = sources.find(str(tmp_path))
    assert len(found) == 2
    assert all(subject.identifier.startswith("sub-B") for subject in found)
    for subject in found:
        np.testing.assert_array_equal(sources.reference(subject, subject.image()), LABEL > 0)


def test_bids(tmp_path):
    make(
        tmp_path,
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_T2w.nii.gz",
        "sub-03/anat/sub-03_space-MNI_desc-preproc_T2w.nii.gz",
        "sub-03/anat/sub-03_space-orig_desc-restored_T2w.nii.gz",
    )
    make(tmp_path, "sub-01/anat/sub-01_desc-brain_mask.nii.gz", data=(SCAN > 0).astype(np.uint8))
    make(
        tmp_path,
        "derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "derivatives/sub-02/ses-a/anat/sub-02_ses-a_label-lesion_mask.nii.gz",
        "sub-03/anat/sub-03_space-MNI_desc-preproc_label-lesion_mask.nii.gz",
        "derivatives/lgjax/sub-02/ses-b/anat/sub-02_ses-b_run-1_space-orig_label-lesion_desc-fpr1_mask.nii.gz",
        data=LABEL,
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tlesion_kind\nsub-01\t30\tglioma\n02\t40\tms\n")
    found = {subject.identifier: subject for subject in sources.find(str(tmp_path))}
    assert list(found) == ["sub-01", "sub-02sesa", "sub-02sesbrun1", "sub-03"]
    assert [subject.kind for subject in found.values()] == ["glioma", "ms", "ms", ""]
    assert [bool(subject.mask) for subject in found.values()] == [True, False, False, False]
    assert [bool(subject.lesion) for subject in found.values()] == [True, True, False, True]
    subject = found["sub-01"]
    np.testing.assert_array_equal(subject.mask().data, SCAN > 0)
    np.testing.assert_array_equal(sources.reference(subject, subject.image()), LABEL > 0)
    assert sources.reference(found["sub-02sesbrun1"], subject.image()) is None


def test_unreadable_participants(tmp_path):
    make(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    (tmp_path / "participants.tsv").write_bytes(b"participant_id\tlesion_kind\nsub-01\t\xff\xfe\n")
    with pytest.raises(InputError, match="UTF-8"):
        sources.find(str(tmp_path))


def test_a_plain_folder_skips_masks_and_pairs_them(tmp_path):
    make(tmp_path, "a.nii.gz", "b.nii", "._b.nii", "c_desc-anomaly_T2w.nii.gz", "masked.nii", "nested/d.nii")
    others = (
        "a_mask.nii.gz",
        "a_seg.nii",
        "x-label.nii",
        "brain_mask.nii",
        "GOLD_STANDARD_x.nii",
        "b.lesion.nii",
    )
    make(tmp_path, *others, data=LABEL)
    (tmp_path / "notes.txt").write_text("")
    assert identifiers(tmp_path) == ["sub-a", "sub-b", "sub-masked"]
    a, b, _ = sources.find(str(tmp_path))
    np.testing.assert_array_equal(a.mask().data, LABEL)
    np.testing.assert_array_equal(sources.reference(a, a.image()), LABEL > 0)
    assert b.mask is None
    assert b.lesion is None


def test_pairs_of_files_are_one_subject(tmp_path):
    images.save(tmp_path / "scan.hdr", SCAN, cls=nib.Nifti1Pair)
    (subject,) = sources.find(str(tmp_path))
    np.testing.assert_array_equal(subject.image().data, SCAN)


def test_a_broken_reference_does_not_touch_the_scan(tmp_path):
    make(tmp_path, "a.nii.gz")
    (tmp_path / "a_seg.nii.gz").write_bytes(b"")
    (subject,) = sources.find(str(tmp_path))
    image = subject.image()
    with pytest.raises(InputError, match="a_seg"):
        sources.reference(subject, image)


@pytest.mark.parametrize("value", [5, -1, 0.5, np.nan])
def test_labels_follow_an_explicit_rule(tmp_path, value):
    make(tmp_path, "a.nii.gz")
    label = np.zeros(SCAN.shape, np.float32)
    label.ravel()[:5] = (0, 1, 2, 3, 4)
    make(tmp_path, "a_seg.nii.gz", data=label)
    (subject,) = sources.find(str(tmp_path))
    assert sources.reference(subject, subject.image()).sum() == 4
    label[4, 4, 4] = value
    make(tmp_path, "a_seg.nii.gz", data=label)
    with pytest.raises(InputError, match=f"label values {value:g};"):
        sources.reference(subject, subject.image())


def test_a_label_on_another_grid(tmp_path):
    make(tmp_path, "a.nii.gz")
    images.save(tmp_path / "a_seg.nii.gz", LABEL, images.affine(origin=(5, 5, 5)))
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match=r"(?s)mm away.*5.*-10"):
        sources.reference(subject, subject.image())


def test_nothing_found_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"(?s)BIDS.*BraTS.*NIfTI"):
        sources.find(str(tmp_path))
    with pytest.raises(UsageError, match="does not exist"):
        sources.find(str(tmp_path / "absent"))


def test_two_names_with_one_identifier(tmp_path):
    make(tmp_path, "a_1.nii.gz", "a-1.nii.gz")
    with pytest.raises(InputError, match=r"(?s)a-1\.nii\.gz.*a_1\.nii\.gz"):
        sources.find(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01", "sub-01"),
        ("../../etc/passwd", "sub-etcpasswd"),
        ("José Núñez", "sub-JoseNunez"),
        ("<script>alert(1)</script>", "sub-scriptalert1script"),
        ("sub-sub-1", "sub-sub1"),
    ],
)
def test_identifiers(name, expected):
    assert sources.identifier(name) == expected


@hypothesis.given(st.text(max_size=300))
def test_identifiers_are_always_contained(name):
    result = sources.identifier(name)
    assert result.startswith("sub-")
    assert result[4:].isalnum()
    assert result.isascii()
    assert len(result) <= 68
    assert result == sources.identifier(name)


def test_names_without_letters_get_a_hash():
    assert sources.identifier("患者") != sources.identifier("...") != sources.identifier("")


def test_links(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    make(outside, "scan.nii.gz")
    root.mkdir()
    (root / "link.nii.gz").symlink_to(outside / "scan.nii.gz")
    (root / "broken.nii.gz").symlink_to(outside / "gone.nii.gz")
    (root / "folder.nii.gz").symlink_to(outside)
    (root / "loop").symlink_to(root)
    found = {subject.identifier: subject for subject in sources.find(str(root))}
    np.testing.assert_array_equal(found["sub-link"].image().data, SCAN)
    for name in ("sub-broken", "sub-folder"):
        with pytest.raises(InputError):
            found[name].image()
    assert len(found) == 3


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
def test_the_real_brats_folder():
    found = sources.find(str(images.REAL / "brats18"))
    assert len(found) == 12
    assert found[0].original == "Brats18_2013_11_1"
    assert 1000 < sources.reference(found[0], found[0].image()).sum() < 500_000
    assert all(subject.lesion for subject in found)
