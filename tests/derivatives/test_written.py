"""What restore wrote is nobody's scan and no reference: in a folder, as a file, in a table, and renamed."""

import dataclasses
import pathlib
import shutil

import derived
import nibabel as nib
import numpy as np
import pytest

import lgjax
from lgjax.batch import restorations
from lgjax.preparation import cohort
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> pathlib.Path:
    """A folder with all that restore writes of one scan."""
    folder = tmp_path_factory.mktemp("written")
    found = derived.detector()(lgjax.read(nib.Nifti1Image(derived.brain(), derived.GRID), name="one"))
    pvalues = np.where(found.brain, 0.5, 1).astype(np.float32)
    maps = found.maps._replace(pvalues=pvalues, volume_masks={"1.5": found.masks["0.01"]})
    maps = maps._replace(restored=found.subject.image.data)
    dataclasses.replace(found, maps=maps).save(folder)
    return folder


@pytest.fixture
def images(written) -> list[pathlib.Path]:
    found = sorted(written.rglob("*.nii.gz"))
    assert len([path for path in found if path.name.endswith("_T2w.nii.gz")]) == 3
    assert len(found) == 8
    return found


def refused(subject: sources.Subject) -> bool:
    with pytest.raises(InputError, match="written by lgjax") as fault:
        subject.image()
    return "Give the scan" in fault.value.remedy


def test_a_folder_of_results_holds_no_scan(written):
    for place, count in (("", 3), ("sub-one", 7), ("sub-one/anat", 7)):  # a BIDS folder looks at T2w images alone
        place = written / place
        with pytest.raises(UsageError, match=f"Left out, written by lgjax: {count}"):
            lgjax.find(str(place))
        with pytest.raises(UsageError):
            lgjax.find(str(place), any_sequence=True)
    with pytest.raises(UsageError, match="written by lgjax"):
        cohort.count(cohort.Source(str(written), 1, 1))


def test_scans_beside_results_are_found_alone(written, tmp_path):
    shutil.copytree(written / "sub-one", tmp_path / "sub-one")
    anat = tmp_path / "sub-one" / "anat"
    nib.save(nib.Nifti1Image(derived.brain(), derived.GRID), anat / "sub-one_T2w.nii.gz")
    for place in (tmp_path, anat):
        (found,) = sources.survey(str(place), sources.Reading()).found
        assert found.paths[0] == anat / "sub-one_T2w.nii.gz"


def test_a_file_of_results_is_refused(images):
    for path in images:
        assert refused(lgjax.read(str(path)))
        assert refused(lgjax.read(str(path), any_sequence=True))
        with pytest.raises(InputError, match="written by lgjax"):
            lgjax.read(nib.load(path))


def test_a_map_given_by_mistake_costs_its_scan_no_result(written, tmp_path):
    shutil.copytree(written, tmp_path / "out")
    maps = sorted((tmp_path / "out").rglob("*.nii.gz"))
    before = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*one_space*")) if path.is_file()}
    found = [lgjax.read(str(path)) for path in maps]
    outcome = restorations.restore(derived.detector(), found, tmp_path / "out", 1)
    assert len(outcome.failures) == len(maps)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*one_space*"))} == before


def test_files_of_results_are_left_out(images):
    with pytest.raises(UsageError, match="None of the 8 files is a scan"):
        sources.survey_files([str(path) for path in images], sources.Reading())


def test_a_table_of_results_is_refused(images, tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("participant_id\timage\n" + "".join(f"p{k}\t{path}\n" for k, path in enumerate(images)))
    found = lgjax.find(str(table))
    assert len(found) == len(images)
    assert all(map(refused, found))


def test_a_renamed_map_is_known_by_its_sidecar(images, tmp_path):
    for number, path in enumerate(images):
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        shutil.copy(path, tmp_path / f"a{number}.nii.gz")
        shutil.copy(sidecar, tmp_path / f"a{number}.json")
        assert refused(lgjax.read(str(tmp_path / f"a{number}.nii.gz")))
    with pytest.raises(UsageError, match="written by lgjax: 8"):
        lgjax.find(str(tmp_path))


@pytest.mark.parametrize(("name", "real"), [("imagesTs/{}", "case"), ("Brats_{}", "9_t2"), ("P1/{}", "T2")])
def test_layouts_with_rules_for_names_take_no_map(images, tmp_path, name, real):
    for path in images:
        place = tmp_path / name.format(path.name.replace("T2w", "t2"))
        place.parent.mkdir(exist_ok=True)
        shutil.copy(path, place)
    with pytest.raises(UsageError, match=r"written by lgjax: [37]"):
        lgjax.find(str(tmp_path))
    scan = tmp_path / name.format(f"{real}.nii.gz")
    nib.save(nib.Nifti1Image(derived.brain(), derived.GRID), scan)
    found = sources.survey(str(tmp_path), sources.Reading())
    assert [subject.paths[0] for subject in found.found] == [scan]
    assert len([each for each in found.left_out if each.reason == "written by lgjax"]) >= 3


def test_detections_beside_a_scan_are_not_its_reference(images, tmp_path):
    nib.save(nib.Nifti1Image(derived.brain(), derived.GRID), tmp_path / "sub-one.nii.gz")
    for path in images:
        shutil.copy(path, tmp_path)
    (flat,) = lgjax.find(str(tmp_path))
    anat = tmp_path / "bids" / "sub-one" / "anat"
    anat.mkdir(parents=True)
    nib.save(nib.Nifti1Image(derived.brain(), derived.GRID), anat / "sub-one_T2w.nii.gz")
    for path in images:
        shutil.copy(path, anat)
    (bids,) = lgjax.find(str(tmp_path / "bids"))
    for found in (flat, bids):
        assert found.lesion is None
        with pytest.raises(InputError, match="no reference"):
            found.guess(found.image())


def test_a_renamed_detection_in_a_patients_folder_is_not_guessed_to_be_the_reference(images, tmp_path):
    nib.save(nib.Nifti1Image(derived.brain(), derived.GRID), tmp_path / "T2.nii.gz")
    (mask,) = (path for path in images if "desc-fpr5_mask" in path.name)

    def reference():
        (found,) = (one for one in lgjax.find(str(tmp_path)) if one.original == "T2")
        return found.guess(found.image())

    shutil.copy(mask, tmp_path / "result_T1.nii.gz")
    assert reference().data.any()  # nothing tells what the image is
    shutil.copy(mask.with_name(mask.name.replace(".nii.gz", ".json")), tmp_path / "result_T1.json")
    with pytest.raises(InputError, match="no reference"):
        reference()


def test_a_map_without_its_sidecar_is_known_by_its_name(images, tmp_path):
    maps = [path for path in images if "brain_mask" not in path.name]
    for path in maps:
        shutil.copy(path, tmp_path / f"copy_of_{path.name}")
        assert refused(lgjax.read(str(tmp_path / f"copy_of_{path.name}")))
    with pytest.raises(UsageError, match="written by lgjax: 7"):
        lgjax.find(str(tmp_path))
