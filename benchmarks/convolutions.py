"""Times restorations and a training step with Flax's convolutions and with those of lgjax.models.convolutions.

    python benchmarks/convolutions.py --output=benchmarks/convolutions_cpu.json

All are the same functions (tests/models). Seconds an iteration of a batch of 128x128 slices, the networks of
configs/vae.py with random weights; Flax's convolutions, the plain forms and those of the device take turns, medians of
the repeats.

    python benchmarks/convolutions.py --tune --output=lgjax/models/forms.json

Measures every form of every convolution of the networks of configs/vae.py and configs/restorer.py, in TensorFloat-32
and in bfloat16, on the device at hand: results and image gradients inside a loop, as restorations need them, and kernel
gradients, which a CPU is asked for one by one. Runs last 20 ms or longer. Writes the seconds of all, and the form to
take, into the table of the kind of device, beside the tables of other kinds. The largest convolutions come first, so
that the time limit leaves out the least important ones.
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

from benchmarks import tuning
from configs import vae as experiment
from lgjax import models
from lgjax.methods import names
from lgjax.methods import runner as runners
from lgjax.models import blocks, convolutions, precision, tuned
from lgjax.runtime import devices, files, places
from lgjax.speed.synthetic import brain_like, random_state
from lgjax.training import feeding, settings

METHODS = {"vae_lg_neural_tv": 10, "vae_lg_est_tv": 2, "vae_elbo_tv": 5}  # and iterations of a run


def upsampled(x, kernel, *_, **__):
    """The image upsampled, then convolved at its full size."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(blocks.upsample(x), kernel, (1, 1), "SAME", dimension_numbers=numbers)


def flax_upsampled(features: int, **arguments) -> nn.Conv:
    """The counterpart of convolutions.UpsampledConv."""
    return nn.Conv(features, (3, 3), conv_general_dilated=upsampled, **arguments)


OURS = (convolutions.Conv, convolutions.UpsampledConv, devices.COMPILER_OPTIONS)
KINDS = {  # and whose forms they have
    "flax": ((nn.Conv, flax_upsampled, {}), ""),
    "lgjax": (OURS, ""),
    "plain": (OURS, "plain"),
    "cpu": (OURS, "cpu"),
}


def restoration(name: str, slices: int):
    """A run of a method on a batch; call it without arguments."""
    config = experiment.paper()
    config.restore.iterations, config.restore.batch_size = METHODS[name], slices
    model = models.from_config(config, config.restore.precision)
    params = models.freeze(random_state(model, settings.from_config(config)).variables)
    runner = runners.Runner(names.parse(name), runners.from_config(config), model, params, devices.mesh())
    batch = brain_like(0, slices, config.data.height, config.data.width)
    return lambda: list(runner(batch, np.ones(slices, np.float32))), METHODS[name]


def training(slices: int):
    """A training step; call it without arguments."""
    config, mesh = experiment.paper(), devices.mesh()
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    state = devices.replicate(random_state(model, values), mesh)
    found = brain_like(0, slices, config.data.height, config.data.width)
    batch = jax.device_put((found.y, found.mask), devices.batch_sharding(mesh))
    step = feeding.make_step(model, values, mesh).lower(state, *batch).compile()

    def run():
        nonlocal state
        state, _ = step(state, *batch)
        jax.block_until_ready(state)

    return run, 1


def prepare(kind: str, what: str, slices: int):
    """Something to time, compiled with one kind of convolutions."""
    (convolutions.Conv, convolutions.UpsampledConv, devices.COMPILER_OPTIONS), whose = KINDS[kind]
    devices.compiler_options.cache_clear()
    with convolutions.forms(whose):
        run, iterations = training(slices) if what == "training" else restoration(what, slices)
        run()
    return run, iterations


def about() -> dict:
    """What a record is about."""
    return {"command": places.command(["python", *sys.argv]), "versions": devices.versions()}


def tune(options) -> None:
    """Writes the table of the forms that are fastest on the device at hand, after each convolution."""
    device = jax.devices()[0].device_kind
    table, found = tuned.read(options.output) if options.output.exists() else {}, list[tuned.Entry]()
    with precision.matmul_precision("tensorfloat32"):  # bfloat16 needs none
        wanted = [tuning.layers(config, device) for config in tuning.configs(options.smoke)]
        told = tuning.Tuning(device, options.slices, options.repeats, time.perf_counter() + options.seconds)
        for entry in (entry for layers in wanted for entry in tuning.tune(layers, told)):
            found.append(entry)
            files.atomic_write(options.output, tuned.text({**table, device: tuned.Record(about(), found)}))
            print(entry.use, *entry.layer, entry.form, {form: f"{s:.2g} s" for form, s in entry.seconds.items()})


def compare(options) -> None:
    """Times whole programs by kinds of convolutions."""
    seconds: dict[str, dict[str, list[float]]] = {}
    kinds = ["flax", "lgjax", "plain" if jax.default_backend() == "cpu" else "cpu"]
    for what in (*METHODS, "training"):
        runs = {kind: prepare(kind, what, options.slices) for kind in kinds}
        seconds[what] = {kind: [] for kind in kinds}
        for _ in range(options.repeats):
            for kind, (run, iterations) in runs.items():
                began = time.perf_counter()
                run()
                seconds[what][kind].append((time.perf_counter() - began) / iterations)
        print(what, {kind: f"{np.median(values):.4f} s" for kind, values in seconds[what].items()}, flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        **about(),
        "slices": options.slices,
        "medians": {what: {kind: float(np.median(v)) for kind, v in kinds.items()} for what, kinds in seconds.items()},
        "samples": seconds,
    }
    files.atomic_write(options.output, json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--tune", action="store_true", help="measure each convolution by itself")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of tuning, at most")
    parser.add_argument("--smoke", action="store_true", help="tune for networks of 16x16 pixels")
    options = parser.parse_args()
    (tune if options.tune else compare)(options)


if __name__ == "__main__":
    main()
