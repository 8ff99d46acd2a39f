"""A restoration with a method that nobody has calibrated, by several processes at a time."""

import pathlib
import signal
import socket

import forked
import jax
import pytest
import together
from conftest import PATIENCE, until
from server import Forked

from lgjax.batch import calibrated

PROCESS = """
import pathlib, sys
import forked
from conftest import until
from lgjax.batch import calibrated
from lgjax.calibration import procedure
from lgjax.cli import app
from lgjax.runtime import parallel, signals
from lgjax.workdir import calibrations

folder, name, what = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
parallel.PAUSE, signals.GRACE = 0.01, 0.1

def calibrate(method):
    (folder / f"{method.name} begun").touch()
    if what == "restore":
        forked.in_a_call()
    until((folder / "go on").exists)
    print("calibrated", method.name, flush=True)
    calibrations.path(folder, method.name).write_text("a record")

def main(_):
    calibrated.detectors.from_config = lambda config, workdir, name, mesh: calibrations.path(workdir, name).read_text()
    procedure.from_config = lambda *_: calibrate
    assert calibrated.from_config(None, folder, name, None) == "a record"

app.run(main)
"""


def start(folder: pathlib.Path, log: str, method: str, what: str = "wait") -> Forked:
    """A process that needs a calibrated method."""
    return Forked(["-c", PROCESS, str(folder), method, what], folder / log)


def test_one_process_calibrates_for_all_and_the_others_say_whom_they_wait_for(tmp_path):
    """Each loads the record of the first."""
    first, alone = (start(tmp_path, f"log-{method}", method) for method in ("intensity", "mirror_tv3d"))
    until((tmp_path / "intensity begun").exists)
    other = start(tmp_path, "log-other", "intensity")
    told = (
        f"waiting for process {first.pid} on {socket.gethostname()}, which is at work on the calibration of intensity"
    )
    until(lambda: told in forked.said(tmp_path / "log-other"))
    (tmp_path / "go on").touch()
    assert [process.wait(PATIENCE) for process in (first, alone, other)] == [0, 0, 0]
    said = [(tmp_path / f"log-{name}").read_text() for name in ("intensity", "mirror_tv3d", "other")]
    assert ["calibrated" in one.splitlines()[-1] for one in said] == [True, True, False]
    assert sorted(path.name for path in (tmp_path / "calibration").iterdir()) == ["intensity.json", "mirror_tv3d.json"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_is_told_to_end_while_a_device_works_ends_and_leaves_no_claim(tmp_path, number, code):
    process = start(tmp_path, "log", "intensity", "restore")
    until((tmp_path / "intensity begun").exists)
    assert list((tmp_path / "calibration").rglob("claims/*"))
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    said = (tmp_path / "log").read_text()
    assert said.count("interrupted; run the same command again to go on") == (number == signal.SIGINT)
    assert "Traceback" not in said
    assert not list((tmp_path / "calibration").glob("**/*"))


def test_joined_hosts_calibrate_together_although_one_sees_the_record_late(monkeypatch, tmp_path):
    """On a network file system, say; a host that went on alone would leave the others waiting for ever."""
    called = []

    def calibrate(path, _):
        called.append(jax.process_index())

    class Path(type(tmp_path)):
        def exists(self):
            return jax.process_index() == 1  # but not on the first host

    monkeypatch.setattr(calibrated.calibrations, "path", lambda *_: Path(tmp_path))
    monkeypatch.setattr(calibrated, "calibrate", calibrate)
    monkeypatch.setattr(calibrated, "is_released", lambda _: False)
    monkeypatch.setattr(calibrated.detectors, "from_config", lambda *_: None)
    together.threads(monkeypatch, 2, lambda: calibrated.from_config(None, tmp_path, "intensity", None))
    assert sorted(called) == [0, 1]
