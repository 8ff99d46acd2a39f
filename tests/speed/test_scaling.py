"""The model of benchmarks/scaling_model.py: its fit against known costs, its predictions against closed forms."""

import itertools
import json
import math

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import pages, scaling, scaling_tables
from benchmarks import scaling_model as model
from benchmarks.scaling_model import Machine, Run, Scan, Step

COSTS = {
    "restoration": {"start": 3.0, "further device": 0.5, "scan": 0.25, "slice": 0.02},
    "preparation": {"start": 2.0, "scan": 0.1, "slice": 0.03},
    "training": {"start": 6.0, "further device": 1.5, "slice": 0.004, "step of a device": 0.01},
}
COUNTS = {
    "restoration": lambda run: model.restoration(run, 12),
    "preparation": model.preparation,
    "training": model.training,
}
RUNS = [
    Run(processes, devices, scans, slices, steps, 16)
    for processes, devices, (scans, slices, steps) in itertools.product(
        (1, 2), (1, 2, 8), ((2, 8, 20), (8, 20, 50), (9, 13, 80))
    )
]
SCAN = Scan(cpu=3.0, device=0.016, slices=155, size=2e7)
HOST = Machine(cores=16, devices=1, bandwidth=1e9)


@pytest.mark.parametrize("stage", COSTS)
def test_the_fit_finds_the_costs_that_made_the_measurements(stage):
    counts = [COUNTS[stage](run) for run in RUNS]
    seconds = [model.predicted(COSTS[stage], each) for each in counts]
    found = model.fit(counts, seconds)
    assert found.terms == pytest.approx(COSTS[stage], rel=1e-6)
    assert found.errors == pytest.approx([0.0] * len(RUNS), abs=1e-6)


def test_the_error_is_of_a_run_that_the_fit_has_not_seen():
    counts = [COUNTS["preparation"](run) for run in RUNS]
    seconds = [model.predicted(COSTS["preparation"], each) for each in counts]
    seconds[3] *= 2  # the other runs say the half
    assert model.fit(counts, seconds).errors[3] == pytest.approx(-0.5)


def test_no_cost_is_negative():
    rng = np.random.default_rng(0)
    counts = [COUNTS["restoration"](run) for run in RUNS]
    found = model.fit(counts, rng.uniform(1, 20, len(RUNS)))
    assert min(found.terms.values()) >= 0


def test_batches_are_padded_for_all_devices_of_a_process():
    assert model.restoration(Run(2, 4, 10, 7), 12)["slice"] == 2 * 48  # 35 slices a process, 48 a dispatch
    assert model.restoration(Run(1, 1, 10, 7), 12)["slice"] == 72


@pytest.mark.parametrize(
    ("scan", "by", "seconds"),
    [
        (Scan(cpu=4.0, device=0.0, slices=64, size=0), "cores", 10 + 25 * 4 / 16 + 4),
        (Scan(cpu=0.0, device=0.01, slices=64, size=0), "devices", 10 + 25 * 0.64 + 0.64),
        (Scan(cpu=0.0, device=0.0, slices=64, size=1e8), "files", 10 + 25 * 0.1 + 0.1),
    ],
)
def test_one_resource_alone_has_a_closed_form(scan, by, seconds):
    found = model.cohort(scan, 100, 4, HOST, 10, 64)
    assert found.by == by
    assert found.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("scans", [1, 7, 1000])
def test_more_devices_or_hosts_never_take_longer(scans):
    numbers = (1, 2, 3, 8, 64, 256)
    devices = [model.cohort(SCAN, scans, 1, HOST._replace(devices=n), 10, 64).seconds for n in numbers]
    hosts = [model.cohort(SCAN, scans, n, HOST, 10, 64).seconds for n in numbers]
    for found in (devices, hosts):
        assert found == sorted(found, reverse=True)


