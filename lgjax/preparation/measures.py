"""What is measured of a scan and its restoration, to tell whether it is like the healthy scans of a calibration."""

from typing import Any

import numpy as np
from scipy import ndimage

from lgjax.preparation import midplane, quantiles
from lgjax.preparation.midplane import Plane
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Placement, Slices
from lgjax.scans import orientation

RIM, CORTEX = 3.0, 12.0  # mm below the brain's outline: cortex and its sulci lie between, white matter and more beyond
_TO_SD = 1.4826  # standard deviation of a normal distribution / its median absolute deviation
_LAPLACIAN = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])  # of a pixel and its four neighbours


def measure(prepared: Prepared, errors: np.ndarray, plane: Plane | None) -> dict[str, float]:
    """Measures one scan, in the order of `likeness.MEASURES`; what is undefined is left out.

    Args:
      prepared: the scan with all its slices.
      errors: Y - X at the voxels that were looked at, [n], in the unit of the method.
      plane: mid-sagittal, of the prepared slices; None where none was looked for.

    Returns:
      Values, of six digits.
    """
    found = {
        **_intensities(prepared),
        "cortex": _cortex(prepared.slices, _pixel(prepared)),
        "noise": _noise(prepared.slices),
        "error": quantiles.median(np.abs(errors)),
        **_coverage(prepared.placement, prepared.image.affine),
        **_symmetry(prepared, plane),
    }
    return {name: float(f"{value:.6g}") for name, value in found.items() if np.isfinite(value)}


def _intensities(prepared: Prepared) -> dict[str, float]:
    """Returns how far the tails of the brain's histogram lie from its median, in standard deviations of the brain.

    The histogram is that without a bias field and before histogram matching, which would make all scans alike.
    """
    brain, order = prepared.placement.brain, prepared.placement.orientation
    values = orientation.within(prepared.image.data, brain, order)
    if prepared.field is not None:
        values = values / orientation.within(prepared.field, brain, order)
    dark, median, bright = quantiles.percentiles(values, (5, 50, 99))
    deviation = values.std(dtype=np.float64)
    return {"dark": (median - dark) / deviation, "bright": (bright - median) / deviation}


def _cortex(slices: Slices, pixel: float) -> float:
    """Returns by how much the cortex is brighter than what lies deeper, medians, in standard deviations of the brain.

    NaN where one of them is not there.
    """
    inside = slices.mask[..., 0] > 0
    box = (slice(None), *orientation.box(inside)[1:])
    inside, values = inside[box], slices.y[box][..., 0]
    framed = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    below = framed.reshape(-1, framed.shape[2])  # one slice below the other: their frames keep them apart
    depth = ndimage.distance_transform_edt(below, sampling=pixel).reshape(framed.shape)[:, 1:-1, 1:-1]
    outer, inner = values[inside & (depth > RIM) & (depth <= CORTEX)], values[depth > CORTEX]
    return float(np.median(outer) - np.median(inner)) if outer.size and inner.size else np.nan


def _noise(slices: Slices) -> float:
    """Returns the standard deviation of white noise with the median Laplacian of the slices', in their unit."""
    found = []
    for y, mask in zip(slices.y[..., 0], slices.mask[..., 0], strict=True):  # a slice at a time: volumes are not copied
        whole = ndimage.binary_erosion(mask > 0)  # with all four neighbours
        found.append(np.abs(ndimage.convolve(y, _LAPLACIAN)[whole]))
    values = np.concatenate(found)
    return float(_TO_SD * quantiles.median(values) / np.sqrt((_LAPLACIAN**2).sum())) if values.size else np.nan


def _coverage(placement: Placement, affine: np.ndarray) -> dict[str, float]:
    """Returns the brain's volume in mL, the cross-sections where it ends, as shares of the largest, and the voxel."""
    inside = orientation.axial(placement.brain, placement.orientation)
    areas = np.array([np.count_nonzero(plane) for plane in inside])
    ends = areas[np.flatnonzero(areas)[[0, -1]]] / areas.max()
    volume = areas.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    return {"volume": volume, "bottom": ends[0], "top": ends[1], "voxel": max(orientation.zooms(affine))}


def _symmetry(prepared: Prepared, plane: Plane | None) -> dict[str, Any]:
    """Returns the score of the mid-sagittal plane and, where the plane fits, its angle to the scanner's in degrees."""
    if plane is None:
        return {}
    if not midplane.fits(plane.score):
        return {"symmetry": plane.score}
    normal, _ = midplane.in_scanner(plane, prepared.slices, prepared.placement, prepared.image.affine)
    return {"symmetry": plane.score, "tilt": np.degrees(np.arccos(min(abs(normal[0]), 1.0)))}


def _pixel(prepared: Prepared) -> float:
    """Returns the size of a pixel of the slices, mm."""
    return prepared.placement.rows.step * orientation.zooms(prepared.image.affine)[1]
