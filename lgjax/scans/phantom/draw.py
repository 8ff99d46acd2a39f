"""The random choices that make a subject: its shape, contrast and scanner."""

from typing import NamedTuple

import numpy as np

from lgjax.scans.phantom.anatomy import Anatomy
from lgjax.scans.phantom.lattice import Lattice


class Drawn(NamedTuple):
    """All random choices of one healthy subject except the noise."""

    position: np.ndarray  # [3, GX, GY, GZ] anatomy voxel coordinates at the lattice nodes
    turn: np.ndarray  # [3, 3] mm in the image -> anatomy voxels, without the deformation
    fields: np.ndarray  # [6, GX, GY, GZ] see _fields
    means: np.ndarray  # [8] brightness of ventricle .. deep white, then outer CSF; ventricle = 1
    rim: float  # brightness of what the skull stripping left at the surface
    rim_depth: float  # mm
    strip: float  # mm of outer CSF that skull stripping kept
    blur: float  # standard deviation in mm
    noise: float
    scale: float  # scanner units for brightness 1


class Pose(NamedTuple):
    """How a head lies in the scanner beside what every head's own draw says."""

    turn: np.ndarray  # [3, 3] rotation about the middle of the head
    shift: np.ndarray  # [3] mm


UPRIGHT = Pose(np.eye(3), np.zeros(3))


def tilt(rng: np.random.Generator) -> Pose:
    """Draws a pose turned by up to 10 degrees in each plane and shifted by up to 10 mm.

    The field of view stays: a large head that is turned or shifted far loses a few voxels at its edge, as in a scanner.
    """
    shift = rng.uniform(-10.0, 10.0, 3)
    return Pose(
        _rotation(np.deg2rad(rng.uniform(-10.0, 10.0, 3))), shift * 10 / max(10.0, float(np.linalg.norm(shift)))
    )


def foreign(rng: np.random.Generator) -> float:
    """Draws an exponent of brightness that takes every contrast out of what `draw` draws: flatter, or steeper.

    White matter, .22 to .42 of the ventricles' brightness, comes to lie above .46 or below .2.
    """
    return float(rng.choice([rng.uniform(0.4, 0.5), rng.uniform(1.9, 2.3)]))


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Returns the rotation about x, y and z by three angles, [3, 3]."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    turn = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return turn @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])


def _column(vector) -> np.ndarray:
    """Lays a vector [3] out for lattice arrays, [3, 1, 1, 1]."""
    return np.asarray(vector, float).reshape(3, 1, 1, 1)


def _place(rng: np.random.Generator, anatomy: Anatomy, lattice: Lattice, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Draws a shape: the anatomy voxel at each lattice node, and that map's linear part."""
    turn = _rotation(np.deg2rad(rng.normal(0, 3.0, 3)).clip(-0.12, 0.12))
    zoom = rng.uniform(0.96, 1.09) * rng.uniform(0.96, 1.04, 3)  # above 1: a smaller brain
    turn = turn * (zoom * [rng.choice([-1, 1]), 1, 1]) @ pose.turn
    pivot = np.array([0.0, -17.0, 20.0])
    rise = anatomy.top - pivot[2] - zoom[2] * (rng.uniform(62.0, 68.0) - pivot[2])  # the vertex ends above the slices
    shift = np.array([*rng.normal(0, [2.0, 3.0]), rise]) + pivot
    place = np.tensordot(turn, lattice.nodes - _column(pivot + pose.shift), 1) + _column(shift)
    place += rng.uniform(1.5, 3.0) * lattice.noise(rng, 3, 28.0) + rng.uniform(0.8, 1.8) * lattice.noise(rng, 3, 10.0)
    offset = (place - _column([0, -10, 14])) / _column([24, 38, 20])  # ventricles, wider or narrower
    place -= rng.uniform(-0.15, 0.45) * np.exp(-(offset**2).sum(axis=0)) * offset * 14.0
    inverse = np.linalg.inv(anatomy.affine)
    position = np.tensordot(inverse[:3, :3], place, 1) + _column(inverse[:3, 3])
    return position, inverse[:3, :3] @ turn


def _fields(rng: np.random.Generator, lattice: Lattice) -> np.ndarray:
    """Draws the smooth fields of a subject, [6, GX, GY, GZ] lattice coefficients."""
    fields = lattice.noise(rng, 6, 9.0)
    fields[0] = np.exp(rng.normal(0.0, 0.5) + rng.uniform(0.2, 0.6) * fields[0])  # outer CSF against tissue
    fields[1] = np.exp(rng.normal(0.0, 0.25) + rng.uniform(0.1, 0.4) * fields[1])  # white against grey matter
    fields[2] = 1 + rng.uniform(0.02, 0.07) * fields[2]  # brightness of tissue
    fields[3] = 1 + rng.uniform(0.05, 0.2) * fields[3]  # brightness of outer CSF
    fields[4] = rng.uniform(0.3, 1.2) * fields[4]  # mm, skull stripping
    fields[5] = np.exp(rng.uniform(0.02, 0.12) * lattice.noise(rng, 1, 45.0)[0])  # bias
    return fields


def _contrast(rng: np.random.Generator) -> np.ndarray:
    """Draws the brightness of CLASSES[:7] and of outer CSF, [8]; ventricles are 1."""
    white = rng.uniform(0.22, 0.42)
    cortex = white + rng.uniform(0.05, 0.17)
    return np.array(
        [
            1.0,
            cortex,
            white + rng.uniform(0.25, 0.85) * (cortex - white),
            white + rng.uniform(0.2, 0.7) * (cortex - white),
            white - rng.uniform(-0.03, 0.07),
            white,
            white + rng.uniform(-0.02, 0.06),
            rng.uniform(0.6, 1.0),
        ]
    )


def draw(rng: np.random.Generator, anatomy: Anatomy, lattice: Lattice, pose: Pose = UPRIGHT) -> Drawn:
    """Draws a subject's shape, contrast and scanner; the pose changes no draw."""
    position, turn = _place(rng, anatomy, lattice, pose)
    return Drawn(
        position=position,
        turn=turn,
        fields=_fields(rng, lattice),
        means=_contrast(rng),
        rim=rng.uniform(0.0, 0.45),
        rim_depth=rng.uniform(0.7, 4.0),
        strip=rng.uniform(-1.0, 2.0),
        blur=rng.uniform(0.1, 0.9),
        noise=rng.uniform(0.004, 0.02),
        scale=float(np.exp(rng.uniform(np.log(300), np.log(2200)))),
    )
