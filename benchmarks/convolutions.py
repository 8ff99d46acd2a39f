"""Times restorations and a training step with Flax's convolutions and with those of lgjax.models.convolutions.

    python benchmarks/convolutions.py --output=benchmarks/convolutions_cpu.json

All are the same functions (tests/models). Seconds an iteration of a batch of 128x128 slices, the networks of
configs/vae.py with random weights, and without lgjax's own kernels; Flax's convolutions, the plain forms and those of
the device take turns, medians of the repeats. A GPU wants --longer=20: its runs are over at once.

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
from lgjax import models
from lgjax.methods import names
from lgjax.methods import runner as runners
from lgjax.models import blocks, convolutions, precision, tuned
from lgjax.runtime import devices, files, places
from lgjax.speed import times
from lgjax.speed.synthetic import brain_like, random_state
from lgjax.training import feeding, settings

RUNS = {"vae_lg_neural_tv": 10, "vae_lg_est_tv": 2, "vae_elbo_tv": 5, "training": 1}  # and iterations of each
NOT_MEASURED = "not measured"  # of a table's device: how many


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


def experiment(options):
    """The experiment whose restorations and training are timed."""
    config = tuning.configs(options.smoke)[0]
    config.restore.batch_size, config.train.batch_size = options.slices, options.slices
    config.restore.precision = config.train.precision = options.precision
    config.restore.variance_form = config.restore.decoder_form = "plain"  # XLA's convolutions, which are compared
    return config


def restoration(config, name: str, iterations: int):
    """A run of a method on a batch; call it without arguments."""
    config, slices = config.copy_and_resolve_references(), config.restore.batch_size
    config.restore.iterations = iterations
    model = models.from_config(config, config.restore.precision)
    params = models.freeze(random_state(model, settings.from_config(config)).variables)
    runner = runners.Runner(names.parse(name), runners.from_config(config), model, params, devices.mesh())
    batch = brain_like(0, slices, config.data.height, config.data.width)
    return lambda: list(runner(batch, np.ones(slices, np.float32)))


def training(config, steps: int):
    """A run of training steps on a batch; call it without arguments."""
    mesh = devices.mesh()
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    state = devices.replicate(random_state(model, values), mesh)
    found = brain_like(0, config.train.batch_size, config.data.height, config.data.width)
    batch = jax.device_put((found.y, found.mask), devices.batch_sharding(mesh))
    step = feeding.make_step(model, values, mesh).lower(state, *batch).compile()

    def run():
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, *batch)
        jax.block_until_ready(state)

    return run


def prepare(kind: str, what: str, iterations: int, config):
    """Something to time, compiled with one kind of convolutions, and run twice, since then a GPU may make graphs."""
    (convolutions.Conv, convolutions.UpsampledConv, devices.COMPILER_OPTIONS), whose = KINDS[kind]
    devices.compiler_options.cache_clear()
    with convolutions.forms(whose):
        run = training(config, iterations) if what == "training" else restoration(config, what, iterations)
        run()
        run()
    return run


def about() -> dict:
    """What a record is about."""
    return {"command": places.command(["python", *sys.argv]), "versions": devices.versions()}


def tune(options) -> None:
    """Writes the table of the forms that are fastest on the device at hand, after each convolution."""
    device = jax.devices()[0].device_kind
    table, found = tuned.read(options.output) if options.output.exists() else {}, list[tuned.Entry]()
    with precision.matmul_precision("tensorfloat32"):  # bfloat16 needs none
        wanted = [tuning.layers(config, device) for config in tuning.configs(options.smoke)]
        left = {one for layers in wanted for one in tuning.largest_first(layers) if tuning.compared(*one, device)}
        told = tuning.Tuning(device, options.slices, options.repeats, time.perf_counter() + options.seconds)
        for entry in (entry for layers in wanted for entry in tuning.tune(layers, told)):
            found.append(entry)
            left.discard((entry.use, entry.layer))
            of_device = tuned.Record({**about(), NOT_MEASURED: len(left)}, found)
            files.atomic_write(options.output, tuned.text({**table, device: of_device}))
            print(entry.use, *entry.layer, entry.form, {form: f"{s:.2g} s" for form, s in entry.seconds.items()})
    print(f"not measured, for want of time or since no form compiles: {len(left)} convolutions and gradients")


def compare(options) -> None:
    """Times whole programs by kinds of convolutions, and writes the record after each program."""
    config, seconds = experiment(options), dict[str, dict[str, list[float]]]()
    kinds = ["flax", "lgjax", "plain" if jax.default_backend() == "cpu" else "cpu"]
    for what, few in RUNS.items():
        iterations = options.longer * few
        runs = {kind: prepare(kind, what, iterations, config) for kind in kinds}
        seconds[what] = {kind: [] for kind in kinds}
        for _ in range(options.repeats):
            for kind, run in runs.items():
                seconds[what][kind].append(times.seconds(run) / iterations)
        medians = {name: {kind: float(np.median(v)) for kind, v in each.items()} for name, each in seconds.items()}
        print(what, {kind: f"{median:.3g} s" for kind, median in medians[what].items()}, flush=True)
        record = {
            "what": __doc__.splitlines()[0],
            **about(),
            "slices": options.slices,
            "precision": options.precision,
            "medians": medians,
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
    parser.add_argument("--smoke", action="store_true", help="networks of 16x16 pixels")
    parser.add_argument("--longer", type=int, default=1, help="times the iterations of a run")
    parser.add_argument("--precision", choices=precision.CHOICES, default="float32", help="of whole programs")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    options = parser.parse_args()
    devices.start(options.device)
    (tune if options.tune else compare)(options)


if __name__ == "__main__":
    main()
