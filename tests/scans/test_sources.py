"""What a user may have on disk, and which subjects it becomes."""

import hashlib
import json

import hypothesis
import images
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st

from lgjax.evaluation import references
from lgjax.preparation import cohort
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import phantom, sources

SCAN = images.head((8, 9, 7))
LABEL = (SCAN > 120).astype(np.uint8)


def make(root, *names, data=SCAN):
    for name in names:
        images.save(root / name, data)


def identifiers(spec, layout="auto") -> list[str]:
    return [subject.identifier for subject in sources.find(str(spec), layout=layout)]


def mask_names(spec, layout="auto") -> dict[str, str | None]:
    found = sources.find(str(spec), layout=layout)
    return {subject.paths[0].name: subject.paths[-1].name if subject.mask else None for subject in found}


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
        np.testing.assert_array_equal(references.read(subject, subject.image()).lesion, LABEL > 0)


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
    assert list(found) == ["sub-01", "sub-02_ses-a", "sub-02_ses-b_run-1", "sub-03"]
    assert [subject.participant for subject in found.values()] == ["sub-01", "sub-02", "sub-02", "sub-03"]
    assert [subject.kind for subject in found.values()] == ["glioma", "ms", "ms", ""]
    assert [bool(subject.mask) for subject in found.values()] == [True, False, False, False]
    assert [bool(subject.lesion) for subject in found.values()] == [True, True, False, True]
    subject = found["sub-01"]
    np.testing.assert_array_equal(subject.mask().data, SCAN > 0)
    np.testing.assert_array_equal(references.read(subject, subject.image()).lesion, LABEL > 0)
    assert found["sub-02_ses-b_run-1"].lesion is None


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
    assert a.participant == "sub-a"
    np.testing.assert_array_equal(a.mask().data, LABEL)
    np.testing.assert_array_equal(references.read(a, a.image()).lesion, LABEL > 0)
    assert b.mask is None
    np.testing.assert_array_equal(references.read(b, b.image()).lesion, LABEL > 0)


def test_pairs_of_files_are_one_subject(tmp_path):
    images.save(tmp_path / "scan.hdr", SCAN, cls=nib.Nifti1Pair)
    (subject,) = sources.find(str(tmp_path))
    np.testing.assert_array_equal(subject.image().data, SCAN)
    assert subject.paths == (tmp_path / "scan.hdr", tmp_path / "scan.img")
    (subject,) = sources.find(str(tmp_path / "scan.img"), mask=str(tmp_path / "mask.nii"))
    assert subject.paths == (tmp_path / "scan.hdr", tmp_path / "scan.img", tmp_path / "mask.nii")


@pytest.mark.parametrize("suffix", ["_mask", "_desc-brain_mask", "_brain_mask", "_bet_mask", "_bet"])
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("folder", "a"),
        ("ixi", "IXI002-Guys-0828-T2"),
        ("brats", "Brats18_2013_1_1/Brats18_2013_1_1_t2"),
        ("bids", "sub-01/anat/sub-01_T2w"),
        ("camcan", "anat/sub-CC110033/anat/sub-CC110033_T2w"),
    ],
)
def test_a_mask_beside_the_scan(tmp_path, layout, name, suffix):
    make(tmp_path, f"{name}.nii.gz")
    make(tmp_path, f"{name}{suffix}.nii", data=LABEL)
    for asked in ("auto", layout):
        (subject,) = sources.find(str(tmp_path), layout=asked)
        assert subject.paths == (tmp_path / f"{name}.nii.gz", tmp_path / f"{name}{suffix}.nii")
        np.testing.assert_array_equal(subject.image().data, SCAN)
        np.testing.assert_array_equal(subject.mask().data, LABEL)


def test_a_stripped_scan_is_no_second_subject_and_no_mask_where_there_is_one(tmp_path):
    make(
        tmp_path, "a.nii", "a_bet.nii", "a_bet_mask.nii", "b.nii", "b_bet.nii", "b_bet_bet.nii", "c.nii", "c_brain.nii"
    )
    make(tmp_path, "d_bet.nii", "d_bet_mask.nii", "e_brain.nii", "e_brain_mask.nii", "f_brain.nii", "f_brain_bet.nii")
    assert mask_names(tmp_path) == {
        "a.nii": "a_bet_mask.nii",  # HD-BET 1: a_bet is a without its skull
        "b.nii": "b_bet_bet.nii",  # HD-BET 2, told to write b_bet
        "c.nii": None,
        "d_bet.nii": "d_bet_mask.nii",
        "e_brain.nii": "e_brain_mask.nii",
        "f_brain.nii": "f_brain_bet.nii",
    }


