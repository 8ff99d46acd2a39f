"""lgjax.preprocess as a user runs it, on a small cohort: what it writes, keeps, refuses and takes up again."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import images
import nibabel as nib
import numpy as np
import pytest
import server
from conftest import ONE_DEVICE, ROOT, until

from lgjax.preparation import cohort, dataset, histogram, passes, pipeline, recipe
from lgjax.preparation.splits import splits_of
from lgjax.runtime import files
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.workdir import experiment

NUMBERS = (0, 1, 2, 3, 4, 8, 18)  # of subjects: their hashes fall into all three splits
SETTINGS = [
    "--config=configs/data.py:smoke",
    "--config.height=16",
    "--config.width=16",
    "--config.spacing=2.0",
    "--config.bias_field.iterations=10",
]


def no_tools() -> None:
    """As in a shell where no tool strips skulls."""
    os.environ["PATH"] = "/usr/bin"


def without_tools_in_threads() -> None:
    no_tools()
    server.in_threads()


def without_tools_in_forks() -> None:
    no_tools()
    server.in_forks()


def typed(*arguments) -> subprocess.CompletedProcess:
    """Types the command in a shell where no tool strips skulls: its worker is the one that users have."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": ONE_DEVICE,
        "PATH": "/usr/bin",
    }
    command = [sys.executable, "-m", "lgjax.preprocess", *SETTINGS, *map(str, arguments), "--config.workers=1"]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=900)


def lgjax(binary: str, *arguments, before=no_tools) -> subprocess.CompletedProcess:
    return server.run(binary, *arguments, before=before)


def run(*arguments) -> subprocess.CompletedProcess:
    """Prepares in threads; `first`, with which the tests compare, in processes."""
    return lgjax("preprocess", *SETTINGS, *arguments, before=without_tools_in_threads)


def ok(result: subprocess.CompletedProcess) -> None:
    assert result.returncode == 0, result.stdout + result.stderr


