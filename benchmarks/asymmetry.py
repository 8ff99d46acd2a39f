"""How different left and right are, in the label maps of real people and in healthy synthetic brains.

    python benchmarks/asymmetry.py --labels=FOLDER --output=benchmarks/asymmetry.json

People are FreeSurfer-style label maps as they lie, without a deformation; synthetic brains come from the MNI152 maps
and from the same label maps. Every head is sampled at 2 mm, given one fixed T2 contrast without noise or bias, z-scored
and clipped to (-2, 1.5), and reflected at its own best plane: the yaw, roll and offset with the smallest mean |X - mX|.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage, optimize

from lgjax.runtime import devices, files, places
from lgjax.scans import phantom
from lgjax.scans.phantom import anatomy as heads
from lgjax.scans.phantom import render, subject
from lgjax.scans.phantom.anatomy import Anatomy
from lgjax.scans.phantom.draw import draw

GRID = render.make_grid(1, 2.0, 2.0, 0.0)
TISSUES = {  # rows of the maps, brightness in the middle of what the phantom draws, ventricle = 1
    "ventricle": ((heads.VENTRICLE,), 1.0),
    "cortex": ((heads.CORTEX,), 0.43),
    "deep grey matter": ((heads.STRIATUM, heads.THALAMUS, heads.PALLIDUM), 0.38),
    "white matter": ((heads.WHITE, heads.DEEP_WHITE), 0.32),
    "outer CSF": ((), 0.8),
}
OUTSIDE = len(TISSUES)  # a class of its own: a voxel whose mirror image lies outside the brain differs
CLIP = (-2.0, 1.5)  # standard deviations
LARGE = 4.0  # mm, standard deviation of the Gaussian that keeps differences of a lesion's size
SEED = 1


class Head(NamedTuple):
    """One head on GRID."""

    brain: np.ndarray  # [X, Y, Z] bool
    tissue: np.ndarray  # [X, Y, Z] int8, place in TISSUES; OUTSIDE elsewhere
    image: np.ndarray  # [X, Y, Z] clipped z-scores; the lower bound outside


def sampled(anatomy: Anatomy, voxels: np.ndarray) -> Head:
    """Samples a head at the places voxels, [3, X, Y, Z]."""
    size = np.array(anatomy.maps.shape[1:]).reshape(3, 1, 1, 1)
    known = ((voxels >= 0) & (voxels <= size - 1)).all(axis=0)
    maps = render._fractions(anatomy, voxels.reshape(3, -1).astype(np.float32)).reshape(8, *known.shape)
    brain = known & (maps[heads.SURFACE] >= 128)
    fractions = np.stack([maps[list(rows)].sum(axis=0) for rows, _ in TISSUES.values()]) / 255
    fractions[-1] = np.maximum(1 - fractions.sum(axis=0), 0)
    tissue = np.where(brain, fractions.argmax(axis=0), OUTSIDE).astype(np.int8)
    image = np.tensordot([brightness for _, brightness in TISSUES.values()], fractions, 1)
    image = (image - image[brain].mean()) / image[brain].std()
    return Head(brain, tissue, np.where(brain, np.clip(image, *CLIP), CLIP[0]))


def person(anatomy: Anatomy) -> Head:
    """Samples a head as it lies, turned rigidly to MNI."""
    world = np.array(np.meshgrid(GRID.x, GRID.y, GRID.z, indexing="ij"))
    inverse = np.linalg.inv(anatomy.affine)
    return sampled(anatomy, np.tensordot(inverse[:3, :3], world, 1) + inverse[:3, 3].reshape(3, 1, 1, 1))


def synthetic(anatomies: list[Anatomy], index: int) -> Head:
    """Samples the healthy synthetic brain of one index."""
    shape = subject.stream(SEED, index, 0)
    anatomy = anatomies[int(shape.integers(len(anatomies)))]
    position = draw(shape, anatomy, GRID.lattice).position
    return sampled(anatomy, np.stack([GRID.lattice.plane(position, z) for z in GRID.z], axis=-1))


def reflected(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Reflects points, [3, N] mm, at the plane of yaw and roll, radians, and offset, mm."""
    yaw, roll, offset = plane
    normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
    return points - 2 * np.outer(normal, normal @ points - offset)


