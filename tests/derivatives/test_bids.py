"""What restore and preprocess write is a BIDS derivative to others: the validator, and pybids."""

import json
import pathlib
import shutil
import subprocess
import sys

import derived
import images
import pytest
from bids import BIDSLayout

from lgjax import eval as eval_door
from lgjax.batch import restorations
from lgjax.derivatives import description, read, runs, sidecar, write
from lgjax.runtime.errors import UsageError
from lgjax.scans import names, nifti

SCANS = {  # as a data set names them, by the entities that pybids finds each result by
    "sub-A1/ses-01/anat/sub-A1_ses-01_run-1_T2w": {"subject": "A1", "session": "01", "run": 1},
    "sub-A1/ses-02/anat/sub-A1_ses-02_run-1_T2w": {"subject": "A1", "session": "02", "run": 1},
    "sub-A1/ses-02/anat/sub-A1_ses-02_run-2_T2w": {"subject": "A1", "session": "02", "run": 2},
    "sub-b/anat/sub-b_acq-tse_T2w": {"subject": "b", "acquisition": "tse"},
    "sub-b/anat/sub-b_acq-space_rec-norm_T2w": {"subject": "b", "acquisition": "space", "reconstruction": "norm"},
    "sub-c/anat/sub-c_dir-AP_T2w": {"subject": "c", "acquisition": "dirAP"},  # BIDS has dir for other images
    "sub-d/anat/sub-d_echo-2_T2w": {"subject": "d", "echo": 2},
    "sub-e/anat/sub-e_T2w": {"subject": "e"},
    "sub-f/anat/sub-f_task-rest_ce-gd_part-mag_chunk-1_T2w": {"subject": "f", "acquisition": "chunk1", "part": "mag"},
}
OUTPUTS = (
    "desc-anomaly_T2w",
    "desc-brain_mask",
    "desc-restored_T2w",
    "label-lesion_desc-fpr1_mask",
    "seg-lesions_desc-fpr1_dseg",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bids") / "raw"
    for number, name in enumerate(SCANS):
        images.save(folder / f"{name}.nii.gz", derived.brain(number), derived.GRID)
    (folder / "participants.tsv").write_text("participant_id\tlesion_kind\nsub-b\tglioma\nsub-c\tmultiple sclerosis\n")
    return folder


@pytest.fixture(scope="module")
def restored(raw):
    folder = raw.parent / "restored"
    assert derived.restore(raw, folder) == sorted(map(names.identifier, (pathlib.Path(name).name for name in SCANS)))
    return folder


@pytest.fixture(scope="module")
def prepared(raw):
    folder = raw.parent / "prepared"
    with pytest.MonkeyPatch.context() as patch:
        assert derived.prepare(raw, folder, patch) == 0
    return folder


def errors(folder: pathlib.Path) -> list[dict]:
    """What the BIDS validator has against a folder."""
    validator = pathlib.Path(sys.executable).with_name("bids-validator-deno")
    found = subprocess.run([validator, folder, "--format=json"], capture_output=True, text=True, check=False)
    return [issue for issue in json.loads(found.stdout)["issues"]["issues"] if issue["severity"] == "error"]


@pytest.mark.parametrize("kind", ["restored", "prepared"])
def test_the_validator_finds_no_error(kind, request):
    folder = request.getfixturevalue(kind)
    assert errors(folder) == []


def test_pybids_finds_each_result_by_the_entities_of_its_scan(restored):
    layout = BIDSLayout(restored, validate=False, is_derivative=True)
    for entities in SCANS.values():
        (path,) = [
            path
            for path in layout.get(suffix="T2w", desc="anomaly", extension=".nii.gz", **entities)
            if not {"session", "run", "acquisition", "echo", "reconstruction"}
            & path.get_entities().keys() - entities.keys()
        ]
        about = layout.get_metadata(path.path)
        assert about["SkullStripped"] is True
        assert about["SpatialReference"] == "orig"


def test_results_lie_beside_each_other_as_their_scans_do(raw, restored):
    for name in SCANS:
        identifier = names.identifier(pathlib.Path(name).name)
        place = restored / pathlib.Path(name).parent
        for output in OUTPUTS:
            image = nifti.read(place / f"{identifier}_space-orig_{output}.nii.gz")
            assert image.data.shape == (20, 24, 6)
        about = json.loads((place / f"{identifier}_space-orig_desc-anomaly_T2w.json").read_text())
        assert about["Sources"] == [f"bids:raw:{name}.nii.gz"]
        assert (
            restored / identifier.split("_")[0] / "figures" / f"{identifier}_space-orig_desc-anomaly_T2w.png"
        ).exists()
    assert not list(restored.rglob("anat/*.png"))
    assert list(read.read_predictions(restored)[0]) == read.identifiers(restored) == sorted(read.identifiers(restored))


def test_people_are_listed_once_with_what_is_unknown_as_bids_says_it(prepared):
    head, *lines = [line.split("\t") for line in (prepared / "participants.tsv").read_text().splitlines()]
    assert head == ["participant_id", *json.loads((prepared / "participants.json").read_text())]
    people = {line[0]: line[2] for line in lines}
    assert people == {
        "sub-A1": "n/a",
        "sub-b": "glioma",
        "sub-c": "multiple sclerosis",
        "sub-d": "n/a",
        "sub-e": "n/a",
        "sub-f": "n/a",
    }
    assert len(lines) == len(people)


@pytest.mark.parametrize("kind", ["", "\t", " \n ", "gli\toma", "a\nb"])
def test_no_cell_breaks_the_table(tmp_path, kind):
    description.write_participants(tmp_path, [("sub-1_ses-a", "train", kind), ("sub-1_ses-b", "train", "other")])
    (line,) = (tmp_path / "participants.tsv").read_text().splitlines()[1:]
    assert line.split("\t") == ["sub-1", "train", " ".join(kind.split()) or "n/a"]


def test_a_prepared_set_gives_the_same_names_again(prepared):
    assert [
        item for item in derived.sources.prepared(str(prepared)) if item.identifier not in read_index(prepared)
    ] == []


def read_index(folder):
    return {entry["identifier"] for entry in json.loads((folder / "index.json").read_text())["subjects"]}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["in/my raw"], "../in/my%20raw"),
        (["in/my raw/a.nii", "in/my raw/b.nii"], "../in/my%20raw"),  # files: the folder that their URIs start from
        (["in/my raw", "in/my raw/a.nii"], "../in/my%20raw"),
        (["phantom:test", "in/my raw"], "../in/my%20raw"),
        (["in/my raw", "in"], None),  # one name cannot mean both
        (["jane/raw"], None),  # it would tell the user's name
        (["phantom:test"], None),
        ([], None),
    ],
)
def test_uris_can_be_resolved(tmp_path, inputs, expected, monkeypatch):
    monkeypatch.setenv("LOGNAME", "jane")
    for folder in ("in/my raw", "jane/raw"):
        (tmp_path / folder).mkdir(parents=True)
    runs.write(tmp_path / "out", [name if ":" in name else str(tmp_path / name) for name in inputs])
    description.describe(tmp_path / "out", "restorations")
    found = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert found.get("DatasetLinks") == (expected and {"raw": expected})