def scan(seed: int) -> np.ndarray:
    """A head with its own brightness and a smooth field, whole numbers."""
    data = images.head(seed=seed)
    ramp = np.linspace(0.8, 1.2, data.shape[1])[None, :, None]
    return np.where(data > 0, (data * ramp * (1 + seed) + 40).round(), 0).astype(np.float32)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Seven healthy subjects as Cam-CAN has them, a damaged one and a head without a mask."""
    root = tmp_path_factory.mktemp("raw")
    for seed in NUMBERS:
        name = f"sub-CC{seed:06d}"
        images.save(root / "anat" / name / "anat" / f"{name}_T2w.nii.gz", scan(seed))
    good = (root / "anat" / "sub-CC000000" / "anat" / "sub-CC000000_T2w.nii.gz").read_bytes()
    for name, content in (("sub-CC100001", good[: len(good) // 2]), ("sub-CC100003", good)):
        path = root / "anat" / name / "anat" / f"{name}_T2w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    noise = np.random.default_rng(0).rayleigh(5, (20, 24, 16)).astype(np.float32)
    images.save(root / "anat" / "sub-CC100002" / "anat" / "sub-CC100002_T2w.nii.gz", scan(8) + noise)
    return root


@pytest.fixture(scope="module")
def first(raw, tmp_path_factory):
    """The folder that the first run wrote, and what it said."""
    folder = tmp_path_factory.mktemp("prepared") / "p"
    told = f"--input={raw}", f"--output={folder}"
    return folder, lgjax("preprocess", *SETTINGS, *told, before=without_tools_in_forks)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_subjects_are_named_and_the_others_are_done(first):
    folder, result = first
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: sub-")]
    assert len(failed) == 3
    assert "sub-CC100001" in failed[0]
    assert "truncated" in failed[0] or "damaged" in failed[0]
    assert "sub-CC100002" in failed[1]
    assert "still has its skull" in failed[1]
    assert "hd-bet" in failed[1]
    assert "is the same scan as sub-CC000000" in failed[2]
    assert "7 prepared" in result.stdout
    index = dataset.read_index(folder)
    assert [entry.identifier for entry in index.subjects] == [f"sub-CC{seed:06d}" for seed in NUMBERS]
    assert not (folder / "sub-CC100001").exists()
    assert not (folder / "sub-CC100002").exists()
    assert not list(folder.rglob("*.tmp"))


def test_the_data_set_is_what_it_says(raw, first):
    folder, _ = first
    index = dataset.read_index(folder)
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert recipe.read(folder / "preprocessing.json") == index.recipe
    assert len(index.recipe.histogram.values) == 11
    corrected = {subject.identifier: subject for subject in sources.find(str(folder))}
    for entry in index.subjects:
        y = np.load(dataset.file(folder, entry.identifier, "desc-slices_T2w.npy"), mmap_mode="r")
        mask = np.load(dataset.file(folder, entry.identifier, "desc-slices_mask.npy"), mmap_mode="r")
        assert y.shape == mask.shape == (len(entry.index), 16, 16)
        assert (y.dtype, mask.dtype) == (np.float32, bool)
        assert (y[~mask] == -3.5).all()
        np.testing.assert_allclose(mask.mean(axis=(1, 2)), entry.mask_fraction, atol=1e-6)
        again = pipeline.prepare(corrected[entry.identifier], index.recipe)  # as calibration reads it
        np.testing.assert_array_equal(again.slices.y[..., 0], y)
        assert again.image.sha256 == entry.input_sha256


def test_a_raw_scan_is_prepared_as_the_training_scans_were(raw, first):
    """What restore does to a raw scan equals what the data set holds, up to the rounding of a stored float."""
    folder, _ = first
    index = dataset.read_index(folder)
    for subject, entry in zip(sources.find(str(raw))[:7], index.subjects, strict=True):
        found = pipeline.prepare(subject, index.recipe)
        assert found.image.sha256 == entry.input_sha256
        y = np.load(dataset.file(folder, entry.identifier, "desc-slices_T2w.npy"))
        np.testing.assert_allclose(found.slices.y[..., 0], y, atol=1e-4)


def test_the_reference_is_learnt_from_training_subjects_alone(raw, first):
    folder, _ = first
    index = dataset.read_index(folder)
    splits = {entry.identifier: entry.split for entry in index.subjects}
    assert set(splits.values()) == {"train", "calibration", "test"}
    subjects = {subject.identifier: subject for subject in sources.find(str(folder))}
    marks = []
    for name, split in splits.items():
        assert split == splits_of([*subjects.values()])[name]
        if split == "train":
            data = nib.load(dataset.file(folder, name, "desc-preproc_T2w.nii.gz")).get_fdata()
            brain = nib.load(dataset.file(folder, name, "desc-brain_mask.nii.gz")).get_fdata() > 0
            marks.append(np.percentile(data[brain], index.recipe.histogram.percentiles))
    expected = histogram.learn(marks, index.recipe.histogram.percentiles)
    np.testing.assert_allclose(index.recipe.histogram.values, expected.values, rtol=1e-4, atol=1e-4)
    rows = [line.split("\t") for line in (folder / "participants.tsv").read_text().splitlines()[1:]]
    assert {row[0]: row[1] for row in rows if row[0] in splits} == splits


def test_the_page_and_the_table_name_everybody(first):
    folder, result = first
    page = (folder / "qc.html").read_text()
    table = (folder / "summary.tsv").read_text()
    for seed in NUMBERS:
        name = f"sub-CC{seed:06d}"
        assert name in table
        assert f'src="{name}/figures/{name}_desc-qc_T2w.png"' in page
        assert dataset.figure(folder, name, "desc-qc_T2w.png").read_bytes().startswith(b"\x89PNG")
    for name in ("sub-CC100001", "sub-CC100002", "sub-CC100003"):
        assert name in page
    assert "Research use only" in page
    assert "sub-CC00000" in result.stdout


def test_corrected_scans_lie_on_their_own_grid(raw, first):
    folder, _ = first
    for subject in sources.find(str(raw))[:7]:
        source = nib.load(subject.paths[0])
        image = nib.load(dataset.file(folder, subject.identifier, "desc-preproc_T2w.nii.gz"))
        assert image.shape == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
        about = dataset.record(folder, subject.identifier, dataset.SCAN)
        assert about["BiasField"]["iterations"] == 10
        assert about["N4Threads"] == 1
        ratio = source.get_fdata() / np.where(image.get_fdata() == 0, 1, image.get_fdata())
        inside = source.get_fdata() > 0
        assert about["BiasRange"] == pytest.approx([ratio[inside].min(), ratio[inside].max()], abs=1e-3)


def test_again_nothing_is_redone_and_nothing_changes(raw, first, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(first[0], folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("sub-CC0*.nii.gz")}  # not the refused duplicate
    assert len(times) == 14
    result = run(f"--input={raw}", f"--output={folder}")
    assert "7 prepared (before: 7 corrected, 7 sliced)" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("sub-CC0*.nii.gz")} == times
    before, after = contents(first[0]), contents(folder)
    assert before.keys() == after.keys()
    different = {name for name in before if before[name] != after[name]}
    assert different <= {"qc.html"}  # it names its folder


def test_killed_half_way_it_goes_on_to_the_same_end(raw, first, tmp_path):
    folder = tmp_path / "p"
    with Claims(folder) as held:  # so that the process does not come to its end
        assert held.take("sub-CC000018")
        words = ["preprocess", *SETTINGS, f"--input={raw}", f"--output={folder}", "--config.workers=1"]
        process = server.Forked(words, tmp_path / "log", without_tools_in_threads, optimised=False)
        until(lambda: len(list(folder.rglob("*_desc-preproc_T2w.json"))) >= 3)
        process.kill()
        process.wait()
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("*_desc-preproc_T2w.json")}
    assert 3 <= len(done) < 7
    assert not dataset.is_prepared(folder)
    for path in folder.rglob("*.nii.gz"):
        nib.load(path).get_fdata()  # whole, every one of them
    result = run(f"--input={raw}", f"--output={folder}")
    assert result.returncode == 3
    assert {path: path.stat().st_mtime_ns for path in done} == done
    before, after = contents(first[0]), contents(folder)
    left = {name for name in after if name not in before}
    assert all(name.endswith(".tmp") for name in left)  # what SIGKILL leaves no chance to remove
    assert {name for name in before if before[name] != after[name]} <= {"qc.html"}


def test_of_two_processes_in_one_folder_one_is_killed_and_the_other_does_all(raw, first, tmp_path):
    """The same command twice: the data set is that of one process, whose subjects were all prepared once."""
    folder = tmp_path / "p"
    arguments = "preprocess", *SETTINGS, f"--input={raw}", f"--output={folder}", "--config.workers=1"
    logs = tmp_path / "log", tmp_path / "out", tmp_path / "err"
    killed = server.Forked([*arguments], logs[0], without_tools_in_forks, optimised=False)
    other = server.Forked([*arguments], logs[1], without_tools_in_forks, err=logs[2], optimised=False)
    until(lambda: len(list(folder.rglob("*_desc-preproc_T2w.json"))) >= 3)
    killed.kill()
    killed.wait()
    out, err = other.communicate(timeout=900)
    assert other.returncode == 3, err
    assert "7 prepared (before: " in out
    assert [line for line in err.splitlines() if line.startswith("failed: ")] == [
        line for line in first[1].stderr.splitlines() if line.startswith("failed: ")
    ]
    before, after = contents(first[0]), contents(folder)
    assert all(name.endswith(".tmp") for name in after.keys() - before.keys())  # of a file that was being written
    assert [name for name in before if before[name] != after[name]] == []


def test_a_changed_scan_or_mask_is_prepared_again(raw, first, tmp_path):
    folder, scans = tmp_path / "p", tmp_path / "raw"
    shutil.copytree(first[0], folder)
    shutil.copytree(raw, scans)
    name = "sub-CC000003"
    images.save(scans / "anat" / name / "anat" / f"{name}_T2w.nii.gz", scan(3) * 2 + 1)
    mask = np.where(scan(4) > 0, 1, 0).astype(np.uint8)
    mask[10] = 0
    images.save(scans / "anat" / "sub-CC000004" / "anat" / "sub-CC000004_desc-brain_mask.nii.gz", mask)
    result = run(f"--input={scans}", f"--output={folder}")
    index = dataset.read_index(folder)
    before = dataset.read_index(first[0])
    changed = {
        new.identifier
        for new, old in zip(index.subjects, before.subjects, strict=True)
        if new.input_sha256 != old.input_sha256
    }
    assert changed == {name}
    about = dataset.record(folder, "sub-CC000004", dataset.SCAN)
    assert about["BrainFrom"] == "given"
    assert about["BrainMl"] == pytest.approx(mask.sum() / 1000, abs=0.05)
    assert "7 prepared" in result.stdout


def test_patients_are_prepared_as_the_training_cohort_was(raw, first, tmp_path):
    patients = tmp_path / "patients"
    for seed in (20, 21):
        images.save(patients / f"p{seed}.nii.gz", scan(seed))
    result = run(f"--input={patients}", f"--output={tmp_path / 'p'}", f"--recipe={first[0]}")
    assert result.returncode == 0, result.stderr
    index = dataset.read_index(tmp_path / "p")
    assert index.recipe == dataset.read_index(first[0]).recipe
    assert {entry.split for entry in index.subjects} == {"test"}


def test_a_recipe_without_a_histogram_matches_none(tmp_path):
    images.save(tmp_path / "patients" / "p20.nii.gz", scan(20))
    folder = ROOT / "lgjax" / "shipped" / "detection"
    ok(typed(f"--input={tmp_path / 'patients'}", f"--output={tmp_path / 'p'}", f"--recipe={folder}"))
    assert dataset.read_index(tmp_path / "p").recipe == recipe.read(folder / dataset.RECIPE)


def test_train_calibrate_and_restore_on_a_prepared_cohort(raw, first, tmp_path):
    """The whole path; a patient gives the same map raw and prepared."""
    folder, work = first[0], tmp_path / "w"
    tiny = ["data.height=16", "data.width=16", "data.spacing=2.0", "model.channels=(4,)", "model.latent_channels=4"]
    tiny += ["train.batch_size=4", "train.steps=2", "train.log_every=1", "train.checkpoint_every=2", "data.workers=1"]
    tiny += ["model.variance_channels=(4,4)"]
    config = [f"--config.{word}" for word in (f"data.source={folder}", *tiny)]
    patients, made = tmp_path / "patients", tmp_path / "made"
    patient = images.save(patients / "p.nii.gz", scan(20))
    ok(lgjax("train", "--config=configs/vae.py:smoke", f"--workdir={work}", *config))
    assert recipe.read(work / "preprocessing.json") == dataset.read_index(folder).recipe
    told = (f"--recipe={work}", f"--input={patients}", f"--output={made}")
    ok(lgjax("preprocess", *told, before=without_tools_in_threads))
    restore = ["restore", f"--workdir={work}", "--method=intensity"]
    ok(lgjax(*restore, f"--input={patient}", f"--output={tmp_path / 'raw'}"))
    ok(lgjax(*restore, f"--input={made}", f"--output={tmp_path / 'prepared'}"))
    maps, records = [], []
    for kind in ("raw", "prepared"):
        path = tmp_path / kind / "sub-p" / "anat" / "sub-p_space-orig_desc-anomaly_T2w.nii.gz"
        maps.append(nib.load(path).get_fdata())
        records.append(json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text()))
    assert np.ptp(maps[0]) > 1
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-3)
    assert [record["BiasFieldRemoved"] for record in records] == [True, False]
    for field in ("InputSHA256", "RecipeSHA256", "Thresholds", "HistogramMatched"):
        assert records[0][field] == records[1][field]
    assert len(records[0]["CalibrationSubjects"]) == 1
    entries = {entry.input_sha256: entry.split for entry in dataset.read_index(folder).subjects}
    assert entries[records[0]["CalibrationSubjects"][0]] == "calibration"


def test_two_preparations_do_not_mix(raw, first):
    before = contents(first[0])
    result = run(f"--input={raw}", f"--output={first[0]}", "--config.bias_field.correct=False")
    assert result.returncode == 2
    assert "was prepared otherwise" in result.stderr
    assert contents(first[0]) == before


def test_patients_never_replace_or_join_the_training_set(raw, first, tmp_path):
    """A forgotten --recipe, or the training set's own folder as --output."""
    before = contents(first[0])
    result = run(f"--input={raw}", f"--output={first[0]}", f"--recipe={first[0]}")
    assert result.returncode == 2
    assert "that --recipe names" in result.stderr
    images.save(tmp_path / "patients" / "p.nii.gz", scan(20))
    given = [f"--input={tmp_path / 'patients'}", f"--output={tmp_path / 'p'}"]
    assert run(*given, f"--recipe={first[0]}").returncode == 0
    result = run(*given)
    assert result.returncode == 2
    assert "prepared otherwise (given" in result.stderr
    assert contents(first[0]) == before


