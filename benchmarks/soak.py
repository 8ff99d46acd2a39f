"""Restores a cohort, some of it bad in every way, by two processes that are killed and started again at random moments.

    python benchmarks/soak.py --output=benchmarks/soak_200_cpu.json
    python benchmarks/soak.py --output=F.json --scans=40 --kills=2 --seed=1

One undisturbed process restores the cohort first. Then two processes share another output folder; at every kill one of
them, or both, get SIGKILL and begin again. Looked at: exit codes, every file against the undisturbed run's, bit for bit
(of results.json what was done, without times), why bad scans failed, and resident memory.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import kills, soak_scans
from lgjax.runtime import devices, files, places

METHOD = "mirror_tv3d"
Resident = Callable[[kills.Running], int]


class Sample(NamedTuple):
    """The memory of a process at a moment."""

    process: int
    scans: int  # that were finished, by whichever process
    megabytes: float  # resident


class Ended(NamedTuple):
    """What the processes did."""

    seconds: float
    codes: list[int | None]  # exit codes of all processes, killed ones too, in the order of their starts
    samples: list[Sample]
    temporary: int  # files that kills left and nobody removed


def resident(process: kills.Running) -> int:
    """Returns the bytes of resident memory of a process; 0 when it is over."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])
    except (OSError, IndexError):
        return 0


def finished(folder: pathlib.Path) -> int:
    """Counts the scans of an output folder that are finished."""
    return sum(1 for _ in folder.glob("sub-*/anat/*_desc-anomaly_T2w.json"))


def moments(rng: random.Random, count: int, scans: int) -> list[tuple[int, float, tuple[int, ...]]]:
    """Draws when processes are killed: after how many finished scans, seconds later, and which of the two."""
    after = sorted(rng.sample(range(1, scans), count))
    return [(number, rng.random(), rng.choice([(0,), (1,), (0, 1)])) for number in after]


def processes(
    start: Callable[[], kills.Running],
    folder: pathlib.Path,
    count: int,
    kill: Sequence[tuple[int, float, tuple[int, ...]]] = (),
) -> Ended:
    """Runs processes that share an output folder to their ends, and kills and restarts some.

    Args:
      start: starts a process.
      folder: of the outputs.
      count: how many processes at a time.
      kill: as `moments` draws them.
    """
    began, left = time.perf_counter(), list(kill)
    started = [start() for _ in range(count)]
    alive, samples = list(range(count)), []
    while any(started[number].poll() is None for number in alive):
        done = finished(folder)
        samples += [Sample(number, done, resident(started[number]) / 2**20) for number in alive]
        if left and done >= left[0][0]:
            _, seconds, which = left.pop(0)
            time.sleep(seconds)
            for place in which:
                started[alive[place]].kill()
                started[alive[place]].wait()
                started.append(start())
                alive[place] = len(started) - 1
        time.sleep(0.1)
    codes = [process.wait() for process in started]
    temporary = sum(path.suffix == ".tmp" for path in folder.rglob("*"))
    return Ended(round(time.perf_counter() - began, 1), codes, [each for each in samples if each.megabytes], temporary)


def growth(samples: Sequence[Sample], warm: int) -> dict[int, float]:
    """Fits lines to the memory of processes against finished scans, until the last scan is finished.

    Args:
      samples: of all processes.
      warm: finished scans from a process's first sample that are left out: programs are compiled there.

    Returns:
      MB per 100 finished scans by process, of those that saw `warm` more scans.
    """
    found, last = {}, max(each.scans for each in samples)
    for process in sorted({each.process for each in samples}):
        own = np.array([(each.scans, each.megabytes) for each in samples if each.process == process])
        own = own[own[:, 0] < last]
        own = own[own[:, 0] >= own[:1, 0] + warm]
        if len(own) > 2 and np.ptp(own[:, 0]) >= warm:
            found[process] = round(100 * float(np.polyfit(*own.T, 1)[0]), 2)
    return found


