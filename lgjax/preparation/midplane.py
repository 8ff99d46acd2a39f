"""The mid-sagittal plane of a brain, and the brain's mirror image at that plane.

Places are in mm of the slice grid: x across columns, to the patient's left; y along rows, to the back; z up. Their
origin is the mean place of the brain's pixels (`Slices.mask`), so that a brain alone decides, not where it lies.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import optimize

from lgjax.preparation.slices import Placement, Slices, pixel_affine
from lgjax.preparation.stack import Stack, coarse, stacked
from lgjax.scans import orientation

WINDOW = (-2.0, 1.5)  # z-scores: what lies beyond has no more say, a bright lesion above all
VARIANCE = 0.5  # sd^2, of the difference between healthy sides: turns an added variance into a factor
_RADIUS = 50.0  # mm: turns are counted in mm at this distance from the origin
_COARSE, _FINE = 8.0, 4.0  # mm: block sizes of the search and of the fit
_TURNS = (-14.0, -7.0, 0.0, 7.0, 14.0)  # mm at _RADIUS, about -16, -8, 0, 8 and 16 degrees
_SHIFTS = (-6.0, 0.0, 6.0)  # mm
_STARTS = 6  # best places of the search that are refined
_ALONE = 2.0  # differences of unrelated pixels: the cost of a pixel whose mirror image lies outside the brain
_MIN_SEEN = 0.3  # of the brain, whose mirror image lies within the volume; a plane that sees less is no fit
_MIN_LAYERS = 3  # blocks in z that a tilt can be seen in
_USUAL = 10.0  # mm: no shift or turn (11 degrees) of a head up to here is held against a plane
_RARE = 0.001  # 1 / mm^2, of what goes beyond, squared, in differences of unrelated pixels
_STEP = 1.5  # mm, of the differences that give the curvature
_CELL = 25.0  # mm: within such a cube, residuals are taken for dependent
_KNEE, _POWER = 0.16, 8  # of a plane's score; see `doubt`


class Plane(NamedTuple):
    """The points p with normal . p = offset."""

    normal: tuple[float, float, float]  # unit vector, x component > 0
    offset: float  # mm
    uncertainty: float  # mm, one standard deviation of the plane's place at the brain's edge
    score: float  # 1 - mean difference of the sides / that of unrelated pixels, see `find`; 1: equal sides


class Mirror(NamedTuple):
    """The slices' mirror image, on the slices' own pixels."""

    mirrored: np.ndarray  # [N, H, W, 1] float32, y reflected at the plane, trilinear; 0 where unseen
    spread: np.ndarray  # [N, H, W, 1] float32 >= 1, factor on the variance V_m of y - mirrored; inf where unseen


def find(slices: Slices, placement: Placement, zooms: tuple[float, float, float]) -> Plane:
    """Finds the plane at which a brain is most like its own mirror image.

    The fit minimises the mean of |c(p) - c(mp)| over the brain's pixels p, where c is y clipped to `WINDOW`, averaged
    in blocks of 4 mm, and m the reflection. A pixel whose mirror image lies outside the brain costs twice the mean
    difference of unrelated pixels; a pixel whose mirror image lies outside the volume is not counted. So a lesion, mass
    effect or a cut has a bounded say. Shifts and turns beyond 10 mm and 11 degrees cost more, the further the more.
    Where blocks lie in fewer than three layers, the plane stays upright. The score is 1 - cost / the mean difference of
    unrelated pixels (Gini's).

    Args:
      slices: z-scored, in any range.
      placement: of the slices.
      zooms: mm, of the axial view: between slices, rows and columns (`orientation.zooms`).

    Returns:
      The plane. Its uncertainty is the sandwich estimate H^-1 G H^-1 of an M-estimator (Huber 1967), whose G sums the
      gradients of cubes of 25 mm, since neighbours do not err alone; it is the root mean square over the four points
      at the front, back, top and bottom of the brain.
    """
    clipped = slices._replace(y=np.clip(slices.y, *WINDOW))
    whole = stacked(clipped, placement, zooms)
    search = _Fit(coarse(whole, _COARSE))
    fit = _Fit(coarse(whole, _FINE))
    places = [np.array(place) for place in itertools.product(_SHIFTS, *fit.choices(_TURNS))]
    starts = sorted(places, key=search.objective)[:_STARTS]
    best = min((_descend(search, start, 4.0) for start in starts), key=search.objective)
    best = _descend(fit, best, 1.0)
    (x, y, z), offset = _plane(best)
    return Plane((float(x), float(y), float(z)), offset, fit.uncertainty(best), 1 - fit.cost(best) / fit.unrelated)


def mirror(slices: Slices, placement: Placement, zooms: tuple[float, float, float], plane: Plane) -> Mirror:
    """Reflects slices at a plane, in mm, by trilinear interpolation of what lies in the brain.

    With s the slope of the mirror image across the plane, in sd / mm, and u the plane's uncertainty, the variance of
    y - mirrored grows by (2 u s)^2, and all of it by `doubt`: spread = doubt * (1 + (2 u s)^2 / VARIANCE). Both are
    unseen outside the brain, and where the reflected place lies outside the brain or the volume.

    Args:
      slices: z-scored.
      placement: of the slices.
      zooms: mm, of the axial view: between slices, rows and columns.
      plane: from `find`.
    """
    whole = stacked(slices, placement, zooms)
    mirrored, spread = np.zeros(slices.y.shape, np.float32), np.full(slices.y.shape, np.inf, np.float32)
    normal = np.array(plane.normal)
    for k in range(len(slices.number)):  # a slice at a time: big volumes are not copied
        inside = slices.mask[k] > 0
        points = _reflect(whole.points(k)[:, inside.ravel()], normal, plane.offset)
        value, weight, seen = whole.sample(points)
        ahead, behind = (whole.sample(points + side * normal[:, None])[0] for side in (0.5, -0.5))  # 1 mm apart
        known = seen & (weight >= 0.5 - 1e-9)
        added = (2 * plane.uncertainty * (ahead - behind)) ** 2
        mirrored[k][inside] = np.where(known, value, 0)
        spread[k][inside] = np.where(known, doubt(plane.score) * (1 + added / VARIANCE), np.inf)
    return Mirror(mirrored, spread)


def in_scanner(
    plane: Plane, slices: Slices, placement: Placement, affine: np.ndarray
) -> tuple[tuple[float, float, float], float]:
    """Returns normal and offset of a plane in the scanner's mm (RAS+): its points p have normal . p = offset.

    The normal points to the patient's left.

    Args:
      plane: from `find`.
      slices: that the plane was found in.
      placement: of the slices.
      affine: [4, 4], of the scan: voxel -> mm (RAS+).
    """
    to_mm = stacked(slices, placement, orientation.zooms(affine)).affine(slices.number)
    to_scanner = orientation.slice_affine(affine, placement.brain.shape) @ pixel_affine(placement)
    back = to_mm @ np.linalg.inv(to_scanner)
    normal = np.array(plane.normal)
    turned, offset = back[:3, :3].T @ normal, plane.offset - normal @ back[:3, 3]
    length = np.linalg.norm(turned)
    x, y, z = (turned / length).tolist()
    return (x, y, z), float(offset / length)


def doubt(score: float) -> float:
    """Returns the factor >= 1 on the mirror's variance for a plane that fits badly: 1 + (.16 / score)^8, bounded.

    White noise scores .13 to .15 in a brain, whose outline is like its mirror image, and up to .19 in an ellipsoid.
    """
    return 1 + (_KNEE / max(score, 0.02)) ** _POWER


def fits(score: float) -> bool:
    """Returns whether a plane of such a score leaves its mirror image more than half its say."""
    return doubt(score) < 2


def warnings(plane: Plane | None) -> tuple[str, ...]:
    """Says that a plane does not fit, and what follows; None: no mirror was used."""
    if plane is None or fits(plane.score):
        return ()
    return (f"no mid-sagittal plane fits well (score {plane.score:.2f}), so the mirror image has little say",)


def _plane(place: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the plane x = shift - (yaw y + roll z) / _RADIUS as normal and offset, from shift, yaw[, roll] in mm."""
    slopes = np.zeros(2)
    slopes[: len(place) - 1] = place[1:] / _RADIUS
    normal = np.array([1.0, *slopes])
    length = np.sqrt((normal**2).sum())
    return normal / length, float(place[0] / length)


def _reflect(points: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """Reflects points, [3, K] mm."""
    distance = (normal[:, None] * points).sum(axis=0) - offset
    return points - 2 * distance * normal[:, None]


def _descend(fit: "_Fit", place: np.ndarray, size: float) -> np.ndarray:
    """Minimises a cost from a place, by Nelder and Mead's simplex of a size in mm."""
    simplex = np.vstack([place, place + size * np.eye(len(place))])
    options = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 1e-6, "maxfev": 200}
    return optimize.minimize(fit.objective, place, method="Nelder-Mead", options=options).x


class _Fit:
    """The cost of a plane's place (shift, yaw, roll) on blocks."""

    def __init__(self, blocks: Stack):
        self.blocks = blocks
        inside = blocks.mask > blocks.mask.max() / 2
        self.points = np.concatenate([blocks.points(k)[:, inside[k].ravel()] for k in range(len(inside))], axis=1)
        self.values = blocks.y[inside] / blocks.mask[inside]
        self.unrelated = _gini(self.values)
        self.tilts = len(blocks.z) >= _MIN_LAYERS

    def choices(self, turns) -> list:
        """Returns the turns to try, for each turn that can be seen."""
        return [turns] * (2 if self.tilts else 1)

    def terms(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cost of each pixel and whether the pixel counts, [K]."""
        value, weight, seen = self.blocks.sample(_reflect(self.points, *_plane(place)))
        return np.where(seen, weight * np.abs(self.values - value) + (1 - weight) * _ALONE * self.unrelated, 0), seen

    def cost(self, place: np.ndarray) -> float:
        """Returns the mean cost of the pixels that count; of unrelated pixels where they are few."""
        terms, seen = self.terms(place)
        return float(terms.sum() / seen.sum()) if seen.mean() >= _MIN_SEEN else self.unrelated

    def objective(self, place: np.ndarray) -> float:
        """Returns what is minimised: the cost, and more where a head would be turned or shifted as few are."""
        beyond = np.maximum(np.abs(place) - _USUAL, 0)
        return self.cost(place) + self.unrelated * _RARE * float((beyond**2).sum())

    def uncertainty(self, place: np.ndarray) -> float:
        """Returns one standard deviation of the plane's place at the brain's edge, in mm."""
        level, size = self.cost(place), len(place)
        cells = self._cells(place)
        total = self.terms(place)[1].sum()

        def sums(move: np.ndarray) -> np.ndarray:
            terms, seen = self.terms(place + _STEP * move)
            return np.bincount(cells, terms - level * seen) / total

        axes = np.eye(size)
        gradients = np.stack([sums(axis) - sums(-axis) for axis in axes]) / (2 * _STEP)
        hessian = np.array([[_bend(sums, one, other) for one in axes] for other in axes]) / (4 * _STEP**2)
        curves, turns = np.linalg.eigh(hessian)
        inverse = turns / np.maximum(curves, 1e-6) @ turns.T
        covariance = inverse @ (gradients @ gradients.T) @ inverse
        reach = np.abs(self.points[1:]).max(axis=1)[: size - 1] / _RADIUS
        variance = covariance[0, 0] + (reach**2 * np.diag(covariance)[1:]).sum() / 2
        return float(np.sqrt(variance))

    def _cells(self, place: np.ndarray) -> np.ndarray:
        """Numbers the cubes of the pixels, [K]; a pixel and its mirror image share one."""
        normal, offset = _plane(place)
        away = np.abs((normal[:, None] * self.points).sum(axis=0) - offset)
        cubes = np.floor(np.stack([away, *self.points[1:]]) / _CELL)
        return np.unique(cubes, axis=1, return_inverse=True)[1].ravel()


def _bend(sums, one: np.ndarray, other: np.ndarray) -> float:
    """Returns the mixed second difference of a cost: 4 steps^2 times its second derivative."""
    return float((sums(one + other) - sums(one - other) - sums(other - one) + sums(-one - other)).sum())


def _gini(values: np.ndarray) -> float:
    """Returns the mean |a - b| of independent draws of the values, by their order."""
    rank = 2 * np.arange(1, len(values) + 1) - len(values) - 1
    return max(float(2 * (rank * np.sort(values)).mean() / len(values)), float(np.finfo(np.float32).tiny))
