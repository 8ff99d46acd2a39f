"""Commands on DICOM series in folders named after a patient: nothing that is written or printed names the patient."""

import pathlib
from concurrent.futures import ThreadPoolExecutor

import derived
import dicoms
import images
import numpy as np
import pytest
from absl import flags
from test_privacy import written

from lgjax import bids, eval, preprocess, restore
from lgjax.batch import calibrated
from lgjax.cli import app, bids_app, parse
from lgjax.derivatives import read, write
from lgjax.report import page
from lgjax.report import write as report
from lgjax.runtime import devices, parallel
from lgjax.scans import sources, validator

DATA = (derived.brain(3) * 7).astype(np.uint16)
AFFINE = dicoms.oblique(zooms=(8.0, 8.0, 20.0)) @ np.diag([1, 1, -1, 1])
FORBIDDEN = ("zebra", "quagga", "q4711")
WHO = {"PatientName": "Zebra^Quagga", "PatientID": "Q4711"}
SERIES = {  # by the folder: what is wrong with which file
    "T2_ZEBRA_QUAGGA": None,
    "QUAGGA1": ("stub", 0),
    "zebra/T2": ("cut", 5),
    "Zébra-2/T2": ("garbled", 2),
    "QuaggaZebra/study/T2": ("emptied", 0),
    "Q4711/T2": ("emptied", 5),
    "q-4711_b/20240131/T2": ("emptied", None),
    "quagga c/T2": None,
    "zebra_d": None,
}


def make(folder: pathlib.Path, name: str, fault: tuple[str, int | None] | None) -> None:
    """Writes a series of the patient's, one of whose files is damaged."""
    made = dicoms.datasets(DATA, AFFINE, name)
    for k, found in enumerate(made):
        emptied = fault and fault[0] == "emptied" and fault[1] in (k, None)
        for keyword, value in WHO.items():
            setattr(found, keyword, "" if emptied else value)
    dicoms.write(folder, made, lambda k: f"zebra_{k}")
    if fault and fault[0] != "emptied":
        path = folder / f"zebra_{fault[1]}"
        content = path.read_bytes()
        path.write_bytes(
            {"stub": content[:132], "cut": content[:480], "garbled": content[:132] + content[:90]}[fault[0]]
        )


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An export with masks beside its series: one on another grid, one cut short, one that is a dead link, one good."""
    folder = tmp_path_factory.mktemp("place") / "export"
    for name, fault in SERIES.items():
        make(folder / name, name, fault)
    images.save(folder / "T2_ZEBRA_QUAGGA_mask.nii.gz", np.ones((3, 3, 3), np.uint8))
    mask = images.save(folder / "zebra_d_mask.nii.gz", np.ones(DATA.shape, np.uint8), AFFINE)
    mask.write_bytes(mask.read_bytes()[:60])
    (folder / "quagga c" / "T2_mask.nii.gz").symlink_to("zebra_gone.nii.gz")
    localizer = dicoms.datasets(DATA, AFFINE, "localizer")
    for found in localizer:
        found.PatientName, found.PatientID = WHO["PatientName"], WHO["PatientID"]
        found.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dicoms.write(folder / "zebra" / "quagga_loc", localizer)
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Runs a command in this process, by plain intensity; returns the exit code and all that was printed and logged."""
    monkeypatch.setattr(app, "start", lambda: devices.chosen("cpu"))
    monkeypatch.setattr(calibrated, "from_config", lambda *_: derived.detector())
    monkeypatch.setattr(write, "picture", lambda *_: b"")  # which takes most of the time
    monkeypatch.setattr(report, "_pictures", lambda *_: [])
    monkeypatch.setattr(page, "_charts", lambda *_: {})
    monkeypatch.setattr(parallel, "processes", ThreadPoolExecutor)
    monkeypatch.setattr(validator, "executable", lambda: None)
    doors = {"restore": restore, "preprocess": preprocess, "eval": eval}

    def main(command, *words) -> tuple[int, str]:
        values = flags.FlagValues()
        with monkeypatch.context() as patch:
            patch.setattr(flags, "FLAGS", values)
            if command == "bids":
                code = bids.main(bids_app.parse_arguments(list(map(str, words)), values))
            else:
                code = doors[command].main(parse.parse(command, [command, *map(str, words)], values))
        return code, "".join(capfd.readouterr())

    return main


