"""How likely white matter, grey matter and CSF are at each pixel of a scan: tissue maps of MNI152, laid over its brain.

Van Leemput et al. (2001) take the tissue priors of SPM, registered affinely. Here the maps are those that the phantom
is made of, blurred; an affine map lays the scan's brain mask on theirs.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage, optimize

from lgjax.preparation.slices import Placement
from lgjax.scans import orientation
from lgjax.scans.phantom import anatomy

FWHM = 8.0  # mm, of the blur: about what an affine map leaves between two brains
STEP = 2  # mm between the voxels of the atlas
PEOPLE = 152  # whose average the atlas is
REACH = 8.0  # mm from the brain's surface within which registration looks
COARSE = 5.0  # mm between the points that are registered


class Atlas(NamedTuple):
    """Tissue maps and a brain on one grid of STEP mm: x to the right, y to the front, z up."""

    white: np.ndarray  # [X, Y, Z] float32, probabilities
    grey: np.ndarray  # [X, Y, Z] float32
    depth: np.ndarray  # [X, Y, Z] float32, mm below the brain's surface, at most REACH either way


@functools.lru_cache(maxsize=1)
def load() -> Atlas:
    """Loads the atlas from the templates that nilearn ships."""
    head = anatomy.load_anatomies(None)[0]
    thin = (slice(None, None, STEP),) * 3
    sigma = FWHM / np.sqrt(8 * np.log(2))  # in voxels of 1 mm

    def blurred(*classes: int) -> np.ndarray:
        return ndimage.gaussian_filter(sum(head.maps[c].astype(np.float32) for c in classes) / 255, sigma)[thin]

    white = blurred(anatomy.WHITE, anatomy.DEEP_WHITE)
    grey = blurred(anatomy.CORTEX, anatomy.STRIATUM, anatomy.THALAMUS, anatomy.PALLIDUM)
    depth = (head.maps[anatomy.SURFACE][thin].astype(np.float32) - 128) / anatomy.SURFACE_STEP
    return Atlas(white, grey, depth)


def tissue_priors(placement: Placement, affine: np.ndarray) -> np.ndarray:
    """Computes the probabilities of white matter, grey matter and CSF at the brain's pixels in a scan's slices.

    That order is the order of brightness in T2. No probability is below Laplace's (n + 1) / (N + 3) of N = 152 people
    of whom n = 0 had a tissue there. What lies outside the atlas's tissues is CSF.

    Args:
      placement: of the slices.
      affine: of the scan, [4, 4], voxel -> mm (RAS+).

    Returns:
      [3, n] float32, sum 1, of the n pixels inside the slices' mask, in the mask's order.
    """
    atlas, zooms = load(), orientation.zooms(affine)
    onto = register(orientation.axial(placement.brain, placement.orientation), zooms, atlas)
    centres = (placement.number, placement.rows.centres, placement.columns.centres)
    pixels = np.nonzero(placement.mask[..., 0])
    at = np.stack([part[index] for part, index in zip(centres, pixels, strict=True)])
    where = onto[:, :3] @ _millimetres(at, zooms) + onto[:, 3:]
    white, grey = (ndimage.map_coordinates(part, where, order=1) for part in (atlas.white, atlas.grey))
    found = PEOPLE * np.stack([white, grey, np.maximum(1 - white - grey, 0)]) + 1
    return (found / found.sum(axis=0)).astype(np.float32)


def register(brain: np.ndarray, zooms: tuple[float, float, float], atlas: Atlas) -> np.ndarray:
    """Finds the affine map that lays a brain's surface on the atlas's, by least squares of the depths below both.

    Only what the scan shows is compared, so that a scan may end anywhere.

    Args:
      brain: axial view, [S, H, W] bool.
      zooms: mm between slices, rows and columns.
      atlas: from `load`.

    Returns:
      mm of the scan, as `_millimetres` gives them -> voxels of the atlas, [3, 4].
    """
    inside, points, depth = _surface(brain, zooms)
    home = np.argwhere(atlas.depth > 0).T
    spread = np.maximum(inside.std(axis=1), COARSE)  # a single slice has none
    standard = np.diag([*1 / spread, 1.0])  # mm of the scan -> standard deviations of its brain
    standard[:3, 3] = -inside.mean(axis=1) / spread
    at = standard @ np.vstack([points, np.ones(len(depth))])  # [4, n]
    slopes = np.gradient(atlas.depth)

    def residuals(onto: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(atlas.depth, onto.reshape(3, 4) @ at, order=1, cval=-REACH) - depth

    def jacobian(onto: np.ndarray) -> np.ndarray:
        slope = [ndimage.map_coordinates(part, onto.reshape(3, 4) @ at, order=1) for part in slopes]
        return (np.stack(slope)[:, None] * at[None]).reshape(12, -1).T

    onto = np.column_stack([np.diag(home.std(axis=1)), home.mean(axis=1)])
    if len(depth) >= onto.size:
        onto = optimize.least_squares(residuals, onto.ravel(), jacobian, method="lm", max_nfev=100).x
    return onto.reshape(3, 4) @ standard


def _surface(brain: np.ndarray, zooms: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns points in a brain, [3, m], points near its surface, [3, n], both in mm, and how deep these lie, [n]."""
    steps = np.array([max(1, round(COARSE / zoom)) for zoom in zooms])
    if brain.sum() < 1000 * steps.prod():  # little of a brain: its every voxel counts
        steps = np.ones(3, int)
    coarse = brain[tuple(slice(None, None, step) for step in steps)]
    spacing = steps * zooms
    depth = ndimage.distance_transform_edt(coarse, spacing) - ndimage.distance_transform_edt(~coarse, spacing)
    near = np.abs(depth) < REACH
    inside, points = (_millimetres(np.argwhere(part).T * steps[:, None], zooms) for part in (coarse, near))
    return inside, points, depth[near]


def _millimetres(at: np.ndarray, zooms: tuple[float, float, float]) -> np.ndarray:
    """Turns slice, row and column, [3, n], into mm to the right, to the front and up, [3, n]."""
    slices, rows, columns = at * np.array(zooms)[:, None]
    return np.stack([-columns, -rows, slices])