def test_ixi(tmp_path):
    names = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873")
    make(tmp_path, *(f"{name}-{kind}.nii.gz" for name in names for kind in ("T1", "T2", "PD", "MRA")))
    make(tmp_path, "IXI050-Guys-0711-T1.nii.gz", "IXI051-HH-1328-T2_brain.nii.gz", "other.nii.gz")
    make(tmp_path, "IXI002-Guys-0828-T2_bet.nii.gz", "IXI012-HH-1211-T1_mask.nii.gz", data=LABEL)
    expected = ["sub-IXI002", "sub-IXI012", "sub-IXI035", "sub-IXI051"]
    assert identifiers(tmp_path) == identifiers(tmp_path, "ixi") == expected
    assert mask_names(tmp_path) == {
        "IXI002-Guys-0828-T2.nii.gz": "IXI002-Guys-0828-T2_bet.nii.gz",
        "IXI012-HH-1211-T2.nii.gz": None,
        "IXI035-IOP-0873-T2.nii.gz": None,
        "IXI051-HH-1328-T2_brain.nii.gz": None,
    }
    make(tmp_path, "IXI012-Guys-0900-T2.nii.gz", data=SCAN + 1)  # scanned twice
    assert identifiers(tmp_path) == expected
    with pytest.raises(InputError, match=r"(?s)IXI012-Guys-0900-T2.*IXI012-HH-1211-T2.*Keep one"):
        sources.find(str(tmp_path))[1].image()


@pytest.mark.parametrize("table", ["anat", "."])
@pytest.mark.parametrize("above", [".", "anat", "..", "../.."])
def test_camcan(tmp_path, above, table):
    release = tmp_path / "pipeline/release004/BIDS_20190411"
    for subject in ("CC110033", "CC110037"):
        for part in ("anat/sub-{0}/anat/sub-{0}_T2w", "anat/sub-{0}/anat/sub-{0}_T1w", "dwi/sub-{0}/dwi/sub-{0}_dwi"):
            make(release, part.format(subject) + ".nii.gz")
    make(release, "anat/sub-CC110033/anat/sub-CC110033_desc-brain_mask.nii.gz", data=LABEL)
    (release / table / "participants.tsv").write_text("participant_id\tlesion_kind\nsub-CC110037\thealthy\n")
    root = release / above
    assert identifiers(root) == identifiers(root, "camcan") == ["sub-CC110033", "sub-CC110037"]
    first, second = sources.find(str(root), layout="camcan")
    assert (first.kind, second.kind) == ("", "healthy")
    np.testing.assert_array_equal(first.mask().data, LABEL)
    assert second.mask is None


def test_two_releases_of_camcan_are_not_mixed(tmp_path):
    for seed, release in enumerate(("BIDSsep", "BIDS_20190411")):
        make(tmp_path, f"{release}/anat/sub-CC1/anat/sub-CC1_T2w.nii.gz", data=SCAN + seed)
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match=r"(?s)BIDS_20190411/anat.*BIDSsep/anat"):
        subject.image()


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("bids", "sub-01/anat/sub-01_T2w.nii"),
        ("camcan", "anat/sub-CC1/anat/sub-CC1_T2w.nii"),
        ("brats", "x/BraTS-GLI-1-t2w.nii"),
        ("ixi", "IXI002-Guys-0828-T2.nii"),
        ("folder", "scan.nii"),
    ],
)
def test_a_named_layout_finds_its_own_files_only(tmp_path, layout, name):
    make(tmp_path, name)
    assert len(sources.find(str(tmp_path), layout=layout)) == 1
    others = {"bids", "camcan", "brats", "ixi", "folder"} - {layout, "folder" if layout == "ixi" else layout}
    for other in others:
        with pytest.raises(UsageError, match=rf"(?s)layout {other}\. Looked for .*(nii|NIfTI)"):
            sources.find(str(tmp_path), layout=other)


def test_layouts_that_do_not_fit(tmp_path):
    make(tmp_path, "scan.nii")
    with pytest.raises(UsageError, match=r"(?s)no layout camcam.*bids, camcan"):
        sources.find(str(tmp_path), layout="camcam")
    with pytest.raises(UsageError, match="goes with a folder"):
        sources.find(str(tmp_path / "scan.nii"), layout="folder")
    with pytest.raises(UsageError, match=":SPLIT"):
        sources.find(str(tmp_path), layout="phantom")


def test_the_phantom():
    for layout in ("auto", "phantom"):
        found = sources.find("phantom:calibration:2", layout=layout)
        assert [subject.identifier for subject in found] == ["sub-calibrationhealthy000", "sub-calibrationhealthy001"]
        assert all(subject.paths == () and subject.bias_field is None for subject in found)


