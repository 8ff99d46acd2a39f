"""Measures what the threads of XLA's pool cost on a CPU, and whether threads or cores decide the restored bits.

    python benchmarks/threads.py --output=benchmarks/threads_cpu.json

Each run is a process of its own with a number of threads (NPROC; 0: as XLA chooses) and of cores, in turns. A run
restores slices of noise with random networks of the smoke size by `vae_lg_neural_tv`, and says how long an iteration
of a slice took and what SHA-256 the restored slices have.
"""

import argparse
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

SLICES, ITERATIONS, TURNS = 48, 10, 3
RUNS = [(threads, cores) for threads in (0, 2, 4, 8) for cores in (1, os.cpu_count())]


def restore(cores: int) -> None:
    """Restores in this process, kept to some cores, and prints what was found."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import numpy as np

    from configs import vae
    from lgjax import models
    from lgjax.methods import names, runner
    from lgjax.runtime import devices
    from lgjax.speed.synthetic import brain_like, random_state
    from lgjax.training import settings

    config = vae.get_config("smoke")
    config.restore.iterations = ITERATIONS
    model = models.from_config(config, config.restore.precision)
    params = models.freeze(random_state(model, settings.from_config(config)).variables)
    found = runner.Runner(
        names.parse("vae_lg_neural_tv"), runner.from_config(config), model, params, devices.start("cpu", None)
    )
    slices = brain_like(0, SLICES, config.data.height, config.data.width)
    strength = np.full(SLICES, 0.3, np.float32)
    seconds = []
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        x = np.concatenate([part for part, _ in found(slices, strength)])
        seconds.append(time.perf_counter() - began)
    taken = 1e3 * min(seconds[1:]) / SLICES / ITERATIONS
    digest = hashlib.sha256(x.tobytes()).hexdigest()
    print(json.dumps({"milliseconds": taken, "sha256": digest, **devices.versions()}))


def measure() -> dict:
    """Runs all numbers of threads and cores in turns."""
    found: dict = {}
    for _ in range(TURNS):
        for threads, cores in RUNS:
            environment = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
            environment |= {"NPROC": str(threads)} if threads else {}
            command = [sys.executable, __file__, f"--cores={cores}"]
            printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            found.setdefault(f"threads {threads or 'as XLA chooses'}, cores {cores}", []).append(json.loads(printed))
    rows = {
        name: {
            "milliseconds_per_slice_and_iteration": statistics.median(run["milliseconds"] for run in runs),
            "sha256": sorted({run["sha256"] for run in runs}),
        }
        for name, runs in found.items()
    }
    about = {
        key: value for key, value in next(iter(found.values()))[0].items() if key not in ("milliseconds", "sha256")
    }
    return {"command": "python benchmarks/threads.py", "turns": TURNS, **about, "runs": rows}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--cores", type=int, help="restore once, on so many cores")
    arguments = parser.parse_args()
    if arguments.cores:
        restore(arguments.cores)
        return
    text = json.dumps(measure(), indent=2) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
