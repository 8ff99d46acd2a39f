"""Times restorations and a training step with Flax's convolutions and with those of lgjax.models.convolutions.

    python benchmarks/convolutions.py --output=benchmarks/convolutions_cpu.json

Both are the same functions (tests/test_models.py). Seconds an iteration of a batch of 128x128 slices, the networks of
configs/vae.py with random weights; the two take turns, medians of the repeats.
"""

import argparse
import json
import pathlib
import sys
import time

import flax.linen as nn
import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import vae as experiment
from lgjax import models
from lgjax.methods import names
from lgjax.methods import runner as runners
from lgjax.models import blocks, convolutions
from lgjax.runtime import devices, places
from lgjax.speed import contestants
from lgjax.training import feeding, settings

METHODS = {"vae_lg_neural_tv": 10, "vae_lg_est_tv": 2, "vae_elbo_tv": 5}  # and iterations of a run


def upsampled(x, kernel, *_, **__):
    """The image upsampled, then convolved at its full size."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(blocks.upsample(x), kernel, (1, 1), "SAME", dimension_numbers=numbers)


def flax_upsampled(features: int, **arguments) -> nn.Conv:
    """The counterpart of convolutions.UpsampledConv."""
    return nn.Conv(features, (3, 3), conv_general_dilated=upsampled, **arguments)


KINDS = {
    "flax": (nn.Conv, flax_upsampled, {}),
    "lgjax": (convolutions.Conv, convolutions.UpsampledConv, devices.COMPILER_OPTIONS),
}


def restoration(name: str, slices: int):
    """A run of a method on a batch; call it without arguments."""
    config = experiment.paper()
    config.restore.iterations, config.restore.batch_size = METHODS[name], slices
    model = models.from_config(config, config.restore.precision)
    params = models.freeze(contestants.random_state(model, settings.from_config(config)).variables)
    runner = runners.Runner(names.parse(name), runners.from_config(config), model, params, devices.mesh())
    batch = contestants.brain_like(0, slices, config.data.height, config.data.width)
    return lambda: list(runner(batch, np.ones(slices, np.float32))), METHODS[name]


def training(slices: int):
    """A training step; call it without arguments."""
    config, mesh = experiment.paper(), devices.mesh()
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    state = devices.replicate(contestants.random_state(model, values), mesh)
    found = contestants.brain_like(0, slices, config.data.height, config.data.width)
    batch = jax.device_put((found.y, found.mask), devices.batch_sharding(mesh))
    step = feeding.make_step(model, values, mesh).lower(state, *batch).compile()

    def run():
        nonlocal state
        state, _ = step(state, *batch)
        jax.block_until_ready(state)

    return run, 1


def prepare(kind: str, what: str, slices: int):
    """Something to time, compiled with one kind of convolutions."""
    convolutions.Conv, convolutions.UpsampledConv, devices.COMPILER_OPTIONS = KINDS[kind]
    devices.compiler_options.cache_clear()
    run, iterations = training(slices) if what == "training" else restoration(what, slices)
    run()
    return run, iterations


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    seconds: dict[str, dict[str, list[float]]] = {}
    for what in (*METHODS, "training"):
        runs = {kind: prepare(kind, what, arguments.slices) for kind in KINDS}
        seconds[what] = {kind: [] for kind in KINDS}
        for _ in range(arguments.repeats):
            for kind, (run, iterations) in runs.items():
                began = time.perf_counter()
                run()
                seconds[what][kind].append((time.perf_counter() - began) / iterations)
        print(what, {kind: f"{np.median(values):.4f} s" for kind, values in seconds[what].items()}, flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "slices": arguments.slices,
        "medians": {what: {kind: float(np.median(v)) for kind, v in kinds.items()} for what, kinds in seconds.items()},
        "samples": seconds,
    }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
