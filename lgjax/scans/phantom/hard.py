"""Harder lesions of the synthetic brains: those that a mirror, a large blob or brightness alone do not find.

A bilateral lesion has its like on the other side; a midline lesion is its own mirror image. Small lesions are those of
early multiple sclerosis. A wedge is an infarct: a sector of the brain, from the surface to the ventricle. A haemorrhage
is dark, most with a thin bright rim of oedema.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from lgjax.scans.phantom.lattice import Lattice
from lgjax.scans.phantom.lesions import GREY, WHITE, Lesion, Survey, mass_effect

MIDLINE = {  # MNI centres, mm
    "genu": (0, 26, 6),
    "body and septum": (0, 2, 22),
    "splenium": (0, -38, 12),
    "thalami": (0, -16, 6),
    "brainstem": (0, -27, -26),
}


def plan(kind: str, rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws one patient's lesions, as `lesions.plan` does.

    Args:
      kind: one of KINDS.
      survey: the healthy brain; lattice: where smooth fields live.
      means: [8] brightness of the subject's tissues (anatomy.CLASSES[:7], then outer CSF).
    """
    return _PLANS[kind](rng, survey, lattice, means)


def _bilateral(rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws white-matter lesions at mirrored places, one large pair and some small ones, each of its own shape."""
    pairs = int(rng.integers(2, 6))
    partner = _mirrored(survey)
    white = (survey.white > 0.6) & (survey.depth > 5.0) & (np.abs(survey.native[0]) > 10)
    weight = (white & white[partner]) * (0.05 + np.exp(-((survey.from_ventricles / 9.0) ** 2)))
    chosen = _chosen(rng, weight, survey, pairs)
    size = np.concatenate([rng.uniform(6.0, 12.0, 1), rng.uniform(3.0, 7.0, pairs - 1)])
    centres = survey.points[:, np.concatenate([chosen, partner[chosen]])].T + rng.uniform(-1.5, 1.5, (2 * pairs, 3))
    radii = np.tile(size, 2)[:, None] * rng.uniform([0.75, 0.95, 0.8], [1.0, 1.25, 1.1], (2 * pairs, 3))
    bright = np.full(3, means[GREY] + rng.uniform(0.1, 0.35))
    return _lesion("bilateral", rng, lattice, *_lobed(rng, centres, radii, 2), bright, wobble=0.2)


def _midline(rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws a tumour that straddles the mid-sagittal plane, of much the same extent on both sides, and its push."""
    spot = np.array(MIDLINE[rng.choice(list(MIDLINE))], float)
    radius = rng.uniform(9.0, 15.0) * (0.8 if spot[2] < 0 else 1.0)
    around = spot + radius * np.array([[0.0, 0, 0], [-0.8, 0, 0], [0.8, 0, 0]])
    around[1:] += rng.normal(0, 0.15 * radius, (2, 3))  # wings, as a butterfly has
    radii = radius * rng.uniform([1.0, 0.8, 0.8], [1.4, 1.1, 1.1], (3, 3)) * np.array([[1.0], [0.65], [0.65]])
    centres = survey.points[:, cKDTree(survey.native.T).query(around)[1]].T
    bright = np.full(3, np.minimum(means[GREY] + rng.uniform(0.12, 0.4), 0.85))  # seen in a ventricle too, as a gap
    push = mass_effect(rng, centres[0], radii[0], survey, lattice)
    return _lesion("midline", rng, lattice, centres, radii, bright, wobble=0.15, displacement=push)


def _small(rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws a few lesions of 2 to 5 mm radius anywhere in the white matter, near the cortex too."""
    count = int(rng.integers(3, 10))
    chosen = _chosen(rng, 1.0 * ((survey.white > 0.6) & (survey.depth > 3.0)), survey, count)
    radii = rng.uniform(2.0, 5.0, (count, 1)) * rng.uniform(0.85, 1.0, (count, 3))
    centres = survey.points[:, chosen].T + rng.uniform(-1.0, 1.0, (count, 3))
    bright = np.full(3, means[GREY] + rng.uniform(0.08, 0.3))
    return _lesion("small", rng, lattice, centres, radii, bright, wobble=0.12)


def _wedge(rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws an infarct: an elliptical cone from beside the ventricle through the cortex."""
    inner = np.flatnonzero((survey.white > 0.5) & (survey.from_ventricles > 2) & (survey.from_ventricles < 9))
    inner = inner if len(inner) else np.flatnonzero(survey.depth >= np.quantile(survey.depth, 0.9))
    distance, nearest = cKDTree(survey.points[:, inner].T).query(survey.points.T)
    axes = (survey.points - survey.points[:, inner[nearest]]) / np.maximum(distance, 1e-6)
    lateral = (np.abs(survey.native[0]) > 22) & (survey.native[2] > -8) & (np.abs(axes[2]) < 0.45)
    fits = lateral & (survey.depth < 5) & (survey.grey > 0.3) & (distance > 18) & (distance < 60)
    end = int(_chosen(rng, 1.0 * fits, survey, 1)[0])
    axis = axes[:, end] if distance[end] > 0 else np.array([1.0, 0, 0])
    across = np.cross(axis, [0.0, 0, 1])
    across /= np.linalg.norm(across) + 1e-6
    widths = np.tan(np.deg2rad(rng.uniform([18.0, 20.0], [32.0, 36.0])))  # half-widths per mm of length
    cone = np.stack([axis, across / widths[0], np.cross(axis, across) / widths[1]])
    length = np.full((1, 3), distance[end] + 12.0)
    apex = survey.points[:, inner[nearest[end]]][None] - 3.0 * axis
    bright = np.full(3, means[GREY] + rng.uniform(0.08, 0.28))
    return _lesion("wedge", rng, lattice, apex, length, bright, wobble=0.12, cone=cone)


def _haemorrhage(rng: np.random.Generator, survey: Survey, lattice: Lattice, means: np.ndarray) -> Lesion:
    """Draws a dark haematoma, in two of three patients within a thin bright rim."""
    radius = rng.uniform(7.0, 15.0)
    fits = (survey.depth > 0.7 * radius) & (survey.from_ventricles > 0.4 * radius) & (survey.white > 0.2)
    centres = survey.points[:, _chosen(rng, 1.0 * fits, survey, 1)].T
    dark = means[WHITE[0]] * rng.uniform(0.15, 0.5)
    rim = means[GREY] + rng.uniform(0.15, 0.45) if rng.uniform() < 2 / 3 else dark
    radii = radius * rng.uniform(0.8, 1.2, (1, 3))
    levels = np.array([rim, dark, dark])
    return _lesion("haemorrhage", rng, lattice, centres, radii, levels, wobble=0.15, core=rng.uniform(0.76, 0.86))


_PLANS: dict[str, Callable[[np.random.Generator, Survey, Lattice, np.ndarray], Lesion]] = {
    "bilateral": _bilateral,
    "midline": _midline,
    "small": _small,
    "wedge": _wedge,
    "haemorrhage": _haemorrhage,
}
KINDS = tuple(_PLANS)


def _lesion(
    kind: str, rng, lattice: Lattice, centres, radii, levels, *, wobble, core=0.5, displacement=None, cone=None
) -> Lesion:
    return Lesion(kind, centres, radii, wobble, lattice.noise(rng, 3, 8.0), levels, core, displacement, cone)


def _lobed(
    rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray, lobes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Adds smaller ellipsoids at the border of each, centres and radii [K, 3] mm: [K * (1 + lobes), 3] each."""
    for centre, radius in zip(centres.copy(), radii.copy(), strict=True):
        centres = np.concatenate([centres, centre + radius * rng.normal(0, 0.5, (lobes, 3))])
        radii = np.concatenate([radii, radius * rng.uniform(0.45, 0.8, (lobes, 3))])
    return centres, radii


def _mirrored(survey: Survey) -> np.ndarray:
    """Finds for each of N points the point nearest to the mirrored place, on the head's other side, [N] indices."""
    return cKDTree(survey.native.T).query(survey.native.T * [-1, 1, 1])[1]


def _chosen(rng: np.random.Generator, weight: np.ndarray, survey: Survey, count: int) -> np.ndarray:
    """Draws points, [count] indices, by weight [N]; deep ones where a head has none that fits."""
    weight = weight if weight.any() else 1.0 * (survey.depth >= np.quantile(survey.depth, 0.9))
    return rng.choice(weight.size, count, p=weight / weight.sum())
