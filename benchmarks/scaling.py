"""Measures what scans, slices, devices and processes cost cores here, for the model of benchmarks/scaling_model.py.

    python benchmarks/scaling.py --output=benchmarks/scaling_cpu.json
    python benchmarks/scaling_tables.py                                        # predictions: tables and plot

Devices are simulated: they share the cores, so that they show what devices cost the host, not how fast devices are.
Every command is a process of its own that compiles all programs. Seconds are of cores: other work changes them little.
"""

import argparse
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks import kills, soak_scans
from benchmarks import scaling_model as model
from benchmarks.scaling_model import Run
from lgjax.methods.runner import MICRO_BATCH
from lgjax.runtime import devices, files, places

MICRO = MICRO_BATCH["cpu"]
METHOD = "vae_lg_neural_tv"
THICK, THIN = 16, 32  # slices of a scan's grid
RUNS = {
    "train": [
        Run(1, 1, steps=10, batch=16), Run(1, 1, steps=60, batch=16), Run(1, 1, steps=20, batch=64),
        Run(1, 4, steps=20, batch=32), Run(1, 8, steps=40, batch=16), Run(2, 1, steps=20, batch=32),
    ],
    "preprocess": [
        Run(1, 1, 2, THICK), Run(1, 1, 8, THIN), Run(1, 1, 12, THICK), Run(2, 1, 8, THICK), Run(2, 1, 12, THIN),
    ],
    "restore": [
        Run(1, 1, 2, THICK), Run(1, 1, 12, THICK), Run(1, 1, 8, THIN), Run(1, 2, 8, THICK), Run(1, 4, 8, THIN),
        Run(1, 8, 8, THICK), Run(2, 1, 8, THICK), Run(2, 2, 12, THIN),
    ],
}  # fmt: skip
COUNTS = {
    "restore": lambda run: model.restoration(run, MICRO),
    "preprocess": model.preparation,
    "train": model.training,
}
QUICK = ["--config=data:smoke", "--config.bias_field.iterations=5"]
FULL = (240, 240, 155)  # voxels of a scan of BraTS


class Taken(NamedTuple):
    """What commands took."""

    cpu: float  # s of cores
    wall: float  # s


def scans(folder: pathlib.Path, count: int, slices: int) -> int:
    """Writes small heads and returns how many slices of each hold brain."""
    folder.mkdir(parents=True, exist_ok=True)
    heads = [soak_scans.head(number, (20, 24, slices)) for number in range(count)]
    for number, head in enumerate(heads):
        zooms = soak_scans.affine(6.0, 6.0, 96.0 / slices)
        soak_scans.saved(soak_scans.unchanged, zooms)(folder / f"s{number:02d}.nii.gz", head)
    return int((heads[0] > 0).any((0, 1)).sum())


def taken(commands: Sequence[Sequence[str]], simulated: int = 1) -> Taken:
    """Runs commands side by side, each with so many simulated devices.

    Raises:
      RuntimeError: one of them failed.
    """
    flags = f"--xla_force_host_platform_device_count={simulated}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    began, cpu = time.perf_counter(), 0.0
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"lgjax.{words[0]}", *words[1:]],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in commands
    ]
    for process, words in zip(started, commands, strict=True):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
    return Taken(round(cpu, 2), round(time.perf_counter() - began, 2))


