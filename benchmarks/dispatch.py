"""Times training with one step and with several per dispatch, slices on the device.

    python benchmarks/dispatch.py --output=benchmarks/dispatch_cpu.json

Seconds a step of configs/vae.py:smoke, on the clock and of all cores together (what else runs disturbs mostly the
former); random weights and synthetic slices; runs of eight steps, in turns.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import vae as experiment
from lgjax import models
from lgjax.runtime import devices, files, places
from lgjax.speed import trainings
from lgjax.speed.synthetic import brain_like, random_state
from lgjax.training import feeding, settings
from lgjax.training.store import InMemory

COUNTS, SLICES, RUN = (1, 8), 128, 8


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    mesh, streams, states = devices.start(options.device), {}, {}
    samples = {count: [] for count in COUNTS}  # pairs: on the clock, of cores
    for count in COUNTS:
        config = experiment.smoke()
        config.train.steps_per_dispatch = count
        model = models.from_config(config, config.train.precision)
        values = trainings.endless(settings.from_config(config))
        found = brain_like(0, SLICES, config.data.height, config.data.width)
        streams[count] = feeding.steps(model, values, InMemory(found.y, found.mask), mesh, 0)
        states[count] = devices.replicate(random_state(model, values), mesh)

    def run(count: int) -> tuple[float, float]:
        began, used = time.perf_counter(), time.process_time()
        for _ in range(RUN // count):
            _, program, arguments = next(streams[count])
            states[count], _ = program(states[count], *arguments)
        jax.block_until_ready(states[count])
        return (time.perf_counter() - began) / RUN, (time.process_time() - used) / RUN

    for repeat in range(options.repeats + 1):
        for count in COUNTS:
            seconds = run(count)
            print(f"{count} a dispatch: {seconds[0]:.3f} s a step, {seconds[1]:.3f} s of cores", flush=True)
            if repeat:  # the first one compiles
                samples[count].append(seconds)
    medians = {count: np.median(values, axis=0).tolist() for count, values in samples.items()}
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "batch": [config.train.batch_size, config.data.height, config.data.width],
        "seconds_per_step": medians,
        "samples": samples,
    }
    files.atomic_write(options.output, json.dumps(record, indent=2) + "\n")
    print(medians)


if __name__ == "__main__":
    main()