def check(folder: pathlib.Path, printed: str, caplog) -> None:
    """Checks that nobody can read who was scanned."""
    found = {name.encode() + data for name, data in written(folder).items()}
    assert len(found) > 3
    everything = b"\n".join([*found, printed.encode(), caplog.text.encode()]).lower()
    assert [word for word in FORBIDDEN if word.encode() in everything] == []


def restored(run, export, out) -> tuple[int, str]:
    return run(
        "restore",
        "--config=detection",
        "--method=intensity",
        f"--workdir={out.parent / 'w'}",
        f"--input={export}",
        f"--output={out}",
    )


def test_restore_and_eval(export, run, tmp_path, caplog):
    out = tmp_path / "out"
    code, printed = restored(run, export, out)
    assert code == 3
    check(out, printed, caplog)
    assert len(read.identifiers(out)) == 4


def test_restore_with_pages_of_the_viewer(export, run, tmp_path, caplog):
    out = tmp_path / "out"
    flags_of_it = ("--config=detection", "--method=intensity", f"--workdir={tmp_path / 'w'}", "--viewer")
    code, printed = run("restore", *flags_of_it, f"--input={export}", f"--output={out}")
    assert code == 3
    assert list(out.glob("viewer/*.html"))
    check(out, printed, caplog)


def test_bids_with_dicom_in_sourcedata(run, tmp_path, caplog):
    data = tmp_path / "data"
    (data / "sub-01" / "anat").mkdir(parents=True)
    images.save(data / "sub-01" / "anat" / "sub-01_T2w.nii.gz", DATA, AFFINE)
    for name, fault in (("Zebra_Quagga/T2", None), ("sub-01/zebra_T2", ("cut", 2))):
        make(data / "sourcedata" / name, name, fault)
    words = ("participant", "--method=mirror_tv3d", "--skip-bids-validation")
    code, printed = run("bids", data, tmp_path / "out", *words)
    assert code == 0
    check(tmp_path / "out", printed, caplog)
    assert read.identifiers(tmp_path / "out") == ["sub-01"]


def test_eval_against_references_in_the_folder_of_a_patient(export, run, tmp_path, caplog):
    folder = tmp_path / "T2_ZEBRA_QUAGGA"
    make(folder / "T2", "T2", None)
    scan = sources.find(str(folder))[0].image()
    images.save(folder / "T2_seg.nii.gz", (scan.data > scan.data.max() * 0.8).astype(np.uint8), scan.affine)
    table = folder / "table.tsv"
    table.write_text("participant_id\timage\treference\nP7\tT2\tT2_seg.nii.gz\n")
    code, printed = restored(run, table, tmp_path / "out")
    assert code == 0
    code, more = run("eval", f"--predictions={tmp_path / 'out'}", f"--labels={table}", f"--output={tmp_path / 'e'}")
    assert code == 0
    check(tmp_path / "e", printed + more, caplog)


@pytest.mark.parametrize("content", [b"", bytes(128) + b"DICM", b"zebra"])
def test_restore_of_a_file_that_cannot_be_read(run, tmp_path, caplog, content):
    path = tmp_path / "Zebra_Quagga.dcm"
    path.write_bytes(content)
    code, printed = restored(run, path, tmp_path / "out")
    assert code == 3
    check(tmp_path / "out", printed, caplog)


def test_preprocess(export, run, tmp_path, caplog):
    words = (
        "--config=configs/data.py:smoke",
        "--config.bias_field.correct=False",
        "--config.workers=1",
        "--config.histogram.match=False",
    )
    code, printed = run("preprocess", *words, f"--input={export}", f"--output={tmp_path / 'out'}")
    assert code == 3
    check(tmp_path / "out", printed, caplog)
