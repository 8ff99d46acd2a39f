"""Measures how fast methods restore and models train on this machine, and how fast it could be.

    python -m lgjax.bench --config=configs/bench.py          # the paper's networks, 64 slices of 128x128
    python -m lgjax.bench --config=configs/bench.py:smoke    # half the resolution, minutes on two CPU cores

Prints tables and writes all samples to --output. What is measured so far is written after every turn of every method
and model, into NAME.incomplete.json beside --output until all is measured: whatever ends the command, that stays. What
fails is told and left out, and the exit code is then 3. Nothing is read: weights are random and slices synthetic, since
every iteration does the same work whatever they hold.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("bench")  # before the imports below, which take seconds

from absl import flags

from lgjax.cli import app, opening
from lgjax.runtime import files
from lgjax.speed import contestants, record
from lgjax.speed.tables import markdown


def main(words: Sequence[str] = ()) -> int | None:
    """Runs the command line."""
    values = flags.FLAGS
    config = values.config
    settings, names = contestants.from_config(config), contestants.choose(values.method)
    mesh = app.start()
    for line in opening.faster(mesh, {"precision": config.precision}):
        app.say(line)
    output = pathlib.Path(values.output or f"benchmarks/{config.name}_{mesh.devices.flat[0].platform}.json")
    entrants = contestants.entrants(settings, names, mesh)
    app.say(f"what is measured so far, after every turn: {_incomplete(output)}")
    found = record.measure(settings, entrants, mesh, lambda found: _keep(found, output))
    if values.profile:  # which may end the process
        record.add_profiles(found, entrants)
    app.say(f"\n{markdown(found)}")
    print(f"all samples: {_keep(found, output)}")
    return 3 if found["incomplete"] else 0


def _keep(found: dict[str, Any], output: pathlib.Path) -> pathlib.Path:
    """Writes a record, to `output` where it is complete, so that no incomplete one replaces it; returns the file."""
    path = _incomplete(output) if found["incomplete"] else output
    files.atomic_write(path, json.dumps(found, indent=1) + "\n")
    if path == output:
        _incomplete(output).unlink(missing_ok=True)
    return path


def _incomplete(output: pathlib.Path) -> pathlib.Path:
    """Returns where a record lies that is not complete."""
    return output.with_suffix(".incomplete.json")


if __name__ == "__main__":
    app.run(main, words)
