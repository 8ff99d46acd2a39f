"""Identifiers keep the entities that BIDS gave a scan, give all paths, and are contained whatever the name."""

import pathlib
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from lgjax.scans import names

FOLDER = pathlib.Path("/out")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-A1_ses-01_run-1_T2w", "sub-A1_ses-01_run-1"),
        ("sub-A1_ses-01_run-1", "sub-A1_ses-01_run-1"),
        ("sub-01_T2w", "sub-01"),
        ("sub-1_run-2_acq-tse_ses-a_T2w", "sub-1_ses-a_acq-tse_run-2"),  # the order of BIDS
        ("sub-1_acq-tse_rec-n4_echo-2_part-mag_T2w", "sub-1_acq-tse_rec-n4_echo-2_part-mag"),
        ("sub-1_ce-gd_chunk-03_T2w", "sub-1_acq-chunk03_ce-gd"),
        ("sub-1_space-MNI_res-2_desc-preproc_T2w", "sub-1"),  # tell of processing
        ("sub-1_dir-AP_T2w", "sub-1_acq-dirAP"),  # BIDS has it for other images
        ("sub-1_acq-tse_site-b_T2w", "sub-1_acq-tsesiteb"),
        ("sub-1_run-1_run-2_T2w", "sub-1_acq-run2_run-1"),
        ("sub-1_run-2b_T2w", "sub-1_acq-run2b"),  # BIDS wants digits
        ("sub-1_part-left_T2w", "sub-1_acq-partleft"),
        ("sub-1_ses-a:b_T2w", "sub-1_ses-ab"),
        ("sub-1_ses-../.._T2w", f"sub-1_ses-{names._short_hash('../..')}"),
        ("sub-José_ses-août_T2w", "sub-Jose_ses-aout"),
        ("sub-01_ses-2_FLAIR", "sub-01ses2FLAIR"),  # no T2w image's name: as any other
        ("BraTS-GLI-00005-101", "sub-BraTSGLI00005101"),
        ("ward_7_ses-2", "sub-ward7ses2"),
    ],
)
def test_identifiers(name, expected):
    assert names.identifier(name) == expected


pairs = st.lists(st.tuples(st.sampled_from((*names.ENTITIES, "dir", "foo", "desc")), st.text(min_size=1, max_size=90)))
hostile = st.sampled_from(["..", "../x", "a:b", "", "患者", "\x00", "-", "a" * 300, "CON", "/", "\\", "\udcff"])
entities = st.builds(
    lambda start, found: "_".join([f"sub-{start}", *(f"{key}-{value}" for key, value in found)]),
    st.text(max_size=90) | hostile,
    pairs | st.lists(st.tuples(st.sampled_from(names.ENTITIES), hostile)),
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.text(max_size=300) | entities)
def test_every_name_is_contained(name):
    found = names.identifier(name)
    pair = "-[A-Za-z0-9]+"
    assert re.fullmatch(f"sub{pair}" + "".join(f"(_{key}{pair})?" for key in names.ENTITIES), found)
    assert len(found) <= 150
    assert names.identifier(found) == found  # a prepared scan keeps it
    for path in (names.file(FOLDER, found, "space-orig_x.json"), names.figure(FOLDER, found, "x.png")):
        assert path.is_relative_to(FOLDER / names.subject(found))
        assert all(part not in ("", ".", "..") for part in path.parts)
    assert names.file(FOLDER, found, "") != names.file(FOLDER, found + "x", "")


def test_paths():
    found = "sub-A1_ses-01_acq-x_run-1"
    anat = FOLDER / "sub-A1" / "ses-01" / "anat"
    assert names.place(FOLDER, found) == anat
    assert names.file(FOLDER, found, "desc-brain_mask.nii.gz") == anat / f"{found}_desc-brain_mask.nii.gz"
    assert names.figure(FOLDER, found, "a.png") == FOLDER / "sub-A1" / "figures" / f"{found}_a.png"
    assert names.place(FOLDER, "sub-acqses1") == FOLDER / "sub-acqses1" / "anat"


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("sub-1", "sub-1/ses-a/anat", "sub-1_ses-a"),  # outside of BIDS, and yet found
        ("sub-1_run-1", "sub-1/ses-a/anat", "sub-1_ses-a_run-1"),
        ("sub-1_ses-b", "sub-1/ses-a/anat", "sub-1_ses-b"),
        ("sub-1_run-1", "sub-1/anat", "sub-1_run-1"),
    ],
)
def test_a_session_that_the_folder_states(name, folder, expected):
    assert names.of_session(name, pathlib.PurePath(folder)) == expected


def test_places_are_found_with_and_without_sessions(tmp_path):
    for identifier in ("sub-2_ses-b_run-1", "sub-1", "sub-2_ses-a"):
        names.place(tmp_path, identifier).mkdir(parents=True)
    (tmp_path / "evaluation" / "anat").mkdir(parents=True)
    found = [path.relative_to(tmp_path).as_posix() for path in names.places(tmp_path)]
    assert found == ["sub-1/anat", "sub-2/ses-a/anat", "sub-2/ses-b/anat"]


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/d/raw/sub-1/anat/sub-1_T2w.nii.gz", "/d/raw", "bids:raw:sub-1/anat/sub-1_T2w.nii.gz"),
        ("/home/jane/a scan.nii", "/home/jane/a scan.nii", "bids:raw:a%20scan.nii"),
        ("raw/x#1.nii", "raw", "bids:raw:x%231.nii"),
        ("/mnt/other/x.nii", "/d/raw", "bids:raw:x.nii"),
        ("x.nii", ".", "bids:raw:x.nii"),
        ("d/\udcff.nii", "d", "bids:raw:%FF.nii"),  # no UTF-8
    ],
)
def test_uris_name_no_place_of_the_machine(path, root, expected):
    assert names.uri(pathlib.Path(path), pathlib.Path(root)) == expected
