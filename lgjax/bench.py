"""Measures how fast methods restore and models train on this machine, and how fast it could be.

    python -m lgjax.bench --config=configs/bench.py          # the paper's networks, 64 slices of 128x128
    python -m lgjax.bench --config=configs/bench.py:smoke    # half the resolution, minutes on two CPU cores

Prints tables and writes all samples to --output. Nothing is read: weights are random and slices synthetic, since every
iteration does the same work whatever they hold.
"""

import json
import pathlib

from absl import flags

from lgjax.cli import app
from lgjax.cli.configs import define_config
from lgjax.runtime import files
from lgjax.speed.record import choose, from_config, markdown, measure


def define_flags() -> None:
    """Defines the command line."""
    define_config("bench", "Which networks, how often: FILE[:variant], or a name: bench[:variant].")
    flags.DEFINE_list("method", None, "Methods to time; default: those of the paper's Table 1 that iterate.")
    flags.DEFINE_string("output", None, "JSON file; default: benchmarks/<config name>_<platform>.json.")


def main(_) -> int | None:
    """Runs the command line."""
    values = flags.FLAGS
    config = values.config
    settings = from_config(config)
    names = choose(values.method)
    mesh = app.start()
    record = measure(settings, names, mesh)
    print(f"\n{markdown(record)}", flush=True)
    platform = mesh.devices.flat[0].platform
    output = pathlib.Path(values.output or f"benchmarks/{config.name}_{platform}.json")
    files.atomic_write(output, json.dumps(record, indent=1) + "\n")
    print(f"all samples: {output}")
    return 0


if __name__ == "__main__":
    app.run(main, define_flags)
