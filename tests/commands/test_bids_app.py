"""The BIDS-App as it is typed: labels, filters, resuming, faults and exit codes, on a toy data set."""

import json
import re
import shutil

import derived
import images
import pytest
import together
from absl import flags
from test_end_to_end import lgjax, ok, typed

from lgjax import bids
from lgjax.batch import calibrated
from lgjax.cli import app, bids_app
from lgjax.derivatives import pages, read, sidecar, write
from lgjax.runtime import devices, files
from lgjax.runtime.errors import LgjaxError
from lgjax.scans import validator

SCANS = (
    "sub-01/ses-a/anat/sub-01_ses-a_T2w",
    "sub-01/ses-b/anat/sub-01_ses-b_T2w",
    "sub-02/ses-a/anat/sub-02_ses-a_T2w",
    "sub-03/anat/sub-03_acq-tse_T2w",
)
ALL = ["sub-01_ses-a", "sub-01_ses-b", "sub-02_ses-a", "sub-03_acq-tse"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A valid data set."""
    folder = tmp_path_factory.mktemp("app") / "raw"
    for number, name in enumerate(SCANS):
        images.save(folder / f"{name}.nii.gz", derived.brain(number), derived.GRID)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.10.0"}))
    (folder / "README").write_text("Toy brains.")
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the app in this process, by plain intensity with made-up thresholds; returns the exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(app, "start", lambda: devices.chosen("cpu"))
    monkeypatch.setattr(calibrated, "from_config", lambda *_: derived.detector())
    monkeypatch.setattr(write, "picture", lambda *_: b"")  # which takes most of the time

    def main(*words, level="participant") -> int:
        values = flags.FlagValues()
        with monkeypatch.context() as patch:
            patch.setattr(flags, "FLAGS", values)
            how = ("--config=detection", "--method=intensity", f"--workdir={tmp_path / 'w'}")
            asked = [*map(str, words[:2]), level, *how, *map(str, words[2:])]
            try:
                return bids.main(bids_app.parse_arguments(asked, values))
            except LgjaxError as error:
                print(f"error: {error}")
                return error.exit_code

    return main


@pytest.fixture
def unasked(monkeypatch):
    """No validator is asked."""
    monkeypatch.setattr(validator, "executable", lambda: None)


def test_every_scan_is_restored_and_the_same_command_goes_on(raw, run, tmp_path, capsys):
    out, work = tmp_path / "out", tmp_path / "work"
    assert run(raw, out, "-w", work) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"input: {raw} (4 scans); no model: {tmp_path / 'w'}")
    assert f"4 restored, 0 finished before, 0 failed of 4 scans -> {out}" in said
    assert list(read.read_predictions(out)[0]) == ALL
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert work.is_dir()
    assert files.cache_folder("xla") == work / "lgjax" / "xla"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*anomaly*")}
    assert run(raw, out, "-w", work) == 0
    assert "0 restored, 4 finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*anomaly*")} == before


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--participant-label", "01", "sub-03"), [ALL[0], ALL[1], ALL[3]]),
        (("--participant_label", "sub-02", "--session-label", "ses-a"), [ALL[2]]),
        (("--session_label", "b"), [ALL[1]]),
        (("--participant-label", "02", "--participant_label", "sub-03", "01", "--session-label=a"), [ALL[0], ALL[2]]),
        (("--session-label", "b", "--session-label", "a"), [ALL[0], ALL[1], ALL[2]]),
    ],
)
def test_labels_choose(raw, run, tmp_path, words, expected):
    assert run(raw, tmp_path / "out", *words) == 0
    assert read.identifiers(tmp_path / "out") == expected


@pytest.mark.usefixtures("unasked")
def test_a_filter_file_chooses(raw, run, tmp_path):
    path = tmp_path / "filter.json"
    path.write_text('{"t2w": {"acquisition": "tse"}}')
    assert run(raw, tmp_path / "out", f"--bids-filter-file={path}") == 0
    assert read.identifiers(tmp_path / "out") == [ALL[3]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--participant-label", "01", "07"), "label 07: there is no such participant. There are 01, 02, 03."),
        (("--participant-label", "03", "--session-label", "a"), "label a: there is no such session. There are none."),
        (("--metod", "x"), "there is no argument --metod. Did you mean --method?"),
        (("--method", "a,b"), "one method a run"),
        (("--host", "1", "--skip-bids-validation"), "the flags do not say which host this is"),
        (("--bids-filter-file", ""), "a variable may be empty"),
        (("--config.restore.mask_rat=1",), "Did you mean --config.restore.mask_rate?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(raw, run, tmp_path, capsys, words, told):
    assert run(raw, tmp_path / "out", *words) == 2
    assert told in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_are_refused(raw, run, tmp_path, capsys):
    plain = images.save(tmp_path / "plain" / "a_T2w.nii.gz", images.head()).parent
    for data, out, told in (
        (tmp_path / "none", tmp_path / "out", "is no folder"),
        (plain, tmp_path / "out", "is no BIDS data set: it holds no sub-*/anat"),
        (raw, raw, "OUTPUT_DIR is BIDS_DIR, which is only read. Name another, such as"),
    ):
        assert run(data, out) == 2
        assert told in capsys.readouterr().out
    assert run(raw, tmp_path / "out", "-w", raw / "work") == 2
    assert "lies in BIDS_DIR" in capsys.readouterr().out
    assert not (raw / "work").exists()


@pytest.mark.parametrize(
    "place",
    ["sub-01", "sub-01/ses-a/anat", "sub-09", "code", "derivatives", "derivatives/../sub-02", "derivatives/link"],
)
def test_results_among_the_raw_data_are_refused(raw, run, tmp_path, capsys, place):
    data = shutil.copytree(raw, tmp_path / "raw")
    (data / "derivatives").mkdir()
    (data / "derivatives" / "link").symlink_to(data / "sub-03")
    before = sorted(data.rglob("*"))
    assert run(data, data / place) == 2
    assert f"Name another, such as {data / 'derivatives' / 'lgjax'}." in capsys.readouterr().out
    assert sorted(data.rglob("*")) == before


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("linked", [False, True])
def test_results_in_a_folder_of_their_own_among_the_derivatives_are_made(raw, run, tmp_path, linked):
    data = shutil.copytree(raw, tmp_path / "raw")
    if linked:
        (tmp_path / "elsewhere").mkdir()
        (data / "derivatives").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here").symlink_to(data)
    assert run(data, tmp_path / "here" / "derivatives" / "lgjax", "--participant-label", "03") == 0
    assert read.identifiers(data / "derivatives" / "lgjax") == [ALL[3]]


@pytest.mark.usefixtures("unasked")
def test_the_viewer_shows_the_scans_of_the_folder_as_they_are(raw, run, tmp_path, capsys):
    """Jobs of a participant each share the list; a scan that changed has no page until somebody asks for one."""
    data, out = shutil.copytree(raw, tmp_path / "raw"), tmp_path / "out"

    def listed() -> list[str]:
        return sorted(re.findall(r'href="(sub-[^"]*)\.html"', pages.index(out).read_text()))

    assert run(data, out, "--participant-label", "01", "--viewer") == 0
    assert f"Viewer: {pages.index(out)} (2 pages written)" in capsys.readouterr().out
    assert run(data, out, "--participant-label", "02", "03", "--viewer") == 0
    assert listed() == ALL
    images.save(data / f"{SCANS[2]}.nii.gz", derived.brain(9), derived.GRID)
    assert run(data, out) == 0
    assert "Viewer" not in capsys.readouterr().out.splitlines()[-1]
    assert listed() == [ALL[0], ALL[1], ALL[3]]
    anomaly = sidecar.file(out, ALL[3], sidecar.ANOMALY)
    anomaly.write_bytes(anomaly.read_bytes()[:200])
    assert run(data, out, "--viewer") == 3
    assert f"failed: {ALL[3]}: has no page in the viewer" in capsys.readouterr().err
    assert listed() == ALL[:3]


@pytest.mark.usefixtures("unasked")
def test_a_damaged_scan_does_not_stop_the_others(raw, run, tmp_path, capsys):
    data = shutil.copytree(raw, tmp_path / "raw")
    scan = data / f"{SCANS[2]}.nii.gz"
    scan.write_bytes(scan.read_bytes()[:200])
    assert run(data, tmp_path / "out") == 3
    said = capsys.readouterr()
    assert "bids-validator-deno is not installed" in said.out
    assert "3 restored, 0 finished before, 1 failed of 4 scans" in said.out
    assert re.search(r"^failed: sub-02_ses-a: .*is (truncated|damaged)", said.err, re.MULTILINE)
    assert list(read.read_predictions(tmp_path / "out")[0]) == [ALL[0], ALL[1], ALL[3]]


def test_a_data_set_that_is_no_bids_is_refused_unless_nobody_asks(raw, run, tmp_path, capsys):
    data = shutil.copytree(raw, tmp_path / "raw")
    (data / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_nonsense.nii.gz").touch()
    assert run(data, tmp_path / "out") == 2
    said = capsys.readouterr().out
    assert "is no valid BIDS: " in said
    assert "/sub-02/ses-a/anat/sub-02_ses-a_nonsense.nii.gz" in said
    assert "--skip-bids-validation" in said
    assert not (tmp_path / "out").exists()
    assert run(data, tmp_path / "out", "--participant-label", "03") == 0  # whose files are valid
    assert run(data, tmp_path / "out", "--participant-label", "02", "--skip-bids-validation") == 0


def test_a_validator_that_does_not_work_is_no_verdict(raw, run, tmp_path, monkeypatch, capsys):
    broken = tmp_path / validator.NAME
    broken.write_text("#!/bin/sh\necho no\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert run(raw, tmp_path / "out") == 4
    assert "--skip-bids-validation" in capsys.readouterr().out


@pytest.mark.usefixtures("unasked")
def test_the_group_counts_what_is_there_and_names_what_is_not(raw, run, tmp_path, capsys):
    data, out = shutil.copytree(raw, tmp_path / "raw"), tmp_path / "out"
    assert run(data, out, level="group") == 2
    assert f"holds no results. Make them first: lgjax bids {data} {out} participant" in capsys.readouterr().out
    assert run(data, out, "--host=1", level="group") == 2
    assert "--host: one process makes the tables of the group" in capsys.readouterr().out
    scan = data / f"{SCANS[2]}.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[:200])
    assert run(data, out) == 3
    capsys.readouterr()
    assert run(data, out, level="group") == 3
    said = capsys.readouterr()
    assert said.out == f"3 scans, 1 unfinished -> {out / 'group_T2w.html'}\n"
    assert re.search(r"^unfinished: sub-02_ses-a: .*is (truncated|damaged)", said.err, re.MULTILINE)
    assert {path.name for path in out.glob("group*")} == {"group_T2w.tsv", "group_T2w.json", "group_T2w.html"}
    assert str(tmp_path) not in "".join(path.read_text() for path in out.glob("group*"))
    assert run(data, out, "--participant-label", "01", level="group") == 0
    assert len((out / "group_T2w.tsv").read_text().splitlines()) == 3
    scan.write_bytes(whole)
    assert run(data, out) == 0
    assert run(data, out, level="group") == 0
    lines = (out / "group_T2w.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == [f"{name}_T2w" for name in ALL]


def test_two_hosts_share_the_scans_and_the_first_speaks(raw, tmp_path):
    out = tmp_path / "out"
    words = ["participant", "--method=mirror_tv3d", "--participant-label", "02", "03", "--skip-bids-validation"]
    (code, said, err), others = together.finish(together.start(tmp_path, ["bids", str(raw), str(out), *words]))
    assert code == 0, err
    assert others == (0, "", "")
    assert "0 finished before, 0 failed of 2 scans" in said
    assert list(read.read_predictions(out)[0]) == ALL[2:]
    runs = json.loads((out / "results.json").read_text())["Runs"]
    assert [run["Restored"] + run["RestoredElsewhere"] + run["FinishedBefore"] for run in runs] == [2, 2]
    assert sum(run["Restored"] for run in runs) == 2


def test_a_shell_gets_the_same(raw, tmp_path):
    out = tmp_path / "out"
    words = ["participant", "--method", "mirror_tv3d", "--participant-label", "03"]
    said = ok(typed("bids", raw, out, *words, optimised=True))
    assert "1 restored, 0 finished before, 0 failed of 1 scan" in said.stdout
    (path,) = out.rglob("*desc-anomaly_T2w.json")
    assert json.loads(path.read_text())["Sources"] == [f"bids:raw:{SCANS[3]}.nii.gz"]
    link = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]["raw"]
    assert (out / link).resolve() == raw.resolve()
    group = ok(lgjax("bids", raw, out, "group", "--participant-label", "03"))
    assert group.stdout.splitlines()[-1] == f"1 scan, 0 unfinished -> {out / 'group_T2w.html'}"
    wrong = lgjax("bids", raw, out)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: the following arguments are required: LEVEL. Give BIDS_DIR OUTPUT_DIR LEVEL")
