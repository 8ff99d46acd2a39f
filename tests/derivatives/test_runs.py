"""Results of other people who have the same names are never replaced."""

import images
import pytest

from lgjax.derivatives import runs
from lgjax.runtime import files
from lgjax.runtime.errors import UsageError
from lgjax.scans import sources


@pytest.fixture
def cohorts(tmp_path):
    """Two folders, each with a scan P1 of its own, and what is recorded of the first."""
    for number, folder in enumerate(("first", "second")):
        images.save(tmp_path / folder / "P1.nii.gz", images.head((4, 5, 6)) + number)
    (tmp_path / "out").mkdir()
    runs.write(tmp_path / "out", [str(tmp_path / "first")])
    return tmp_path, {"sub-P1": files.sha256(tmp_path / "first" / "P1.nii.gz")}


def changed(root, folder, recorded):
    place = str(root / folder)
    return runs.changed(root / "out", [place], sources.find(place), recorded)


def test_the_same_scan_has_not_changed_wherever_it_lies(cohorts):
    root, recorded = cohorts
    assert changed(root, "first", recorded) == []
    (root / "first").rename(root / "moved")
    assert changed(root, "moved", recorded) == []


def test_an_edited_scan_of_the_same_input_is_told(cohorts):
    root, recorded = cohorts
    images.save(root / "first" / "P1.nii.gz", images.head((4, 5, 6)) * 2)
    assert changed(root, "first", recorded) == ["sub-P1"]


def test_a_data_set_that_was_moved_is_known_by_a_scan_that_stays(cohorts):
    root, recorded = cohorts
    images.save(root / "second" / "P2.nii.gz", images.head((4, 5, 6)) * 3)
    recorded["sub-P2"] = files.sha256(root / "second" / "P2.nii.gz")
    assert changed(root, "second", recorded) == ["sub-P1"]


def test_another_person_of_the_same_name_is_refused(cohorts):
    root, recorded = cohorts
    with pytest.raises(UsageError, match="holds results of other scans with the same names: sub-P1"):
        changed(root, "second", recorded)
    assert changed(root, "second", {}) == []
    assert changed(root, "second", {"sub-P2": "x"}) == []