@pytest.fixture
def earlier(restored, tmp_path):
    """A result as versions before this one named it."""
    folder, new = tmp_path / "old", "sub-A1_ses-01_run-1"
    old = names.squeezed(new)
    for path in (restored / "sub-A1" / "ses-01" / "anat").iterdir():
        target = folder / old / "anat" / path.name.replace(new, old)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def test_earlier_results_are_recognised(earlier, raw):
    with pytest.raises(UsageError, match=r"sub-A1ses01run1\. Remove them, or name another output folder"):
        read.check_names(earlier, ["sub-A1_ses-01_run-1"])
    for others in (["sub-A1_ses-01_run-2"], ["sub-A1ses01run1"], ["sub-A1_ses-01_run-1", "sub-A1ses01run1"], []):
        read.check_names(earlier, others)
    assert read.is_renamed("sub-A1_ses-01_run-1", earlier)
    with pytest.raises(UsageError, match="sub-A1ses01run1"):
        restorations.checked_place(earlier, "intensity", derived.sources.find(str(raw)), [str(raw)])


def test_a_result_of_an_earlier_version_is_not_taken_for_finished(tmp_path):
    (subject,) = derived.sources.find(str(images.save(tmp_path / "x.nii.gz", derived.brain(), derived.GRID)))
    found = derived.detector()(subject)
    found.save(tmp_path / "out")
    assert write.finished(tmp_path / "out", "sub-x", dict(found.about))
    path = sidecar.file(tmp_path / "out", "sub-x", sidecar.ANOMALY, "json")
    about = json.loads(path.read_text())
    del about["SpatialReference"]  # and a place of the machine in Sources
    path.write_text(json.dumps(about))
    picture = path.with_suffix(".png")
    picture.touch()
    assert not write.finished(tmp_path / "out", "sub-x", dict(found.about))
    found.save(tmp_path / "out")
    assert not picture.exists()


def test_folders_of_several_methods_are_found_with_sessions(restored, tmp_path):
    for method in ("intensity", "gmm"):
        shutil.copytree(restored / "sub-A1", tmp_path / method / "sub-A1")
    (tmp_path / "evaluation").mkdir()
    assert eval_door.predictions(tmp_path) == [tmp_path / "gmm", tmp_path / "intensity"]
    assert eval_door.predictions(restored) == [restored]