def test_an_unfinished_data_set_is_not_trained_on(first, tmp_path, experiments):
    folder = tmp_path / "p"
    shutil.copytree(first[0], folder)
    (folder / "index.json").unlink()
    config = experiments.smoke()
    config.data.source = str(folder)
    with pytest.raises(UsageError, match="unfinished"):
        cohort.healthy(experiment.source(config), "train")


def test_prepared_again_sessions_stay_together_and_damage_is_mended(tmp_path):
    scans, folder = tmp_path / "raw", tmp_path / "p"
    for number, session in ((1, 1), (1, 2), (2, 1)):
        name = f"sub-{number}_ses-{session}"
        path = scans / f"sub-{number}" / f"ses-{session}" / "anat" / f"{name}_T2w.nii.gz"
        images.save(path, scan(10 * number + session))
    off = ["--config.bias_field.correct=False"]
    ok(run(f"--input={scans}", f"--output={folder}", *off))
    subjects = sources.find(str(folder))
    assert [subject.participant for subject in subjects] == ["sub-1", "sub-1", "sub-2"]
    index = dataset.read_index(folder)
    path = dataset.file(folder, "sub-1_ses-1", "desc-slices_T2w.npy")
    path.write_bytes(path.read_bytes()[:-8])
    result = run(f"--input={scans}", f"--output={folder}", *off)
    assert "3 prepared (before: 3 corrected, 2 sliced)" in result.stdout
    assert dataset.read_index(folder) == index
    assert files.sha256(path) == index.subjects[0].slices_sha256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input=absent"], "does not exist"),
        (["--layout=minc"], "should be one of"),
        (["--recipe=absent.json", "--input=phantom:train:1"], "is not there"),
        (["--config.brain.stripper=scalpel", "--input=phantom:train:1", "--config.workers=1"], "scalpel"),
    ],
)
def test_mistakes_end_with_a_message(tmp_path, arguments, words):
    result = run(*arguments, f"--output={tmp_path / 'p'}")
    assert result.returncode in (2, 3)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_the_input_is_never_the_output(raw):
    before = contents(raw)
    result = run(f"--input={raw}", f"--output={raw}/../{raw.name}")
    assert result.returncode == 2
    assert "is the folder of the scans" in result.stderr
    assert contents(raw) == before