def port() -> int:
    """Returns a free port of this machine."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def commands(stage: str, run: Run, folder: pathlib.Path, place: pathlib.Path) -> list[list[str]]:
    """Returns the commands of a measurement, which write to `place`; scans and models lie in `folder`."""
    given = f"--input={folder / f'{run.scans}x{run.slices}'}"
    words = {
        "restore": [f"--workdir={folder / 'model'}", f"--method={METHOD}", given, f"--output={place}", "--noviewer"],
        "preprocess": [*QUICK, given, f"--output={place}"],
        "train": [
            *["--config=vae:smoke", f"--config.data.source={folder / 'prepared'}", *kills.SMALL, f"--workdir={place}"],
            *[f"--config.train.steps={run.steps}", f"--config.train.batch_size={run.batch}"],
        ],
    }[stage]
    hosts = [[stage, *words] for _ in range(run.processes)]
    if stage == "train" and run.processes > 1:
        together = [f"--coordinator=localhost:{port()}", f"--hosts={run.processes}"]
        hosts = [[*host, *together, f"--host={number}"] for number, host in enumerate(hosts)]
    return hosts


def begin(folder: pathlib.Path) -> None:
    """Prepares healthy scans, trains on them and calibrates."""
    scans(folder / "healthy", 6, THICK)
    prepared, place = folder / "prepared", folder / "model"
    some = "--calibration=sub-s00,sub-s01"
    solver = ["--config.restore.optimizer=proximal", "--config.restore.refreshes=5"]
    trained = ["train", "--config=vae:smoke", f"--config.data.source={prepared}", *kills.SMALL, *solver]
    taken([["preprocess", *QUICK, f"--input={folder / 'healthy'}", f"--output={prepared}", some]])
    taken([[*trained, "--config.train.steps=20", f"--workdir={place}"]])
    for method in (METHOD, "intensity"):
        taken([["calibrate", f"--workdir={place}", f"--method={method}"]])


def full(folder: pathlib.Path, stage: str) -> dict:
    """Measures what a scan of full size costs cores: the difference between three scans and one, over two."""
    given = {
        "preprocess": ["preprocess", "--config=data", "--config.workers=1"],
        "restore": ["restore", f"--workdir={folder / 'model'}", "--method=intensity", "--noviewer"],
    }[stage]
    cpu, place = [], folder / f"full-{stage}"
    for count in (1, 3):
        for number in range(count):
            path = place / str(count) / f"s{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            soak_scans.saved(soak_scans.unchanged)(path, soak_scans.head(number, FULL))
        cpu.append(taken([[*given, f"--input={path.parent}", f"--output={place / f'out{count}'}"]]).cpu)
    written = sum(path.stat().st_size for path in (place / "out3").rglob("*") if path.is_file())
    return {
        "cpu_seconds": round((cpu[1] - cpu[0]) / 2, 3),
        "bytes": round(written / 3),
        "bytes_read": (place / "1" / "s0.nii.gz").stat().st_size,
    }


def measure(folder: pathlib.Path, stage: str, number: int) -> dict:
    """Measures one run of `RUNS`; scans and models lie in `folder`."""
    run = RUNS[stage][number]
    took = taken(commands(stage, run, folder, folder / stage / str(number)), run.devices)
    return {**run._asdict(), "cpu_seconds": took.cpu, "wall_seconds": took.wall}


def kept(path: pathlib.Path, make: Callable[[], dict]) -> dict:
    """Returns what was measured before, or measures and keeps it."""
    if not path.exists():
        files.atomic_write(path, json.dumps(make()))
    found = json.loads(path.read_text())
    print(path.stem, found, flush=True)
    return found


def fitted(stage: str, found: list[dict], brain: dict[int, int]) -> dict:
    """Fits the model to the runs of a stage.

    Args:
      stage: a command.
      found: what was measured of each of its runs.
      brain: slices with brain, by the slices of a scan's grid.
    """
    counts = [COUNTS[stage](run._replace(slices=brain.get(run.slices, 0))) for run in RUNS[stage]]
    fit = model.fit(counts, [each["cpu_seconds"] for each in found])
    runs = [{**each, "error_unseen": round(error, 4)} for each, error in zip(found, fit.errors, strict=True)]
    errors = np.abs(fit.errors)
    summary = {"median": round(float(np.median(errors)), 4), "largest": round(float(errors.max()), 4)}
    return {"terms": fit.terms, "error_unseen": summary, "runs": runs}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="measurements side by side")
    parser.add_argument("--folder", type=pathlib.Path, help="where all is kept; default: a folder removed again")
    given = parser.parse_args()
    record = {"what": __doc__.splitlines()[0], "command": places.command(["python", *sys.argv])}
    record |= {"versions": devices.versions(), "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(given.jobs) as pool:
        folder = given.folder or pathlib.Path(name)
        if not (folder / "model" / "calibration" / "intensity.json").exists():
            begin(folder)
        brain, tasks = {}, {}
        for count, slices in {(run.scans, run.slices) for runs in RUNS.values() for run in runs if run.scans}:
            brain[slices] = scans(folder / f"{count}x{slices}", count, slices)
        whole = {
            stage: pool.submit(kept, folder / f"full-{stage}.json", functools.partial(full, folder, stage))
            for stage in ("preprocess", "restore")
        }
        for stage, runs in RUNS.items():
            for number in range(len(runs)):
                run = functools.partial(measure, folder, stage, number)
                tasks[stage, number] = pool.submit(kept, folder / f"{stage}-{number}.json", run)
        found = {stage: [tasks[stage, number].result() for number in range(len(runs))] for stage, runs in RUNS.items()}
        full_size = {stage: task.result() for stage, task in whole.items()}
    record |= {"slices_with_brain": brain, "full_size": {"voxels": FULL, **full_size}}
    record["stages"] = {stage: fitted(stage, some, brain) for stage, some in found.items()}
    record["load_after"] = round(os.getloadavg()[0], 1)
    files.atomic_write(given.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
