"""One cohort after the other into one folder: nobody is dropped in silence, and nobody's slices are touched."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import zlib

import images
import nibabel as nib
import numpy as np
import pytest

from configs import data
from lgjax import preprocess
from lgjax.batch import preparations
from lgjax.preparation import additions, cohort, dataset, passes, recipe, splits
from lgjax.preprocess import People
from lgjax.runtime import parallel
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import participants, sources

ADD, MM = People(add=True), images.affine((2.0, 2.0, 3.0))


def work_in_threads(patch):
    patch.setattr(parallel, "processes", lambda workers: contextlib.nullcontext())
    patch.setattr(preparations, "report", lambda *_: None)  # pages are tested elsewhere


@pytest.fixture(autouse=True)
def in_threads(monkeypatch):
    work_in_threads(monkeypatch)


def scan(seed):
    data = images.head((12, 14, 8), seed=seed)
    return np.where(data > 0, data + 40 + seed % 50, 0).astype(np.float32)


def site(folder, names):
    for name in names:
        images.save(folder / f"{name}.nii", scan(zlib.crc32(name.encode()) % 997), MM)
    return folder


def prepare(source, folder, people=preparations.NOBODY, match=True, subjects=None, saturation=()):
    config = data.smoke()
    config.height = config.width = 8
    config.bias_field.correct, config.histogram.match, config.workers = False, match, 1
    config.saturation = saturation
    subjects = participants.annotate(subjects or sources.find(str(source)), [str(source)], people.person)
    made = recipe.from_config(config)
    return preprocess.preprocess(subjects, made, config, folder, given=False, inputs=[str(source)], people=people)


def index(folder):
    return {entry.identifier: entry for entry in dataset.read_index(folder).subjects}


def test_a_folder_in_which_another_process_prepares_others_is_refused(tmp_path):
    site(tmp_path / "a", ["A1"])
    with Claims(tmp_path / "p", "others"), pytest.raises(UsageError, match=f"process {os.getpid()} on "):
        prepare(tmp_path / "a", tmp_path / "p")
    assert not list((tmp_path / "p").iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four subjects of one site, and the folder in which they are prepared beside them."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        work_in_threads(patch)
        prepare(site(folder / "a", ["A1", "A2", "A3", "A4"]), folder / "p")
    return folder


@pytest.fixture
def first(made, tmp_path):
    """A copy of the prepared folder, beside one of the scans."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "p"


def test_a_refused_copy_counts_no_more_where_another_process_has_written_the_index(first):
    """The first pass corrects a copy of a scan before it knows that, in every process that comes to the copy."""
    dataset.note(first, "sub-A9", dataset.SCAN, {})
    before = (first / "index.json").read_bytes()
    fault = InputError("A9.nii", "is the same scan as sub-A1", "Keep one of the two")
    preparations.finish(first, dataset.read_index(first), {}, {"sub-A9": fault}, {}, alone=False)
    assert dataset.record(first, "sub-A9", dataset.SCAN) is not None  # which another process may be writing
    preparations.finish(first, dataset.read_index(first), {}, {"sub-A9": fault}, {}, alone=True)
    assert dataset.record(first, "sub-A9", dataset.SCAN) is None
    assert (first / "index.json").read_bytes() == before


@pytest.mark.parametrize("fails", ["the first", "the other"])
def test_what_fails_for_one_process_and_not_for_another_is_prepared(tmp_path, monkeypatch, fails):
    """As where one host cannot read a file: all slices are cut by the recipe of the index, and nobody is lost."""
    source, correct, correct_all = site(tmp_path / "a", ["A1", "A2", "A3", "A4"]), passes.correct, passes.correct_all
    working, codes = ["the first"], []

    def attempt(job):
        if working[-1] == fails and job.subject.identifier == "sub-A2":
            raise InputError("A2.nii", "cannot be read", "Try again")
        return correct(job)

    def other_meanwhile(*given):
        found = correct_all(*given)
        if len(working) == 1:
            working.append("the other")
            codes.append(prepare(source, tmp_path / "p"))
        return found

    prepare(site(tmp_path / "old", ["B1", "B2"]), tmp_path / "p")  # a recipe of others lies there
    for path in (tmp_path / "p").glob("sub-*"):
        shutil.rmtree(path)
    monkeypatch.setattr(passes, "correct", attempt)
    monkeypatch.setattr(passes, "correct_all", other_meanwhile)
    codes.append(prepare(source, tmp_path / "p"))
    assert codes == ([0, 0] if fails == "the first" else [3, 0])
    found = dataset.read_index(tmp_path / "p")
    assert [entry.identifier for entry in found.subjects] == ["sub-A1", "sub-A2", "sub-A3", "sub-A4"]
    for entry in found.subjects:
        assert dataset.record(tmp_path / "p", entry.identifier, dataset.SCAN)
        assert dataset.record(tmp_path / "p", entry.identifier, dataset.SLICES)["RecipeSHA256"] == found.recipe.digest
    assert recipe.read(tmp_path / "p" / dataset.RECIPE) == found.recipe
    assert not (tmp_path / "p" / ".lgjax").exists()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_cohort_is_refused_before_anything_is_done(first, tmp_path):
    before = contents(first)
    message = r"p holds 4 subjects that --input does not have: sub-A1, sub-A2, .* both; or --add to keep them"
    with pytest.raises(UsageError, match=message):
        prepare(site(tmp_path / "b", ["B1", "B2"]), first)
    assert contents(first) == before


