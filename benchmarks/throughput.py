"""Measures how many scans an hour a checkout restores, against another one in turns, and where the time goes.

    python benchmarks/throughput.py --before=../old --workdir=W --input=../data --method=intensity --output=F.json

Each turn is a process of its own: `restore` of all scans into an empty folder, and again into the finished folder. The
difference of both times is that of the scans, without start-up. Behind each turn of this checkout, another process
restores the same batches from arrays in memory, when all is compiled: that is the pure time of the devices. CPU seconds
by stage are those of one thread that takes a few scans one after the other. Nothing else should run; what does slows
both checkouts. Without --before, this checkout is measured alone.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
STAGED = 3  # scans by stage, after a first one that compiles
STAGES = """
import json, sys, tempfile, time
import lgjax
from lgjax.scans import sources
workdir, place, method, count = sys.argv[1:]
detector, spent = lgjax.load(workdir, method=method), {}
subjects = lgjax.find(place)[: int(count)]
for subject in [subjects[0], *subjects]:  # the first one compiles
    marks = [time.thread_time()]
    prepared = detector.prepare(subject)
    marks.append(time.thread_time())
    found = detector.detect(subject, prepared, sources.digest(subject))
    marks.append(time.thread_time())
    with tempfile.TemporaryDirectory() as folder:
        found.save(folder)
    marks.append(time.thread_time())
    for name, begin, end in zip(("prepare", "detect", "save"), marks, marks[1:]):
        spent.setdefault(name, []).append(end - begin)
print(json.dumps({name: sum(values[1:]) / (len(values) - 1) for name, values in spent.items()}))
"""

# The batches of `Queue`, dispatched as by `Runner`, without what goes to the devices and what comes back.
DEVICES = """
import json, sys, time
import jax, numpy as np
import lgjax
from lgjax.methods.runner import IN_FLIGHT
from lgjax.runtime import parallel
workdir, place, method = sys.argv[1:]
detector = lgjax.load(workdir, method=method)
runner = detector.runner
assert not runner.whole_volumes, "a method of whole volumes has no batches"
plans = [detector.plan(detector.prepare(subject)) for subject in lgjax.find(place)]
slices = [np.concatenate(parts) for parts in zip(*[(*plan.slices, plan.strength) for plan in plans])]
began = time.perf_counter()
runner.batch([part[: runner.size] for part in slices])
first = time.perf_counter() - began
starts = range(0, len(slices[0]), runner.dispatched)
pieces = jax.block_until_ready([runner.place([a[i : i + runner.dispatched] for a in slices]) for i in starts])
program = runner.programs.of(runner.params, *pieces[0])
restore = lambda piece: jax.block_until_ready(program(runner.params, *piece))
each, seconds = runner.size // runner.dispatched, []
for start in range(0, len(pieces), each):
    began = time.perf_counter()
    list(parallel.ahead(restore, pieces[start : start + each], IN_FLIGHT))
    seconds.append(time.perf_counter() - began)
compiling = first - seconds[0]
print(json.dumps({"seconds": sum(seconds), "slices": len(slices[0]), "batches": len(seconds), "compiling": compiling}))
"""


def run(checkout: pathlib.Path, words: list[str]) -> tuple[str, float, float]:
    """Runs Python in a checkout; returns what it printed, and its seconds on the wall and of CPUs."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def turn(checkout: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """Restores all scans once, and finds them finished once."""
    with tempfile.TemporaryDirectory() as folder:
        workdir, output = pathlib.Path(folder, "work"), pathlib.Path(folder, "out")
        shutil.copytree(arguments.workdir, workdir)
        words = [f"--workdir={workdir}", f"--method={arguments.method}", f"--input={arguments.input}"]
        words = ["-m", "lgjax.restore", *words, f"--output={output}"]
        _, seconds, cpu = run(checkout, words)
        _, started, started_cpu = run(checkout, words)
        record = json.loads((output / "results.json").read_text())
    first = record["Runs"][0]
    assert first["Failed"] == 0, "a scan failed"
    spent, count = seconds - started, first["Restored"]
    found = {"scans": count, "seconds": spent, "cpu_seconds": cpu - started_cpu, "scans_per_hour": 3600 * count / spent}
    if "DeviceSeconds" in first:
        found["told"] = {key: first[key] for key in ("Seconds", "DeviceSeconds", "ScansPerHour")}
    return found


def beside_devices(found: dict, checkout: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """Adds to a turn the seconds of the devices alone, and how many times as long the turn took."""
    words = ["-c", DEVICES, str(arguments.workdir), str(arguments.input), arguments.method]
    alone = json.loads(run(checkout, words)[0].splitlines()[-1])
    return {**found, "devices_alone": alone, "times_devices_alone": found["seconds"] / alone["seconds"]}


def by_stage(checkout: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """Returns the CPU seconds of one thread for one scan, by stage."""
    words = ["-c", STAGES, str(arguments.workdir), str(arguments.input), arguments.method, str(STAGED)]
    return json.loads(run(checkout, words)[0].splitlines()[-1])


def revision(checkout: pathlib.Path) -> str:
    """Returns the commit of a checkout."""
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True).strip()


def median(turns: list[dict]) -> dict:
    """Returns the medians over the turns."""
    keys = ("seconds", "cpu_seconds", "scans_per_hour")
    found = {key: statistics.median(one[key] for one in turns) for key in keys}
    if told := [one["told"]["DeviceSeconds"] / one["told"]["Seconds"] for one in turns if "told" in one]:
        found["device_share"] = statistics.median(told)
    if all("devices_alone" in one for one in turns):
        found["devices_alone"] = statistics.median(one["devices_alone"]["seconds"] for one in turns)
        found["times_devices_alone"] = statistics.median(one["times_devices_alone"] for one in turns)
    return found


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, help="another checkout")
    for name in ("workdir", "input", "output"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve()} if arguments.before else {}
    checkouts["after"] = ROOT
    arguments.workdir, arguments.input = arguments.workdir.resolve(), arguments.input.resolve()
    turns: dict[str, list[dict]] = {name: [] for name in checkouts}
    loads = []
    for _ in range(arguments.turns):
        for name, checkout in checkouts.items():
            loads.append(round(os.getloadavg()[0], 2))
            found = turn(checkout, arguments)
            turns[name].append(beside_devices(found, checkout, arguments) if name == "after" else found)
            print(name, json.dumps(turns[name][-1]), flush=True)
    sys.path.insert(0, str(ROOT))
    from lgjax.runtime import devices

    record = {
        "command": f"benchmarks/throughput.py --method={arguments.method} --turns={arguments.turns}",
        **devices.versions(),
        **{name: revision(checkout) for name, checkout in checkouts.items()},
        "load_before_each_run": loads,
        "medians": {name: median(found) for name, found in turns.items()},
        "cpu_seconds_of_a_scan": {name: by_stage(checkout, arguments) for name, checkout in checkouts.items()},
        "turns": turns,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
