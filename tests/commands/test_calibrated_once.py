"""A restoration with a method that nobody has calibrated, by several processes at a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import together

from lgjax import batch
from lgjax.calibration import procedure
from lgjax.detector import Detector
from lgjax.runtime import parallel
from lgjax.workdir import calibrations


def test_one_process_calibrates_for_all(monkeypatch, tmp_path):
    """Processes that share no memory but the folder; each loads the record of the first."""
    calibrated, begun = [], threading.Barrier(3, timeout=60)

    def calibrate(method):
        calibrated.append(method.name)
        time.sleep(0.2)
        calibrations.path(tmp_path, method.name).write_text("a record")

    def load(config, workdir, name, mesh):
        return calibrations.path(workdir, name).read_text()

    def process(name: str) -> Detector:
        begun.wait()
        return batch.from_config(None, tmp_path, name, None)

    monkeypatch.setattr(procedure, "from_config", lambda *_: calibrate)
    monkeypatch.setattr(batch.detectors, "from_config", load)
    monkeypatch.setattr(parallel, "PAUSE", 0.01)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(process, ["intensity", "mirror_tv3d", "intensity"])) == ["a record"] * 3
    assert sorted(calibrated) == ["intensity", "mirror_tv3d"]
    assert sorted(path.name for path in (tmp_path / "calibration").iterdir()) == ["intensity.json", "mirror_tv3d.json"]


def test_joined_hosts_calibrate_together_although_one_sees_the_record_late(monkeypatch, tmp_path):
    """On a network file system, say; a host that went on alone would leave the others waiting for ever."""
    calibrated = []

    def calibrate(path, _):
        calibrated.append(jax.process_index())

    class Path(type(tmp_path)):
        def exists(self):
            return jax.process_index() == 1  # but not on the first host

    monkeypatch.setattr(batch.calibrations, "path", lambda *_: Path(tmp_path))
    monkeypatch.setattr(batch, "calibrate", calibrate)
    monkeypatch.setattr(batch, "is_released", lambda _: False)
    monkeypatch.setattr(batch.detectors, "from_config", lambda *_: None)
    together.threads(monkeypatch, 2, lambda: batch.from_config(None, tmp_path, "intensity", None))
    assert sorted(calibrated) == [0, 1]
