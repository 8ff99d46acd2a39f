"""Times restorations with the upsampling convolutions of the decoder as written and as `blocks.UpsampledConv`.

    python benchmarks/upsampled_conv.py --slices=16 --output=benchmarks/upsampled_conv_cpu.json

Seconds an iteration of a batch of 128x128 slices, the networks of configs/vae.py with random weights, four iterations
in one fori_loop; interleaved, medians of seven.
"""

import argparse
import functools
import json
import pathlib
import sys
import time

import flax.linen as nn
import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import vae as experiment
from lgjax import methods, models, runtime
from lgjax.models import blocks, vae

ITERATIONS, REPEATS = 4, 7
METHODS = ("vae_lg_neural_tv", "vae_elbo_tv", "vae_reconstruction")


def as_written(x, kernel, *_, **__):
    """The image upsampled, then convolved at its full size."""
    return blocks._convolve(blocks.upsample(x), kernel, (1, 1), ((1, 1), (1, 1)))


KINDS = {
    "as_written": functools.partial(nn.Conv, kernel_size=(3, 3), conv_general_dilated=as_written),
    "upsampled_conv": blocks.UpsampledConv,
}


def compiled(kind: str, method: str, slices: int):
    """The restoration of a batch, compiled with one kind of convolution; call it without arguments."""
    blocks.UpsampledConv = KINDS[kind]
    config = experiment.paper()
    config.restore.iterations = ITERATIONS
    params = models.freeze(vae.initialise(config, jax.random.key(0)))
    y = np.random.default_rng(0).normal(size=(slices, 128, 128, 1)).astype(np.float32)
    arguments = params, y, np.ones_like(y), np.arange(slices, dtype=np.int32), np.ones(slices, np.float32)
    program = jax.jit(methods.restorer(methods.parse(method), config)).lower(*arguments).compile()
    return lambda: jax.block_until_ready(program(*arguments))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    samples = {}
    for method in METHODS:
        programs = {kind: compiled(kind, method, arguments.slices) for kind in KINDS}
        found = samples[method] = {kind: [] for kind in KINDS}
        for program in programs.values():
            program()
        for _ in range(REPEATS):
            for kind, program in programs.items():
                began = time.perf_counter()
                program()
                found[kind].append((time.perf_counter() - began) / (1 if "reconstruction" in method else ITERATIONS))
        print(method, {kind: round(float(np.median(values)), 4) for kind, values in found.items()}, flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "command": " ".join(["python", *sys.argv]),
        "versions": runtime.versions(),
        "slices": arguments.slices,
        "medians": {m: {kind: float(np.median(v)) for kind, v in kinds.items()} for m, kinds in samples.items()},
        "samples": samples,
    }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
