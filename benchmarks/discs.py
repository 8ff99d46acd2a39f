"""How far a bright disc in healthy tissue is restored, by its brightness: the score must rise with the brightness.

    python benchmarks/discs.py --workdirs=runs/table1-smoke --output=benchmarks/discs_smoke_cpu.json

WORKDIRS holds the trained models vae, aae and gmvae, as launch/table1.sh leaves them. A method that is not calibrated
is calibrated first. The disc lies where the slice with most brain of a healthy subject of phantom:dev varies least; its
brightness is added to the tissue.
"""

import argparse
import json
import pathlib

import numpy as np

from lgjax.batch import calibrated
from lgjax.preparation import pipeline
from lgjax.preparation.slices import Slices
from lgjax.runtime import devices
from lgjax.scans import sources
from lgjax.workdir import experiment

MODELS = ("vae", "aae", "gmvae")
BRIGHTNESS = (2, 4, 6, 10, 100)  # standard deviations of the brain
RADIUS, MARGIN = 3, 2  # pixels: of the disc, and of the brain around it at least


def smoothest_disc(slice_: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns the disc in the brain where a slice varies least, all [H, W]; the disc is bool."""
    rows, columns = np.indices(slice_.shape)

    def around(row: int, column: int, radius: int) -> np.ndarray:
        return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2

    edge = RADIUS + MARGIN + 1  # pixels that the whole surroundings lie within the slice for
    places = np.argwhere(inside[edge:-edge, edge:-edge]) + edge
    within = [place for place in places if inside[around(*place, RADIUS + MARGIN)].all()]
    return around(*min(within, key=lambda place: slice_[around(*place, RADIUS)].std()), RADIUS)


def measure(name: str, workdir: pathlib.Path, mesh) -> dict:
    """Restores the disc with one method; returns lambda and mean |Y - X| in the disc for each brightness."""
    detector = calibrated.from_config(experiment.get_config(str(workdir / "config.json")), workdir, name, mesh)
    healthy = next(subject for subject in sources.find("phantom:dev:1") if subject.kind == "healthy")
    y, mask, _ = pipeline.prepare(healthy, detector.trained.recipe).slices
    fullest = int(mask.sum((1, 2, 3)).argmax())
    disc = smoothest_disc(y[fullest, ..., 0], mask[fullest, ..., 0] > 0)
    count = len(BRIGHTNESS)
    bright = y[fullest] + np.array(BRIGHTNESS, np.float32)[:, None, None, None] * disc[..., None]
    given = Slices(bright, np.repeat(mask[fullest : fullest + 1], count, 0), np.arange(count, dtype=np.int32))
    found = np.concatenate([x for x, _ in detector.runner(given, np.full(count, detector.strength, np.float32))])
    change = np.abs(bright - found)[:, disc].mean((1, 2))
    return {"lambda": round(detector.strength, 4), "mean_change": [round(float(value), 3) for value in change]}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdirs", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    mesh = devices.start("cpu")
    methods = {
        f"{model}_lg_neural_tv": measure(f"{model}_lg_neural_tv", arguments.workdirs / model, mesh) for model in MODELS
    }
    record = {"what": __doc__.splitlines()[0], "brightness_sd": BRIGHTNESS, **devices.versions(), "methods": methods}
    text = json.dumps(record, indent=2) + "\n"
    print(text)
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