def test_slices_of_the_phantom_are_named_in_its_name():
    thick, thin, gapped = (sources.find(f"phantom{name}:dev:1") for name in ("", "@1", "@1+0.5"))
    assert {subject.kind for subject in thin} == set(phantom.KINDS)
    assert len({subject.reading for subject in (*thick, *thin, *gapped)}) == 3 * len(phantom.KINDS)
    source = cohort.Source("phantom@1:/labels", 3, 2)
    with pytest.raises(InputError, match="/labels"):  # that are not there, said before anything is made
        cohort.healthy(source, "train")
    healthy = cohort.healthy(source._replace(spec="phantom@1+0.5"), "calibration")
    assert [s.image.args[0].slab for s in healthy] == 2 * [(1.0, 0.5)]
    for wrong in ("phantom@:dev", "phantom@thin:dev", "phantom@1+:dev", "phantom@1.2.3:dev"):
        with pytest.raises(UsageError, match=r"THICKNESS"):
            sources.find(wrong)


PREPARED = "sub-01/anat/sub-01_desc-preproc_T2w.nii.gz"
RAW = "ab" * 32
FIELD = {"spacing": 4.0, "iterations": [50, 50], "threshold": 0.001}


def prepare(root, **changes):
    """Writes a data set of one subject as lgjax.preprocess does; a change to ... leaves that entry out."""
    scan = images.save(root / PREPARED, SCAN)
    images.save(root / "sub-01/anat/sub-01_desc-brain_mask.nii.gz", LABEL)
    digest = hashlib.sha256(scan.read_bytes()).hexdigest()
    record = {"InputSHA256": RAW, "SHA256": digest, "BiasField": FIELD, "Warnings": ["two of these"], **changes}
    text = json.dumps({key: value for key, value in record.items() if value is not ...})
    (root / PREPARED.replace(".nii.gz", ".json")).write_text(text)
    return scan


@pytest.mark.parametrize("field", [FIELD, None])
def test_a_prepared_scan_keeps_the_identity_of_the_raw_one(tmp_path, field):
    scan = prepare(tmp_path, BiasField=field)
    for spec in (tmp_path, scan):
        (subject,) = sources.find(str(spec))
        assert subject.bias_field == json.dumps(field, sort_keys=True)
        image = subject.image()
        np.testing.assert_array_equal(image.data, SCAN)
        assert image.sha256 == RAW
        assert image.warnings == ("two of these",)
    assert mask_names(tmp_path) == {scan.name: "sub-01_desc-brain_mask.nii.gz"}
    assert identifiers(tmp_path) == ["sub-01"]


def test_settings_of_the_bias_field_compare_as_text(tmp_path):
    prepare(tmp_path / "a")
    prepare(tmp_path / "b", BiasField=dict(reversed(FIELD.items())))
    prepare(tmp_path / "c", BiasField={**FIELD, "spacing": 3.0})
    a, b, c = (sources.find(str(tmp_path / name))[0].bias_field for name in "abc")
    assert a == b != c


def test_a_prepared_scan_that_was_changed_is_refused(tmp_path):
    scan = prepare(tmp_path)
    (subject,) = sources.find(str(tmp_path))
    images.save(scan, SCAN + 1)
    with pytest.raises(InputError, match=r"desc-preproc_T2w\.nii\.gz: was changed since it was prepared"):
        subject.image()


