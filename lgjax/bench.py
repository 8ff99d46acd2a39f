"""Measures how fast methods restore and models train on this machine, and how fast it could be.

    python -m lgjax.bench --config=configs/bench.py          # the paper's networks, 64 slices of 128x128
    python -m lgjax.bench --config=configs/bench.py:smoke    # half the resolution, minutes on two CPU cores

Prints tables and writes all samples to --output. Nothing is read: weights are random and slices synthetic, since every
iteration does the same work whatever they hold.
"""

import json
import pathlib
from collections.abc import Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("bench")  # before the imports below, which take seconds

from absl import flags

from lgjax.cli import app
from lgjax.runtime import files
from lgjax.speed.record import choose, from_config, measure
from lgjax.speed.tables import markdown


def main(words: Sequence[str] = ()) -> int | None:
    """Runs the command line."""
    values = flags.FLAGS
    config = values.config
    settings = from_config(config)
    names = choose(values.method)
    mesh = app.start()
    record = measure(settings, names, mesh, values.profile)
    app.say(f"\n{markdown(record)}")
    platform = mesh.devices.flat[0].platform
    output = pathlib.Path(values.output or f"benchmarks/{config.name}_{platform}.json")
    files.atomic_write(output, json.dumps(record, indent=1) + "\n")
    print(f"all samples: {output}")
    return 0


if __name__ == "__main__":
    app.run(main, words)