def test_an_added_cohort_joins_the_first_which_stays_as_it_is(first, tmp_path, capsys):
    before = contents(first)
    old = index(first)
    assert prepare(site(tmp_path / "b", ["B1", "B2"]), first, ADD) == 0
    assert "4 in the folder that --input does not have stay" in capsys.readouterr().out
    found = index(first)
    assert list(found) == ["sub-A1", "sub-A2", "sub-A3", "sub-A4", "sub-B1", "sub-B2"]
    assert {name: found[name] for name in old} == old
    after = contents(first)
    told = ("index.json", "participants.tsv", "run.json", "dataset_description.json")  # who is there, and from where
    assert {path for path in before if before[path] != after[path]} <= set(map(pathlib.Path, told))
    assert (first / "participants.tsv").read_text().count("\nsub-") == 6
    for entry in found.values():  # the histogram of the first cohort, for all
        about = dataset.record(first, entry.identifier, dataset.SLICES)
        assert about["RecipeSHA256"] == dataset.read_index(first).recipe.digest
    assert prepare(tmp_path / "b", first, ADD) == 0  # again
    assert contents(first) == after


def test_a_folder_with_both_learns_the_histogram_anew(first, tmp_path):
    before = dataset.read_index(first).recipe
    site(tmp_path / "a", ["B1", "B2"])
    prepare(tmp_path / "a", first)
    assert len(index(first)) == 6
    assert dataset.read_index(first).recipe.histogram != before.histogram


def test_an_interrupted_addition_goes_on(first, tmp_path, monkeypatch):
    b = site(tmp_path / "b", ["B1", "B2"])
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(b, first, ADD)
    assert not dataset.is_prepared(first)
    with pytest.raises(UsageError, match="holds 4 subjects that --input does not have"):
        prepare(b, first)
    with pytest.raises(UsageError, match="holds 2 subjects that --input does not have: sub-B1, sub-B2"):
        prepare(tmp_path / "a", first)
    prepare(b, first, ADD)
    assert len(index(first)) == 6


def test_what_was_begun_and_not_finished_is_not_added_to(tmp_path, first):
    b = site(tmp_path / "b", ["B1"])
    dataset.file(first, "sub-A2", f"{dataset.SLICES}.json").unlink()
    with pytest.raises(UsageError, match=r"1 subjects .* that --input does not have are unfinished: sub-A2"):
        prepare(b, first, ADD)
    (first / dataset.RECIPE).unlink()
    with pytest.raises(UsageError, match="holds nothing that is finished, to --add to"):
        prepare(b, first, ADD)


def test_add_into_an_empty_folder_is_a_beginning(tmp_path):
    prepare(site(tmp_path / "a", ["A1"]), tmp_path / "p", ADD)
    assert list(index(tmp_path / "p")) == ["sub-A1"]


def test_one_scan_under_two_names_is_added_once(first, tmp_path, capsys):
    """Whether the copy is packed or not."""
    image = nib.load(tmp_path / "a" / "A3.nii")
    (tmp_path / "b").mkdir()
    nib.save(image, tmp_path / "b" / "packed.nii.gz")
    (tmp_path / "b" / "same.nii").write_bytes((tmp_path / "a" / "A3.nii").read_bytes())
    assert prepare(tmp_path / "b", first, ADD) == 3
    said = capsys.readouterr().err
    assert said.count("is the same scan as sub-A3") == 2
    assert len(index(first)) == 4


