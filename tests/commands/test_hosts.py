"""Commands on two hosts, which are two processes here: to the bits of one process, whatever its devices."""

import json
import pathlib

import pytest
import together

from configs import detection
from lgjax.calibration import procedure
from lgjax.methods import names
from lgjax.workdir import preparation

METHOD = "mirror_tv3d"
TINY = {  # a search of lambda on three brains, by a method that needs no network
    "data.source": "phantom@10",
    "data.calibration_subjects": 3,
    "data.height": 16,
    "data.width": 16,
    "data.spacing": 12.0,
    "restore.closed_steps": 2,
    "calibrate.strength": 0.0,
    "calibrate.lambdas": 2,
    "calibrate.tolerance": 10.0,
    "calibrate.slices": 4,
}


def record(workdir: pathlib.Path) -> dict:
    """The record of a calibration, without the devices."""
    found = json.loads((workdir / "calibration" / f"{METHOD}.json").read_text())
    del found["Versions"]["device"]
    return found


@pytest.mark.usefixtures("optimised")  # as the hosts are
def test_two_hosts_calibrate_as_one_process_with_eight_devices(mesh8, tmp_path):
    config, one, two = detection.get_config("smoke"), tmp_path / "one", tmp_path / "two"
    config.update_from_flattened_dict(TINY)
    values = [f"--config.{name}={value}" for name, value in TINY.items()]
    command = ["calibrate", "--config=detection:smoke", *values, f"--method={METHOD}", f"--workdir={two}"]
    preparation.begin(config, one)
    procedure.from_config(config, one, mesh8)(names.parse(METHOD))
    (code, out, err), others = together.finish(together.start(tmp_path, command))
    assert code == 0, err
    assert others == (0, "", "")  # the first host alone speaks
    assert f"calibrated: {METHOD} -> {two / 'calibration'}" in out
    assert len(record(one)["Search"]["curve"]) > 2
    assert record(two) == record(one)
    assert sorted(path.name for path in two.rglob("*")) == sorted(path.name for path in one.rglob("*"))