def test_a_reduction_moves_twice_the_gradients_in_the_end():
    assert model.reduction(8e6, 1, 1e9, 1e-3) == 0
    assert model.reduction(8e6, 2, 1e9, 0) == pytest.approx(8e-3)
    assert model.reduction(8e6, 4, 1e9, 1e-3) == pytest.approx(12e-3 + 2e-3)
    assert model.reduction(8e6, 10**6, 1e9, 0) == pytest.approx(16e-3, rel=1e-5)


def test_devices_beyond_the_slices_of_a_batch_have_no_work():
    step = Step(device=1e-4, batch=64, gradients=8e6)
    machine = Machine(cores=16, devices=8, bandwidth=1e9, link=1e10, latency=1e-5)
    by_hosts = {hosts: model.steps(step, 1000, hosts, machine, 5.0) for hosts in (1, 8, 32)}
    assert by_hosts[1] == pytest.approx(5 + 1000 * (8e-4 + 2 * 7 / 8 * 8e-4 + 3e-5))
    assert by_hosts[8] == by_hosts[32] == pytest.approx(5 + 1000 * (1e-4 + 2 * 63 / 64 * 8e-4 + 6e-5))
    assert model.steps(step, 1000, 1, machine._replace(link=math.inf, latency=0.0), 5.0) == pytest.approx(5.8)


@pytest.fixture(scope="module")
def known():
    cpu, gpu = (
        json.loads((ROOT / "benchmarks" / name).read_text()) for name in ("scaling_cpu.json", "bench_h200.json")
    )
    return scaling_tables.Known(cpu, gpu)


def test_the_record_holds_what_the_fit_says(known):
    brain = {int(slices): count for slices, count in known.cpu["slices_with_brain"].items()}
    for stage, found in known.cpu["stages"].items():
        runs = [Run(*(run[name] for name in Run._fields)) for run in found["runs"]]
        counts = [scaling.COUNTS[stage](run._replace(slices=brain.get(run.slices, 0))) for run in runs]
        fitted = model.fit(counts, [run["cpu_seconds"] for run in found["runs"]])
        assert fitted.terms == pytest.approx(found["terms"])
        assert [run["error_unseen"] for run in found["runs"]] == pytest.approx(fitted.errors, abs=1e-4)


def test_a_device_that_alone_decides_costs_its_seconds(known):
    nothing = {"cpu_seconds": 0.0, "bytes": 0, "bytes_read": 0}
    fast = known._replace(cpu={**known.cpu, "full_size": {"preprocess": nothing, "restore": nothing}})
    machine = {"vcpus": 8, "devices": 1, "bandwidth": 4.8, "dollars": 3600.0}
    wall, dollars = scaling_tables.cost(fast, "vae_lg_neural_tv", machine, 6400)
    found = fast.gpu["methods"]["vae_lg_neural_tv"]
    start = fast.cpu["stages"]["restore"]["terms"]["start"] + found["compile_seconds"]
    seconds = (6400 * 155 // 64 + 3) * 800 * found["seconds_per_iteration"]["median"]  # 3: the last scan, alone
    assert wall.by == "devices"
    assert dollars == pytest.approx(wall.seconds) == pytest.approx(start + seconds)
    slow = scaling_tables.cost(fast, "vae_lg_neural_tv", {**machine, "bandwidth": 2.4}, 6400)[0]
    assert slow.seconds - start == pytest.approx(2 * seconds)


def test_a_table_is_written_behind_its_mark():
    page = "A\n\n<!-- writer: b -->\n\n| old |\n| - |\n\nC\n"
    found = pages.written(page, "writer", {"b": "| new |\n| - |\n| 1 |"})
    assert found == "A\n\n<!-- writer: b -->\n\n| new |\n| - |\n| 1 |\n\nC\n"
    for other in ("A\n", page + page):
        with pytest.raises(ValueError, match="values to unpack"):
            pages.written(other, "writer", {"b": "| new |"})


def test_the_page_shows_the_tables_of_the_record():
    page = scaling_tables.PAGE.read_text(encoding="utf-8")
    assert pages.written(page, scaling_tables.WRITER, scaling_tables.of_records()) == page
