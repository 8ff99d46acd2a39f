"""Lesions of the synthetic brains: where they lie, what they displace, and how they look."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from lgjax.scans.phantom.lattice import Lattice

GREY = 1  # rows of the tissue fractions that lesions look at, as in anatomy.CLASSES
WHITE = (5, 6)
EDGE = 0.12  # width of a lesion's border, as a part of its radius


class Survey(NamedTuple):
    """A coarse look at one healthy brain, from which the places of lesions are chosen; N points."""

    points: np.ndarray  # [3, N] mm
    depth: np.ndarray  # [N] mm below the brain's surface
    white: np.ndarray  # [N] fraction of white matter
    grey: np.ndarray  # [N] fraction of cortex
    from_ventricles: np.ndarray  # [N] mm to the nearest ventricle seen
    native: np.ndarray  # [3, N] mm, the same points in the frame of MNI, whose middle is x = 0


class Lesion(NamedTuple):
    """One patient's disease: K ellipsoids, or a cone, with a wobbly border and one rule for their brightness."""

    kind: str
    centres: np.ndarray  # [K, 3] mm; of a cone, its tip
    radii: np.ndarray  # [K, 3] mm; of a cone, three times its length
    wobble: float  # how far the noise moves the border, as a part of the radius
    noise: np.ndarray  # [3, GX, GY, GZ] lattice coefficients: border, texture, core
    levels: np.ndarray  # [3] brightness, CSF = 1: outer part, rim, core (differ in gliomas and haemorrhages)
    core: float  # radius of the core, as a part of the whole
    displacement: np.ndarray | None  # [3, GX, GY, GZ] mm, subtracted from the sampling positions
    cone: np.ndarray | None = None  # [3, 3] rows: the axis, and two across it, over the half-width per mm of length