def test_a_subject_whose_folder_is_removed_is_dropped_on_purpose(first, tmp_path):
    (tmp_path / "a" / "A1.nii").unlink()
    with pytest.raises(UsageError, match="holds 1 subjects that --input does not have: sub-A1"):
        prepare(tmp_path / "a", first)
    for path in sorted((first / "sub-A1").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    prepare(tmp_path / "a", first)
    assert list(index(first)) == ["sub-A2", "sub-A3", "sub-A4"]


def test_other_settings_are_refused_and_who_calibrates_may_change(first, tmp_path):
    with pytest.raises(UsageError, match=r"was prepared otherwise \(match\)"):
        prepare(tmp_path / "a", first, ADD, match=False)
    prepare(tmp_path / "a", first, People(calibration=("A2",)))
    assert {name for name, entry in index(first).items() if entry.split == "calibration"} == {"sub-A2"}
    assert additions.settings(first)["calibration"] == ["A2"]
    (first / "settings.json").write_text("{")
    with pytest.raises(InputError, match="another --output"):
        prepare(tmp_path / "a", first)


def test_visits_of_one_person_share_a_split_across_two_cohorts(tmp_path, capsys):
    """The case `visits`: two dated visits of each person, here one visit a command."""
    for visit in (1, 2):
        names = [f"HC{number:03d}_2021010{visit}_T2" for number in range(4)]
        prepare(site(tmp_path / f"v{visit}", names), tmp_path / "p", ADD)
    assert "train 8 (persons: 4)" in capsys.readouterr().out
    found = {name: entry.split for name, entry in index(tmp_path / "p").items()}
    assert len(found) == 8
    for number in range(4):
        person = f"sub-HC{number:03d}"
        assert found[f"{person}20210101T2"] == found[f"{person}20210102T2"] == splits.by_person(person)
    rows = cohort.rows(str(tmp_path / "p"), dataset.read_index(tmp_path / "p").subjects)
    assert len({row.person for row in rows}) == 4


def test_patients_among_the_healthy_are_left_out_with_a_line(tmp_path, capsys):
    names = [f"sub-{number:02d}" for number in range(6)]
    for name in names:
        images.save(tmp_path / "bids" / name / "anat" / f"{name}_T2w.nii", scan(int(name[-2:])), MM)
    kinds = ["glioma"] * 3 + ["healthy"] * 3
    table = ["participant_id\tlesion_kind", *(f"{name}\t{kind}" for name, kind in zip(names, kinds, strict=True))]
    (tmp_path / "bids" / "participants.tsv").write_text("\n".join(table) + "\n")
    prepare(tmp_path / "bids", tmp_path / "p")
    said = capsys.readouterr().out
    assert "3 left out, in no split but test: sub-00 (glioma), sub-01 (glioma), sub-02 (glioma)" in said
    assert "warning: nobody is in the calibration split, and train will refuse" in said
    found = {name: entry.split for name, entry in index(tmp_path / "p").items()}
    assert [found[name] for name in names[:3]] == ["test"] * 3
    assert "test" not in [found[name] for name in names[3:] if splits.by_person(name) != "test"]
    rows = cohort.rows(str(tmp_path / "p"), dataset.read_index(tmp_path / "p").subjects)
    assert [row.kind for row in rows] == kinds


def test_what_was_read_is_told_not_how_a_folder_is_called(tmp_path):
    """The case `phantom_study`, and its opposite: synthetic scans in a folder that says nothing."""
    real = tmp_path / "phantom_prepared"
    prepare(site(tmp_path / "phantom_study", ["S1", "S2"]), real)
    assert cohort.describe(cohort.Source(str(real), 1, 1)) == "phantom_prepared"
    made = sources.find(str(tmp_path / "phantom_study"))
    synthetic = [dataclasses.replace(one, source="phantom:train:healthy:0") for one in made]
    prepare("phantom:train:2", tmp_path / "cohort", subjects=synthetic)
    told = cohort.describe(cohort.Source(str(tmp_path / "cohort"), 1, 1))
    assert told == "synthetic healthy brains, prepared: cohort"
    for name in ("phantom_study", "phantom-2", "phantoms", "phantom.d", "my_phantom", "phantom/a", "./phantom"):
        assert not sources.is_phantom(name)
    for name in ("phantom", "phantom:train:8", "phantom@3+0.5:test"):
        assert sources.is_phantom(name)


def test_a_person_that_is_told_anew_is_noted_without_work(tmp_path, first):
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*_desc-preproc_T2w.nii.gz")}
    prepare(tmp_path / "a", first, People(person="^(A)"))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(times) == 4
    noted = [json.loads(path.read_text())["Participant"] for path in first.rglob("*_desc-preproc_T2w.json")]
    assert noted == ["sub-A"] * 4
    assert len({entry.split for entry in index(first).values()}) == 1


@pytest.mark.parametrize(
    ("content", "ours"),
    [("{}", False), ('["a.nii"]', False), ('{"files": []}', False), ('{"recipe', True), ('{"subjects": 1}', True)],
)
def test_an_index_of_another_program_makes_no_prepared_data_set(tmp_path, content, ours):
    assert not dataset.is_prepared(tmp_path)
    (tmp_path / "index.json").write_text(content)
    assert dataset.is_prepared(tmp_path) == ours


def test_saturation_clips_the_slices_on_disk_and_leaves_the_corrected_scans_alone(tmp_path):
    source = site(tmp_path / "a", ["A1", "A2"])
    prepare(source, tmp_path / "plain")
    prepare(source, tmp_path / "clipped", saturation=(-1.0, 0.5))
    for name in ("sub-A1", "sub-A2"):
        paths = [dataset.file(tmp_path / folder, name, f"{dataset.SLICES}.npy") for folder in ("plain", "clipped")]
        plain, clipped = map(np.load, paths)
        np.testing.assert_array_equal(clipped, np.clip(plain, np.float32(-1), np.float32(0.5)))
        assert plain.max() > 0.5
        scans = [dataset.file(tmp_path / folder, name, f"{dataset.SCAN}.nii.gz") for folder in ("plain", "clipped")]
        assert scans[0].read_bytes() == scans[1].read_bytes()
    with pytest.raises(UsageError, match=r"clipped was prepared otherwise \(recipe\)"):
        prepare(source, tmp_path / "clipped", saturation=(-2.0, 1.5))