@pytest.mark.parametrize("damage", ["slices", "scan", "index"])
def test_damage_in_the_data_set_is_noticed(first, tmp_path, damage):
    folder = tmp_path / "p"
    shutil.copytree(first[0], folder)
    if damage == "index":
        (folder / "index.json").write_text("{}")
        with pytest.raises(InputError, match=r"index\.json: cannot be read"):
            dataset.read_index(folder)
        return
    name = "sub-CC000002"
    entry = next(e for e in dataset.read_index(folder).subjects if e.identifier == name)
    if damage == "slices":
        path = dataset.file(folder, name, "desc-slices_T2w.npy")
        content = bytearray(path.read_bytes())
        content[-7] ^= 1
        path.write_bytes(content)
        assert files.sha256(path) != entry.slices_sha256
        return
    images.save(dataset.file(folder, name, "desc-preproc_T2w.nii.gz"), scan(2))
    subject = next(s for s in sources.find(str(folder)) if s.identifier == name)
    with pytest.raises(InputError, match="changed since it was prepared"):
        subject.image()


def test_one_key_for_one_preparation():
    """Anything that changes slices changes the key under which they count as done."""
    settings = recipe.Recipe(recipe.Grid(16, 16, 2.0), None, None, "none")
    scan = {"SHA256": "a", "BrainSHA256": "b"}
    keys = {
        passes.slices_key(settings, scan),
        passes.slices_key(settings._replace(grid=recipe.Grid(16, 16, 2.5)), scan),
        passes.slices_key(settings, {**scan, "SHA256": "c"}),
        passes.slices_key(settings, {**scan, "BrainSHA256": "c"}),
    }
    assert len(keys) == 4