def plan(kind: str, rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws one patient's lesions.

    Args:
      kind: "glioma", "ms", "dark" or "isointense".
      survey: the healthy brain; lattice: where smooth fields live.
      means: [8] brightness of the subject's tissues (anatomy.CLASSES[:7], then outer CSF).
    """
    if kind == "ms":
        centres, radii = _scattered(rng, survey)
    else:
        low, high = {"glioma": (14.0, 29.0), "dark": (8.0, 17.0), "isointense": (11.0, 20.0)}[kind]
        radius = rng.uniform(low, high)
        radii = radius * rng.uniform(0.85, 1.15, (1, 3))
        above = (survey.points[2] > 4) | ((np.abs(survey.points[0]) > 28) & (survey.points[1] > -45))
        target = survey.grey if kind == "isointense" else survey.white
        fits = above & (survey.depth > 0.55 * radius) & (target > 0.45)
        fits = fits if fits.any() else survey.depth >= np.quantile(survey.depth, 0.9)
        centres = survey.points[:, rng.choice(np.flatnonzero(fits))][None]
        if kind == "glioma":  # lobes make it irregular
            lobes = int(rng.integers(1, 4))
            centres = np.concatenate([centres, centres + rng.normal(0, 0.33 * radius, (lobes, 3))])
            radii = np.concatenate([radii, radius * rng.uniform(0.45, 0.8, (lobes, 3))])
    white, grey = means[WHITE[0]], means[GREY]
    levels = {
        "glioma": np.array([rng.uniform(0.6, 0.92), rng.uniform(white, 0.85), rng.uniform(0.65, 1.1)]),
        "ms": np.full(3, grey + rng.uniform(0.08, 0.3)),
        "dark": np.full(3, white * rng.uniform(0.3, 0.75)),
        "isointense": np.full(3, np.nan),  # the surroundings decide: see blend
    }[kind]
    return Lesion(
        kind=kind,
        centres=centres,
        radii=radii,
        wobble={"glioma": 0.2, "ms": 0.12, "dark": 0.16, "isointense": 0.15}[kind],
        noise=lattice.noise(rng, 3, 8.0),
        levels=levels,
        core=rng.uniform(0.4, 0.62),
        displacement=mass_effect(rng, centres[0], radii[0], survey, lattice) if kind == "glioma" else None,
    )


def _scattered(rng: np.random.Generator, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Draws centres and radii, [K, 3] mm each, of MS lesions, most of them near the ventricles."""
    count = int(rng.integers(5, 21))
    inside = (survey.white > 0.6) & (survey.depth > 4.0)
    weight = inside * (0.02 + np.exp(-((survey.from_ventricles / 7.0) ** 2)))
    weight = weight if weight.any() else np.ones(len(weight))
    near = rng.choice(weight.size, count, p=weight / weight.sum())
    uniform = rng.choice(np.flatnonzero(weight > 0), count)
    chosen = np.where(rng.uniform(size=count) < 0.6, near, uniform)
    centres = survey.points[:, chosen].T + rng.uniform(-1.5, 1.5, (count, 3))
    radii = rng.uniform(2.2, 5.0, (count, 1)) * rng.uniform([0.9, 0.8, 0.8], [1.3, 1.0, 1.2], (count, 3))
    return centres, radii


def mass_effect(rng, centre, radii, survey: Survey, lattice: Lattice) -> np.ndarray:
    """Draws the outward push in mm around a tumour, [3, GX, GY, GZ]; zero from 2.6 radii on and at the skull."""
    offset = lattice.nodes - centre[:, None, None, None]
    distance = np.sqrt((offset**2).sum(axis=0)) + 1e-6
    ratio = distance / radii.mean()
    push = rng.uniform(0.15, 0.38) * radii.mean() * np.minimum(ratio, 1.0)
    push = push * np.clip((2.6 - ratio) / 1.6, 0.0, 1.0) ** 2
    gap, nearest = cKDTree(survey.points.T).query(lattice.nodes.reshape(3, -1).T)
    depth = (survey.depth[nearest] - gap).reshape(distance.shape)
    return offset / distance * push * np.clip(depth / 14.0, 0.0, 1.0)


def paint(lesion: Lesion, points: np.ndarray, noise: np.ndarray, tissue: np.ndarray, signal: np.ndarray):
    """Paints what the lesion covers at N sample points.

    Args:
      points: [3, N] mm. noise: [3, N] the lesion's fields there. tissue: [8, N] fractions.
      signal: [N] the healthy brightness, which an iso-intense lesion keeps until blend.

    Returns:
      The covered fraction and that fraction times the lesion's brightness, [N] float32 each.
    """
    distance = _to_ellipsoids(lesion, points) if lesion.cone is None else _to_cone(lesion, points)
    distance = distance + np.float32(lesion.wobble) * noise[0]
    if lesion.kind == "glioma":  # oedema follows white matter, the core does not care
        spread = np.clip((distance - lesion.core) / (1 - lesion.core), 0, 1)
        border = distance + np.float32(0.3) * spread * (1 - tissue[WHITE[0]] - tissue[WHITE[1]])
    else:
        border = distance
    fraction = np.clip((1 - border) / np.float32(EDGE) + np.float32(0.5), 0, 1)
    if lesion.kind == "isointense":
        return fraction, fraction * signal
    outer, rim, core = lesion.levels.astype(np.float32)
    depth = lesion.core - distance - np.float32(0.18) * noise[2]  # below the core's own border
    to_core = np.clip(depth / np.float32(EDGE), 0, 1)
    on_rim = np.clip(1 - np.abs(depth) / np.float32(EDGE), 0, 1) * np.clip(noise[1] + np.float32(0.7), 0, 1)
    value = outer + (core - outer) * to_core
    value = value + (rim - value) * on_rim
    value = value * (1 + np.float32(0.1) * noise[1] * (1 + to_core))
    return fraction, fraction * np.maximum(value, 0)


def _to_ellipsoids(lesion: Lesion, points: np.ndarray) -> np.ndarray:
    """Returns the distance of points, [3, N] mm, from the nearest centre, in radii: [N], 1 on the border."""
    distance = np.full(points.shape[1], 9.0, np.float32)
    for centre, radii in zip(lesion.centres, lesion.radii, strict=True):
        scaled = (points - centre[:, None].astype(np.float32)) / radii[:, None].astype(np.float32)
        distance = np.minimum(distance, np.sqrt((scaled * scaled).sum(axis=0)))
    return distance


def _to_cone(lesion: Lesion, points: np.ndarray) -> np.ndarray:
    """Returns the distance of points, [3, N] mm, from a cone's axis, in half-widths: [N], 1 on the border."""
    assert lesion.cone is not None
    offset = points - lesion.centres[0][:, None].astype(np.float32)
    along, *across = ((row[:, None] * offset).sum(axis=0) for row in lesion.cone.astype(np.float32))
    beside = np.sqrt(across[0] * across[0] + across[1] * across[1]) / np.maximum(along, np.float32(0.1))
    return np.minimum(np.maximum(beside, along / np.float32(lesion.radii[0, 0])), 9)


def reach(lesion: Lesion, points: np.ndarray) -> np.ndarray:
    """Marks the points of one plane, [3, N] mm, that the lesion may cover, [N] bool."""
    if not points.size:
        return np.zeros(0, bool)
    near = np.zeros(points.shape[1], bool)
    for centre, radii in zip(lesion.centres, lesion.radii, strict=True):
        if abs(points[2, 0] - centre[2]) < 1.8 * radii[2]:
            inside = np.abs(points[:2] - centre[:2, None]) < 1.8 * radii[:2, None]
            near |= inside.all(axis=0)
    return near


def blend(lesion: Lesion, signal, brain, covered, painted, spacing: float) -> np.ndarray:
    """Puts the lesion into the image.

    Args:
      signal: [X, Y, Z] brightness, already weighted with 1 - covered. brain: [X, Y, Z] bool.
      covered, painted: [X, Y, Z] thickness averages of what paint returned. spacing: pixel size, mm.

    Returns:
      The image, [X, Y, Z] float32. An iso-intense lesion takes the local mean: only structure is lost.
    """
    if lesion.kind != "isointense":
        return signal + painted
    size = (4.5 / spacing, 4.5 / spacing, 0)
    healthy = np.where(brain, signal + painted, 0)
    mean = ndimage.gaussian_filter(healthy, size) / (ndimage.gaussian_filter(brain.astype(np.float32), size) + 1e-6)
    return signal + covered * mean