@pytest.mark.parametrize(
    "damage",
    [
        {"InputSHA256": ...},
        {"SHA256": ...},
        {"SHA256": 5},
        {"InputSHA256": "../x"},
        {"BiasField": ...},
        {"BiasField": "yes"},
        {"Warnings": "one"},
        {"Warnings": [1]},
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_a_damaged_sidecar_stops_that_subject_only(tmp_path, damage):
    make(tmp_path, "sub-02/anat/sub-02_T2w.nii.gz")
    scan = prepare(tmp_path, **(damage if isinstance(damage, dict) else {}))
    if isinstance(damage, bytes):
        scan.with_name("sub-01_desc-preproc_T2w.json").write_bytes(damage)
    first, second = sources.find(str(tmp_path))
    np.testing.assert_array_equal(second.image().data, SCAN)
    assert first.bias_field is None
    with pytest.raises(InputError, match=r"desc-preproc_T2w\.json.*again"):
        first.image()


@pytest.mark.parametrize("record", [None, {"SkullStripped": True}, []])
def test_scans_that_other_programs_preprocessed_are_raw(tmp_path, record):
    scan = images.save(tmp_path / PREPARED, SCAN)
    if record is not None:
        scan.with_name("sub-01_desc-preproc_T2w.json").write_text(json.dumps(record))
    (subject,) = sources.find(str(tmp_path))
    assert subject.bias_field is None
    assert subject.image().sha256 == hashlib.sha256(scan.read_bytes()).hexdigest()


def test_a_broken_reference_does_not_touch_the_scan(tmp_path):
    make(tmp_path, "a.nii.gz")
    (tmp_path / "a_seg.nii.gz").write_bytes(b"")
    (subject,) = sources.find(str(tmp_path))
    image = subject.image()
    with pytest.raises(InputError, match="a_seg"):
        references.read(subject, image)


@pytest.mark.parametrize("value", [5, -1, 0.5, np.nan])
def test_labels_follow_an_explicit_rule(tmp_path, value):
    make(tmp_path, "a.nii.gz")
    label = np.zeros(SCAN.shape, np.float32)
    label.ravel()[:5] = (0, 1, 2, 3, 4)
    make(tmp_path, "a_seg.nii.gz", data=label)
    (subject,) = sources.find(str(tmp_path))
    assert references.read(subject, subject.image()).lesion.sum() == 4
    label[4, 4, 4] = value
    make(tmp_path, "a_seg.nii.gz", data=label)
    with pytest.raises(InputError, match=f"label values {value:g};"):
        references.read(subject, subject.image())


def test_a_label_on_another_grid(tmp_path):
    make(tmp_path, "a.nii.gz")
    images.save(tmp_path / "a_seg.nii.gz", LABEL, images.affine(origin=(5, 5, 5)))
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match=r"(?s)mm away.*5.*-10"):
        references.read(subject, subject.image())


def test_nothing_found_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"(?s)BIDS.*Cam-CAN.*BraTS.*IXI.*NIfTI"):
        sources.find(str(tmp_path))
    with pytest.raises(UsageError, match="does not exist"):
        sources.find(str(tmp_path / "absent"))


def test_two_names_with_one_identifier(tmp_path):
    make(tmp_path, "a_1.nii.gz", "b.nii.gz")
    make(tmp_path, "a-1.nii.gz", data=SCAN + 1)
    refused, sound = sources.find(str(tmp_path))
    for read in (refused.image, refused.lesion):
        with pytest.raises(InputError, match=r"(?s)a-1\.nii\.gz.*a_1\.nii\.gz"):
            read()
    np.testing.assert_array_equal(sound.image().data, SCAN)


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01/ses-2/anat/sub-01_ses-2_run-1_T2w.nii", "sub-01"),
        ("sub-01/anat/sub-01_acq-fast_T2w.nii", "sub-01"),
        ("sub-01_T2w.nii", "sub-01"),
        ("ward_7_ses-2.nii", "sub-ward7"),
        ("BraTS-GLI-00005-101-t2w.nii", "sub-BraTSGLI00005"),
        ("Brats18_2013_11_1_t2.nii", "sub-Brats182013111"),
        ("IXI002-Guys-0828-T2.nii", "sub-IXI002"),
        ("scan-12345-678-x.nii", "sub-scan12345678x"),
    ],
)
def test_participants(tmp_path, name, expected):
    make(tmp_path, name)
    (subject,) = sources.find(str(tmp_path))
    assert subject.participant == expected


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
    with pytest.raises(InputError):
        found["sub-broken"].image()
    assert len(found) == 2


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
def test_the_real_brats_folder():
    found = sources.find(str(images.REAL / "brats18"))
    assert len(found) == 12
    assert found[0].original == "Brats18_2013_11_1"
    assert 1000 < references.read(found[0], found[0].image()).lesion.sum() < 500_000
    assert all(subject.lesion for subject in found)
    assert [subject.paths for subject in found] == [
        (path,) for path in sorted(images.REAL.glob("brats18/*/*_t2.nii.gz"))
    ]


def test_masks_that_lgjax_wrote_are_not_taken_as_given(tmp_path):
    """Its own derivative inside the data set; another program's mask there is one."""
    images.save(tmp_path / "sub-1" / "anat" / "sub-1_T2w.nii.gz", SCAN)
    mask = tmp_path / "derivatives" / "made" / "sub-1" / "anat" / "sub-1_desc-brain_mask.nii.gz"
    images.save(mask, np.ones(SCAN.shape, np.uint8))
    about = mask.parents[2] / "dataset_description.json"
    for maker, expected in (("lgjax", False), ("fmriprep", True)):
        about.write_text('{"GeneratedBy": [{"Name": "' + maker + '"}]}')
        (subject,) = sources.find(str(tmp_path))
        assert (subject.mask is not None) == expected