def profile(samples: Sequence[Sample]) -> dict[int, float]:
    """Returns the median MB of one process in every tenth of the finished scans, by the scans that it begins with."""
    width = max(max(each.scans for each in samples) // 10, 1)
    parts: dict[int, list[float]] = {}
    for each in samples:
        parts.setdefault(each.scans // width * width, []).append(each.megabytes)
    return {begin: round(float(np.median(values)), 1) for begin, values in parts.items()}


def misjudged(folder: pathlib.Path, expected: dict[str, str]) -> list[str]:
    """Names the scans of which results.json, or the folder, does not say what their kind demands."""
    scans = json.loads((folder / "results.json").read_text())["Scans"]
    wrong = sorted(scans.keys() ^ expected.keys())
    for name in scans.keys() & expected.keys():
        told = {**soak_scans.GOOD, **soak_scans.BAD}[expected[name]].told
        maps = list(folder.glob(f"{name}/anat/*_desc-anomaly_T2w.nii.gz"))
        failed = scans[name]["Outcome"] == "failed" and bool(told) and told in scans[name]["Message"] and not maps
        if not (failed if told else scans[name]["Outcome"] != "failed" and len(maps) == 1):
            wrong.append(f"{name}: {expected[name]}")
    return wrong


def told(ended: Ended, warm: int) -> dict:
    """Returns what the record says of the processes of a run."""
    peaks: dict[int, float] = {}
    for each in ended.samples:
        peaks[each.process] = max(peaks.get(each.process, 0.0), each.megabytes)
    return {
        "seconds": ended.seconds,
        "exit_codes": ended.codes,
        "temporary_files": ended.temporary,
        "peak_megabytes": {process: round(peak) for process, peak in peaks.items()},
        "megabytes_per_100_scans": growth(ended.samples, warm),
    }


def soak(start: kills.Start, folder: pathlib.Path, scans: int, count: int, seed: int) -> dict:
    """Restores a cohort undisturbed and disturbed.

    Args:
      start: starts a command.
      folder: to work in.
      scans: of the cohort.
      count: how many kills.
      seed: of their moments.

    Returns:
      The record; `unequal` and `misjudged` are empty, and processes that were not killed ended with 3, if all is well.
    """
    expected = soak_scans.write(folder / "cohort", scans)
    good = sum(kind in soak_scans.GOOD for kind in expected.values())

    def words(place: str) -> list[str]:
        return ["restore", f"--method={METHOD}", f"--input={folder / 'cohort'}", f"--output={folder / place}"]

    kill = moments(random.Random(seed), count, good)
    whole = processes(lambda: start(words("whole")), folder / "whole", 1)
    shared = processes(lambda: start(words("shared")), folder / "shared", 2, kill)
    found = [kills.of_files(folder / place) for place in ("whole", "shared")]
    warm = max(scans // 4, 2)
    return {
        "scans": scans,
        "bad": scans - good,
        "kinds_of_bad": len(set(expected.values()) & soak_scans.BAD.keys()),
        "undisturbed": {**told(whole, warm), "median_megabytes_by_scans": profile(whole.samples)},
        "disturbed": told(shared, warm),
        "kills": [{"finished": done, "seconds_later": round(later, 3), "of": of} for done, later, of in kill],
        "files": len(found[0]),
        "unequal": kills.differences(*found),
        "misjudged": {place: misjudged(folder / place, expected) for place in ("whole", "shared")},
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=pathlib.Path, help="where all is kept; default: a folder that is removed again"
    )
    given = parser.parse_args()
    about = {"what": __doc__.splitlines()[0], "command": places.command(["python", *sys.argv]), "seed": given.seed}
    about |= {"versions": devices.versions(), "cores": os.cpu_count(), "method": METHOD}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        record = soak(kills.typed, given.folder or pathlib.Path(name), given.scans, given.kills, given.seed)
    loads = {"before": round(load, 1), "after": round(os.getloadavg()[0], 1)}
    files.atomic_write(given.output, json.dumps({**about, "load": loads, **record}, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
