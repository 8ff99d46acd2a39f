"""Measures how fast methods restore and models train on this machine, and how fast it could be.

    python -m lgjax.bench --config=configs/bench.py          # the paper's networks, 64 slices of 128x128
    python -m lgjax.bench --config=configs/bench.py:smoke    # half the resolution, minutes on two CPU cores

Prints tables and writes all samples to --output. Nothing is read: weights are random and slices synthetic, since every
iteration does the same work whatever they hold.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("bench")  # before the imports below, which take seconds

from absl import flags

from lgjax.cli import app
from lgjax.runtime import files
from lgjax.speed import contestants, record
from lgjax.speed.tables import markdown


def main(words: Sequence[str] = ()) -> int | None:
    """Runs the command line."""
    values = flags.FLAGS
    config = values.config
    settings, names = contestants.from_config(config), contestants.choose(values.method)
    mesh = app.start()
    output = pathlib.Path(values.output or f"benchmarks/{config.name}_{mesh.devices.flat[0].platform}.json")
    items = contestants.compiled(settings, names, mesh)
    found = record.measure(settings, items, mesh)
    _write(found, output)
    if values.profile:  # which may end the process
        record.add_profiles(found, items)
        _write(found, output)
    app.say(f"\n{markdown(found)}")
    print(f"all samples: {output}")
    return 0


def _write(found: dict[str, Any], output: pathlib.Path) -> None:
    """Writes a record."""
    files.atomic_write(output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main, words)
