"""The folder of one BIDS participant, or of one session, as an input: its scans have the names of the data set."""

import dataclasses
import pathlib

import derived
import images
import nibabel as nib
import numpy as np
import pytest

from lgjax.derivatives import occupied
from lgjax.scans import sources

SCAN = images.head((8, 9, 7))


def make(root: pathlib.Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        images.save(root / path, np.roll(SCAN, number, 0))


def named(place: pathlib.Path) -> dict[str, pathlib.Path]:
    return {subject.identifier: subject.paths[0] for subject in sources.find(str(place))}


SCANS = (
    "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_run-1_T2w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_run-2_T2w.nii.gz",
    "sub-02/anat/sub-02_acq-tse_T2w.nii.gz",
    "sub-03/ses-1/anat/sub-03_T2w.nii.gz",
)


@pytest.mark.parametrize("place", ["sub-01", "sub-01/ses-1", "sub-01/ses-2", "sub-02", "sub-03", "sub-03/ses-1"])
def test_scans_have_the_names_of_the_data_set(tmp_path, place, monkeypatch):
    make(tmp_path, *SCANS)
    expected = {name: path for name, path in named(tmp_path).items() if path.is_relative_to(tmp_path / place)}
    assert len(expected) > 0
    assert named(tmp_path / place) == expected
    monkeypatch.chdir(tmp_path / place)
    assert named(pathlib.Path()).keys() == expected.keys()


def test_other_folders_are_named_as_ever(tmp_path):
    make(tmp_path, "sub-01/T2/scan.nii.gz", "sub-01/old/sub-02_T2w.nii.gz", "two/a/sub-01/anat/sub-01_T2w.nii.gz")
    make(tmp_path, "two/b/sub-01/anat/sub-01_T2w.nii.gz")
    assert set(named(tmp_path / "two")) == {"sub-a01", "sub-b01"}
    assert {one.earlier for one in sources.find(str(tmp_path / "sub-01"))} == {""}


def test_names_that_do_not_tell_scans_apart_stay_as_they_were(tmp_path):
    make(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz", "sub-01/anat/sub-01_space-MNI_T2w.nii.gz")
    found = named(tmp_path / "sub-01")
    assert len(found) == 2
    assert "sub-01" not in found


def test_maps_keep_the_name_that_an_earlier_version_gave_them(tmp_path):
    place = tmp_path / "ds" / "sub-01" / "ses-1" / "anat"
    place.mkdir(parents=True)
    nib.save(nib.Nifti1Image(derived.brain(), derived.GRID), place / "sub-01_ses-1_T2w.nii.gz")
    (found,) = sources.find(str(tmp_path / "ds" / "sub-01"))
    assert (found.identifier, found.earlier) == ("sub-01_ses-1", "sub-ses1")
    out = tmp_path / "out"
    assert occupied.as_before([out], [found]) == [found]
    derived.detector()(dataclasses.replace(found, identifier=found.earlier)).save(out)
    (kept,) = occupied.as_before([tmp_path, out], [found])
    assert kept.identifier == "sub-ses1"
    nib.save(nib.Nifti1Image(derived.brain(1), derived.GRID), place / "sub-01_ses-1_T2w.nii.gz")
    assert occupied.as_before([out], [found]) == [found]  # those are the maps of another person's ses-1
