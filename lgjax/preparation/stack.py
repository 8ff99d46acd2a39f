"""Values at the slices' pixels as a function of the place in mm: trilinear, slices may be unevenly apart."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lgjax.preparation.slices import Placement, Slices
from lgjax.scans import orientation

_JOINED = 2.0  # times the usual distance: slices further apart do not tell what lies between them


class Stack(NamedTuple):
    """Slices in order from inferior to superior, with the places of their pixels in mm."""

    y: np.ndarray  # [N, H, W] float32, value times mask
    mask: np.ndarray  # [N, H, W] float32, 0 to 1: the share of brain
    z: np.ndarray  # [N] mm, of the slices, increasing
    rows: np.ndarray  # [H] mm
    columns: np.ndarray  # [W] mm
    distance: float  # mm, the usual one between slices
    extent: tuple[float, float]  # mm, lower and upper end of the volume

    def points(self, k: int) -> np.ndarray:
        """Returns the places (x, y, z) of the pixels of a slice, [3, H * W] mm."""
        shape = len(self.rows), len(self.columns)
        parts = self.columns[None], self.rows[:, None], self.z[k]
        return np.stack([np.broadcast_to(part, shape).ravel() for part in parts])

    def affine(self, number: np.ndarray) -> np.ndarray:
        """Returns the affine, [4, 4]: (column, row, slice number) -> mm; `number`, [N], is that of the slices."""
        height = (self.z[-1] - self.z[0]) / (number[-1] - number[0]) if len(number) > 1 else self.distance
        result = np.diag([self.columns[1] - self.columns[0], self.rows[1] - self.rows[0], height, 1.0])
        result[:3, 3] = self.columns[0], self.rows[0], self.z[0] - number[0] * height
        return result

    def sample(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Interpolates at places, [3, K] mm: the brain's value (0 without brain), its share, and what is seen, [K].

        A place between the slices is seen where both are at most twice the usual distance apart, and within half that
        distance of any slice. What lies beside the pixels is background, and so is what lies in the volume below and
        above the brain.
        """
        x, y, z = points
        height, seen = self._height(z)
        places = [height, *(_place(axis, along) for axis, along in ((self.rows, y), (self.columns, x)))]
        total, weight = (
            ndimage.map_coordinates(part, places, order=1, output=np.float64, prefilter=False)
            for part in (self.y, self.mask)
        )
        weight = np.where(seen, weight, 0)
        known = weight > 1e-6
        beyond = ((z < self.z[0]) & (z >= self.extent[0])) | ((z > self.z[-1]) & (z <= self.extent[1]))
        return np.where(known, total / np.where(known, weight, 1), 0), weight, seen | beyond

    def _height(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the fractional number of the slice at heights, and whether the heights are seen."""
        number = np.interp(z, self.z, np.arange(len(self.z)))
        below = np.floor(number).astype(int)
        above = np.minimum(below + 1, len(self.z) - 1)
        low, high = self.z[below], self.z[above]
        between = (low <= z) & (z <= high) & (high - low <= _JOINED * self.distance)
        near = np.minimum(np.abs(z - low), np.abs(z - high)) <= self.distance / 2
        return number, between | near


def stacked(slices: Slices, placement: Placement, zooms: tuple[float, float, float]) -> Stack:
    """Lays slices out in mm, with the mean place of the brain's pixels as the origin.

    Args:
      slices: in increasing order of their number.
      placement: of the slices.
      zooms: mm, of the axial view: between slices, rows and columns.
    """
    mask = slices.mask[..., 0]
    sizes = zooms[0], placement.rows.step * zooms[1], placement.columns.step * zooms[2]
    steps = slices.number, np.arange(mask.shape[1]), np.arange(mask.shape[2])
    z, rows, columns = (size * step.astype(np.float64) for size, step in zip(sizes, steps, strict=True))
    counts = (mask.sum(axis=axis, dtype=np.float64) for axis in ((1, 2), (0, 2), (0, 1)))
    z, rows, columns = (
        place - (place * count).sum() / count.sum() for place, count in zip((z, rows, columns), counts, strict=True)
    )
    distance = float(np.median(np.diff(z))) if len(z) > 1 else zooms[0]
    layers = len(orientation.axial(placement.brain, placement.orientation))
    ends = z[0] - (slices.number[0] + 0.5) * zooms[0], z[-1] + (layers - slices.number[-1] - 0.5) * zooms[0]
    return Stack(slices.y[..., 0] * mask, mask, z, rows, columns, distance, (float(ends[0]), float(ends[1])))


def coarse(fine: Stack, size: float) -> Stack:
    """Averages a stack in blocks of about a size in mm, by whole pixels and slices; none is enlarged."""
    layer = np.floor((fine.z - fine.z[0]) / size + 1e-6).astype(int)
    _, first = np.unique(layer, return_index=True)
    y, mask = (np.add.reduceat(part, first, axis=0) for part in (fine.y, fine.mask))
    members = np.diff([*first, len(layer)])
    places = [fine.rows, fine.columns]
    for axis, place in enumerate(places):
        factor = max(1, min(round(size / (place[1] - place[0])), len(place) // 4))
        y, mask = (_blocks(part, factor, axis + 1) for part in (y, mask))
        start = place[0] + (factor - 1) / 2 * (place[1] - place[0])
        places[axis] = start + factor * (place[1] - place[0]) * np.arange(y.shape[axis + 1])
        members = members * factor
    z = np.add.reduceat(fine.z, first) / np.diff([*first, len(layer)])
    share = members[:, None, None].astype(np.float32)
    distance = float(np.median(np.diff(z))) if len(z) > 1 else fine.distance * len(fine.z)
    return Stack(y / share, mask / share, z, places[0], places[1], distance, fine.extent)


def _blocks(values: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """Sums neighbours along an axis, `factor` at a time; the last ones with zeros."""
    return np.add.reduceat(values, np.arange(0, values.shape[axis], factor), axis=axis)


def _place(axis: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Returns fractional indices of places along an even axis."""
    return (along - axis[0]) / (axis[1] - axis[0])