def points_of(brain: np.ndarray) -> np.ndarray:
    """Lists the places of the brain's voxels, [3, N] mm."""
    at = np.argwhere(brain)
    return np.stack([axis[at[:, i]] for i, axis in enumerate((GRID.x, GRID.y, GRID.z))])


def taken(values: np.ndarray, points: np.ndarray, order: int, outside: float) -> np.ndarray:
    """Takes values on GRID at points, [3, N] mm."""
    first = np.array([[GRID.x[0]], [GRID.y[0]], [GRID.z[0]]])
    return ndimage.map_coordinates(values, (points - first) / 2.0, order=order, mode="constant", cval=outside)


def best_plane(head: Head) -> np.ndarray:
    """Finds the plane with the smallest mean |X - mX| over every eighth voxel of the brain."""
    points = points_of(head.brain)[:, ::8]
    here = taken(head.image, points, 1, CLIP[0])

    def cost(plane: np.ndarray) -> float:
        return float(np.abs(here - taken(head.image, reflected(points, plane), 1, CLIP[0])).mean())

    start = np.array([0.0, 0.0, points[0].mean()])
    corners = np.vstack([start, start + np.diag([0.08, 0.08, 4.0])])
    found = optimize.minimize(cost, start, method="Nelder-Mead", options={"initial_simplex": corners, "xatol": 1e-3})
    return found.x


def asymmetry(head: Head) -> dict[str, float]:
    """Measures how different the sides of a head are, over its brain."""
    points, plane = points_of(head.brain), best_plane(head)
    mirrored = reflected(points, plane)
    other = taken(head.tissue, mirrored, 0, OUTSIDE)
    change = np.zeros(head.brain.shape)
    change[head.brain] = head.image[head.brain] - taken(head.image, mirrored, 1, CLIP[0])
    size = LARGE / 2.0
    share = ndimage.gaussian_filter(head.brain.astype(float), size)
    large = (ndimage.gaussian_filter(change, size) / np.maximum(share, 1e-6))[head.brain]
    return {
        "tissue_differs": round(float((other != head.tissue[head.brain]).mean()), 4),
        "tissue_differs_inside": round(float((other != head.tissue[head.brain])[other != OUTSIDE].mean()), 4),
        "mean_difference_sd": round(float(np.abs(change[head.brain]).mean()), 4),
        "mean_square_difference_sd2": round(float((change[head.brain] ** 2).mean()), 4),
        "mean_large_difference_sd": round(float(np.abs(large).mean()), 4),
        "yaw_degrees": round(abs(float(np.degrees(plane[0]))), 2),
        "roll_degrees": round(abs(float(np.degrees(plane[1]))), 2),
    }


def groups(labels: str, subjects: int) -> Iterator[tuple[str, list[Head]]]:
    """Makes the groups of heads, one after another."""
    people = [one for split in ("train", "calibration", "test") for one in phantom.load_anatomies(labels, split)]
    yield f"{len(people)} people", [person(one) for one in people]
    yield "MNI152 template", [person(one) for one in phantom.load_anatomies(None)]
    yield "phantom from MNI152", [synthetic(phantom.load_anatomies(None), index) for index in range(subjects)]
    yield "phantom from the people", [synthetic(people, index) for index in range(subjects)]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, help="a folder of FreeSurfer-style label maps")
    parser.add_argument("--subjects", type=int, default=16, help="synthetic brains of each kind")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "phantom": phantom.digest(phantom.Request(None, "train", SEED, 0, "healthy")),
        "mean": {},
        "sd_between_heads": {},
        "heads": {},
    }
    for name, made in groups(arguments.labels, arguments.subjects):
        rows = [asymmetry(head) for head in made]
        record["heads"][name] = rows
        for statistic, function in (("mean", np.mean), ("sd_between_heads", np.std)):
            record[statistic][name] = {key: round(float(function([row[key] for row in rows])), 4) for key in rows[0]}
        print(name, record["mean"][name], flush=True)
    files.atomic_write(pathlib.Path(arguments.output), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
