"""N4 against fields that are known: those that synthetic scans were made with.

    python benchmarks/bias_field.py --subjects=8 --output=benchmarks/bias_field_phantom.json

For each number of spline levels: the standard deviation of log(estimated / true field) in the brain over that of
log(true field) alone. Below 1, the correction helps; above, it takes anatomy for shading.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from lgjax.preparation import bias
from lgjax.preparation.bias import BiasField
from lgjax.runtime import devices, places
from lgjax.scans import orientation, phantom
from lgjax.scans.phantom import subject as maker

LEVELS = (2, 3, 4)


def scans(subjects: int):
    """Yields synthetic scans and the field that each was made with, [X, Y, Z]."""
    anatomies = phantom.load_anatomies(None)
    fields, scan = [], maker.scan_of

    def remember(subject, grid, signal, noise):
        fields.append(np.stack([grid.lattice.plane(subject.fields[5], z) for z in grid.z], axis=-1))
        return scan(subject, grid, signal, noise)

    maker.scan_of = remember
    for index in range(subjects):
        yield phantom.make_subject(anatomies, 1, index, "healthy"), fields.pop()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    rows = []
    for made, truth in scans(arguments.subjects):
        order = orientation.to_lps(made.image.affine)
        values, inside, field = (orientation.axial(part, order) for part in (made.image.data, made.brain, truth))
        expected = np.log(field[inside])
        row = {"true_sd": round(float(expected.std()), 4)}
        for levels in LEVELS:
            settings = BiasField(4.0, levels, 50, 1e-3)
            found, _ = bias.estimate(values, inside, orientation.zooms(made.image.affine), settings)
            row[f"residual_over_true_{levels}"] = round(
                float((np.log(found[inside]) - expected).std() / expected.std()), 3
            )
        rows.append(row)
        print(row, flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "median": {
            str(n): round(float(np.median([row[f"residual_over_true_{n}"] for row in rows])), 3) for n in LEVELS
        },
        "subjects": rows,
    }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=2) + "\n")
    print(record["median"])


if __name__ == "__main__":
    main()
