"""The mid-sagittal plane of real scans that were turned and shifted: how far from where it should be.

    python benchmarks/midplane.py --scans=../shared/data/brats18 --output=benchmarks/midplane_brats18.json

Each scan is turned about the middle of its volume and shifted, by linear interpolation; the plane that was found in the
scan as it is, turned and shifted alike, is the plane that should be found. Errors are degrees between the normals, and
mm between the planes: root mean square over four places of the brain's edge, 80 mm in front and behind, 60 mm above and
below. No label is read.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lgjax.preparation import midplane
from lgjax.preparation.brain import find_brain
from lgjax.preparation.slices import Grid, to_slices
from lgjax.runtime import devices, places
from lgjax.scans import orientation, sources

GRID = Grid(96, 96, 2.0)
MOVES = (  # degrees about the axes from right to left, back to front, bottom to top, in this order; mm along them
    ((10, 10, 10), (10, 10, 10)),
    ((-10, 10, -10), (-10, 10, 0)),
    ((5, -10, 7), (5, -5, 5)),
    ((10, -6, -10), (10, 0, 0)),
)
REACH = (80.0, 60.0)  # mm, from the brain's middle to its edge: front and back, top and bottom
TUNED = (
    "the search grid, the cost of a pixel without partner (1, 2 or 3: 2 was best) and a cap of differences (none was "
    "best): on these scans and moves like these, and on the phantom's dev split; no label was read"
)


def motion_about_the_middle(shape: tuple[int, ...], affine: np.ndarray, turn, shift) -> np.ndarray:
    """Returns the motion, mm -> mm, [4, 4], that turns a volume about its middle and shifts it."""
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    motion[:3, 3] = middle + shift - motion[:3, :3] @ middle
    return motion


def resampled(data: np.ndarray, affine: np.ndarray, motion: np.ndarray, order: int = 1) -> np.ndarray:
    """Moves [X, Y, Z] on its own grid, by splines of an order."""
    back = np.linalg.inv(affine) @ np.linalg.inv(motion) @ affine
    return ndimage.affine_transform(data.astype(np.float32), back[:3, :3], back[:3, 3], order=order)


def moved(scan: np.ndarray, brain: np.ndarray, affine: np.ndarray, turn, shift):
    """Turns and shifts a scan and its mask, and returns both and the motion, mm -> mm, [4, 4]."""
    motion = motion_about_the_middle(scan.shape, affine, turn, shift)
    values, inside = (resampled(part, affine, motion) for part in (scan * brain, brain))
    return values, inside > 0.5, motion


def found(scan: np.ndarray, brain: np.ndarray, affine: np.ndarray):
    """Returns the plane, its normal and offset in the scanner's mm, the brain's middle there, and the seconds."""
    slices, placement = to_slices(scan, brain, affine, GRID)
    start = time.process_time()
    plane = midplane.find(slices, placement, orientation.zooms(affine))
    seconds = time.process_time() - start
    normal, offset = midplane.in_scanner(plane, slices, placement, affine)
    middle = affine[:3, :3] @ np.argwhere(brain).mean(axis=0) + affine[:3, 3]
    return plane, np.array(normal), offset, middle, seconds


def told(plane, seconds: float) -> dict[str, float]:
    """Returns what stands in the record of every fit."""
    return {
        "uncertainty_mm": round(plane.uncertainty, 2),
        "score": round(plane.score, 3),
        "cpu_seconds": round(seconds, 2),
    }


def error(one, other) -> tuple[float, float]:
    """Returns degrees and mm between two planes (normal, offset, middle of the brain)."""
    normal, offset, middle = one
    ahead = np.cross(normal, [0, 0, 1])
    ahead /= np.linalg.norm(ahead)
    axes = ahead, np.cross(normal, ahead)
    foot = middle - (normal @ middle - offset) * normal
    edge = [foot + side * reach * axis for axis, reach in zip(axes, REACH, strict=True) for side in (1, -1)]
    distances = [other[0] @ place - other[1] for place in edge]
    angle = np.rad2deg(np.arccos(min(abs(normal @ other[0]), 1.0)))
    return float(angle), float(np.sqrt(np.mean(np.square(distances))))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", required=True)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    rows, errors = [], []
    for subject in sources.find(arguments.scans, any_sequence=True):
        image = subject.image()
        brain = find_brain(image, subject.mask() if subject.mask else None).mask
        plane, normal, offset, _, seconds = found(image.data, brain, image.affine)
        slopes = np.rad2deg(np.arctan(normal[1:] / normal[0]))
        upright = {"yaw_degrees": round(float(slopes[0]), 2), "roll_degrees": round(float(slopes[1]), 2)}
        row = {"subject": subject.identifier, "upright": {**upright, **told(plane, seconds)}, "moved": []}
        for turn, shift in MOVES:
            values, inside, motion = moved(image.data, brain, image.affine, turn, shift)
            again, other, place, middle, seconds = found(values, inside, image.affine)
            wanted = motion[:3, :3] @ normal
            degrees, mm = error((wanted, offset + wanted @ motion[:3, 3], middle), (other, place))
            errors.append((degrees, mm))
            found_at = {"degrees": round(degrees, 2), "mm": round(mm, 2), **told(again, seconds)}
            row["moved"].append({"turn": turn, "shift": shift, **found_at})
        rows.append(row)
        print(json.dumps(row), flush=True)
    statistics = {"median": np.median, "most": np.max}
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "tuned": TUNED,
        "errors": {
            name: dict(zip(("degrees", "mm"), np.round(of(errors, axis=0), 2).tolist(), strict=True))
            for name, of in statistics.items()
        },
        "subjects": rows,
    }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=2) + "\n")
    print(record["errors"])


if __name__ == "__main__":
    main()
