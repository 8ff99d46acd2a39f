"""The field of view of synthetic brains, and smooth random fields over it: shape, contrast, bias, lesion borders.

    lattice = Lattice(x, y)  # the pixels of a slice
    coefficients = lattice.noise(rng, count=3, scale=10.0)
    fields = lattice.plane(coefficients, z=12.5)  # [3, NX, NY]

Coefficients lie on coarse nodes that do not depend on the pixels, so a subject is the same at any resolution.
"""

import numpy as np
from scipy import ndimage

FIELD = ((-93.0, 93.0), (-125.0, 91.0), (-52.0, 60.0))  # mm, x, y and the centres of the outer slices in z
VERTEX = 88.0  # mm, a height above every brain
NODE = 10.0  # mm between the nodes of smooth random fields


class Lattice:
    """Smooth fields over the field of view: cubic B-splines on nodes NODE mm apart, taken slice by slice."""

    def __init__(self, x: np.ndarray, y: np.ndarray, top: float = FIELD[2][1]):
        """Prepares for pixels at x [NX] and y [NY] in mm, and heights up to `top` mm, on which the draws depend."""
        self.top = top
        field = (*FIELD[:2], (FIELD[2][0], top))
        self.axes = [np.arange(low - 2 * NODE, high + 2.01 * NODE, NODE) for low, high in field]
        self.nodes = np.array(np.meshgrid(*self.axes, indexing="ij"))  # [3, GX, GY, GZ] mm
        self._x, self._y = self._basis(0, x), self._basis(1, y).T

    def _basis(self, axis: int, at: np.ndarray) -> np.ndarray:
        t = np.abs(np.asarray(at)[:, None] - self.axes[axis]) / NODE
        return np.where(t < 1, 2 / 3 - t * t + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)

    def noise(self, rng: np.random.Generator, count: int, scale: float) -> np.ndarray:
        """Draws coefficients [count, GX, GY, GZ] of fields of unit variance; scale: smoothness in mm."""
        white = rng.standard_normal((count, *self.nodes.shape[1:]))
        smooth = ndimage.gaussian_filter(white, (0, *[scale / NODE] * 3), mode="wrap")
        spline = smooth
        for axis in (1, 2, 3):  # the values at the nodes
            spline = ndimage.convolve1d(spline, [1 / 6, 2 / 3, 1 / 6], axis, mode="wrap")
        return smooth / spline.std(axis=(1, 2, 3), keepdims=True)

    def plane(self, coefficients: np.ndarray, z: float) -> np.ndarray:
        """Evaluates the fields [C, GX, GY, GZ] on the pixels of the plane at z mm, [C, NX, NY] float32."""
        layer = coefficients @ self._basis(2, np.array([z]))[0]
        return (self._x @ layer @ self._y).astype(np.float32)
