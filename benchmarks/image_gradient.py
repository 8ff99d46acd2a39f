"""Times the elbo prior's gradient inside a loop, with JAX's own image gradient of convolutions and with `blocks.Conv`.

    python benchmarks/image_gradient.py          # prints JSON: seconds an iteration, interleaved, medians of five

24 slices of 64x64, the networks of configs/vae.py:smoke with random weights, ten iterations in one fori_loop.
"""

import json
import pathlib
import sys
import time

import flax.linen as nn
import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import vae as experiment
from lgjax import models, priors, runtime
from lgjax.models import blocks, vae

ITERATIONS, SLICES = 10, 24


def compiled(conv):
    """The loop, compiled with one kind of convolution, and its arguments."""
    blocks.Conv = conv
    config = experiment.smoke()
    params = models.freeze(vae.initialise(config, jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (SLICES, 64, 64, 1))
    keys = jax.random.split(jax.random.key(2), SLICES)

    def run(params, x):
        gradient = jax.vmap(priors.elbo(vae.bind(config, params)))
        return jax.lax.fori_loop(0, ITERATIONS, lambda _, x: x + 1e-6 * gradient(x, keys), x)

    return jax.jit(run).lower(params, x).compile(), (params, x)


def main() -> None:
    ours = blocks.Conv
    programs = {"jax": compiled(nn.Conv), "lgjax": compiled(ours)}
    seconds = {name: [] for name in programs}
    for _ in range(6):
        for name, (program, arguments) in programs.items():
            began = time.perf_counter()
            program(*arguments).block_until_ready()
            seconds[name].append((time.perf_counter() - began) / ITERATIONS)
    samples = {name: values[1:] for name, values in seconds.items()}
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    print(json.dumps({"versions": runtime.versions(), "seconds_per_iteration": medians, "samples": samples}, indent=1))


if __name__ == "__main__":
    main()
