"""From a scan to z-scored axial slices on a small grid, and from values on that grid back to the scan.

Geometry is exact where it can be: a volume is brought to one orientation by permuting and flipping its axes,
and slices are resized in-plane by two small matrices. Nothing is ever interpolated through-plane.
"""

from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from lgjax.data import nifti
from lgjax.data.volume import Volume
from lgjax.errors import InputError

BACKGROUND = -3.5  # z-score of everything outside the brain
_MIN_BRAIN = 1.0  # ml
_MAX_BRAIN = 2500.0  # ml; the largest heads hold about 2000 ml inside the skull
_MAX_COVERAGE = 0.95  # of the volume, by a mask
_MIN_BACKGROUND = 0.15  # of the volume, in a scan without its skull; a slab cropped to the brain has 0.21
_MIN_COMPONENT = 0.01  # of the largest one
_MAX_OVERSHOOT = 0.01  # of the brain: values below background that spline resampling leaves around it
_MAX_NONFINITE = 0.01  # of the brain
_MIN_PIXELS = 16  # a slice with less brain than this is left out
_GIVE_MASK = "Give a brain mask with --mask, or strip the skull first with hd-bet or mri_synthstrip"


class Grid(NamedTuple):
    """The slices a model sees: pixels down, pixels across, and the wanted pixel spacing."""

    height: int
    width: int
    spacing: float  # mm


class Slices(NamedTuple):
    """Axial slices in radiological view: row 0 is anterior, column 0 the patient's right."""

    y: np.ndarray  # [N, H, W, 1] float32, z-scored inside the mask, BACKGROUND outside
    mask: np.ndarray  # [N, H, W, 1] float32, 1 inside the brain, 0 outside
    index: np.ndarray  # type: ignore[assignment]  # [N] int32, slice number from inferior to superior, its identity


class Axis(NamedTuple):
    """Where the pixels of one grid axis lie, in voxels along the (reoriented) volume axis."""

    first: float  # centre of pixel 0
    step: float  # voxels from one pixel to the next
    size: int  # pixels

    @property
    def centres(self) -> np.ndarray:
        return self.first + self.step * np.arange(self.size)


class Placement(NamedTuple):
    """What `from_slices` needs to know to go back."""

    brain: np.ndarray  # [X, Y, Z] bool, on the native grid
    orientation: np.ndarray  # [3, 2], nibabel's, native -> LPS
    rows: Axis
    columns: Axis
    mask: np.ndarray  # [N, H, W, 1] float32, as in Slices
    index: np.ndarray  # type: ignore[assignment]  # [N] int32, as in Slices
    mean: float  # of the brain, in intensity units
    std: float  # of the brain, in intensity units


def brain_mask(image: Volume, mask: Volume | None = None) -> np.ndarray:
    """Returns where the brain is: the given mask, or what is not background in a skull-stripped scan.

    Args:
      image: the scan.
      mask: 0 outside the brain and one positive value inside, on the grid of the scan; None: derive it.

    Returns:
      [X, Y, Z] bool.

    Raises:
      InputError: the mask is empty, tiny, covers nearly everything, is not binary or on another grid; or
        there is no mask and the scan is constant or still has its skull.
    """
    if mask is None:
        brain, source = _without_background(image), image.source
    else:
        nifti.check_same_grid(image, mask)
        brain, source = mask.data != 0, mask.source
        values = mask.data[brain]
        if values.size and not (values[0] > 0 and (values == values[0]).all()):
            raise InputError(source, "is not a binary mask", "Give a mask that is 0 outside and 1 inside the brain")
    volume = brain.sum() * _voxel_ml(image)
    remedy = _GIVE_MASK if mask is None else "Check that it is the brain mask of this scan"
    if volume < _MIN_BRAIN:
        raise InputError(source, f"has a brain of {volume:.2g} ml", remedy)
    if brain.mean() > _MAX_COVERAGE:
        raise InputError(source, f"is a mask that covers {brain.mean():.1%} of the volume", remedy)
    return brain


def clean(image: Volume, brain: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the voxels with every NaN and infinity replaced, and how many of them lay in the brain.

    Those in the brain become the median of their finite neighbours, or of the brain where they have none;
    those outside become 0.

    Args:
      image: the scan.
      brain: [X, Y, Z] bool.

    Returns:
      The data, [X, Y, Z] float32, and the number of voxels filled inside the brain.

    Raises:
      InputError: more than 1 % of the brain is not finite, or the brain is empty or constant.
    """
    finite = np.isfinite(image.data)
    bad = brain & ~finite
    n_bad, n_brain = int(bad.sum()), int(brain.sum())
    if n_bad > _MAX_NONFINITE * n_brain:
        problem = f"has {n_bad} voxels that are NaN or infinite, {n_bad / n_brain:.1%} of the brain"
        raise InputError(image.source, problem, "Export the scan again without them")
    values = image.data[brain & finite]
    if not values.size or values.min() == values.max():
        raise InputError(image.source, "is constant inside the brain", "Check that this is the right file")
    data = np.where(finite, image.data, np.float32(0))
    for voxel in np.argwhere(bad):
        near = tuple(slice(max(i - 1, 0), i + 2) for i in voxel)
        neighbours = image.data[near][(brain & finite)[near]]
        data[tuple(voxel)] = np.median(neighbours if neighbours.size else values)
    return data, n_bad


def to_slices(data: np.ndarray, brain: np.ndarray, affine: np.ndarray, grid: Grid) -> tuple[Slices, Placement]:
    """Z-scores a scan inside the brain and cuts it into axial slices on a grid centred on the brain.

    The pixel spacing is `grid.spacing`, or what lets the brain fit with a margin of one pixel. Any
    permutation and flip of the voxel axes (with its affine) gives the same slices, bit for bit.

    Args:
      data: [X, Y, Z] float32, finite, not constant inside the brain.
      brain: [X, Y, Z] bool, not empty.
      affine: [4, 4], voxel -> mm (RAS+); says which axis is axial.
      grid: the slices' size.

    Returns:
      The slices with enough brain in them (possibly none), and the way back.
    """
    orientation = nib.orientations.io_orientation(affine)
    lps = nib.orientations.axcodes2ornt(("L", "P", "S"))
    orientation = nib.orientations.ornt_transform(orientation, lps)
    # [Z, Y, X] in C order whatever the order on disk: equal inputs to equal arithmetic.
    inside = np.ascontiguousarray(nib.orientations.apply_orientation(brain, orientation).T)
    values = np.ascontiguousarray(nib.orientations.apply_orientation(data, orientation).T, np.float64)
    source_axis = np.argsort(orientation[:, 0])
    zooms = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0))[source_axis]
    mean, std = float(values[inside].mean()), float(values[inside].std())

    box = tuple(slice(found.min(), found.max() + 1) for found in np.nonzero(inside))
    rows, columns = _place(box[1], box[2], zooms[1], zooms[0], grid)
    shrink_rows = _area_weights(rows, box[1])
    shrink_columns = _area_weights(columns, box[2]).T
    m = inside[box].astype(np.float64)
    z = (values[box] - mean) / std * m
    weight = shrink_rows @ m @ shrink_columns
    total = shrink_rows @ z @ shrink_columns
    mask = weight >= 0.5 - 1e-9  # a pixel half covered is inside, whatever the rounding
    y = np.where(mask, total / np.where(mask, weight, 1), BACKGROUND)

    keep = np.flatnonzero(mask.sum(axis=(1, 2)) >= _MIN_PIXELS)
    slices = Slices(
        y=y[keep, :, :, None].astype(np.float32),
        mask=mask[keep, :, :, None].astype(np.float32),
        index=(keep + box[0].start).astype(np.int32),
    )
    return slices, Placement(brain, orientation, rows, columns, slices.mask, slices.index, mean, std)


def every(slices: Slices, placement: Placement, step: int) -> tuple[Slices, Placement]:
    """Keeps the axial slices whose number is a multiple of `step`; the others leave the brain mask too."""
    inside = nib.orientations.apply_orientation(placement.brain, placement.orientation).T.copy()
    inside[np.arange(len(inside)) % step != 0] = False
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), placement.orientation)
    brain = np.ascontiguousarray(nib.orientations.apply_orientation(inside.T, back))
    kept = Slices(*(part[slices.index % step == 0] for part in slices))
    return kept, placement._replace(brain=brain, mask=kept.mask, index=kept.index)


def from_slices(values: np.ndarray, placement: Placement) -> np.ndarray:
    """Brings values on the slice grid back to the scan's own grid and axis order.

    Linear interpolation between pixels inside the mask; a brain voxel with none beside it takes the value of
    the nearest voxel that has. 0 outside the brain and in slices that were left out.

    Args:
      values: [N, H, W, 1], finite inside the mask.
      placement: from `to_slices`.

    Returns:
      [X, Y, Z] float32.
    """
    if values.shape != placement.mask.shape:
        raise ValueError(f"expected values of shape {placement.mask.shape}, got {values.shape}")
    inside = nib.orientations.apply_orientation(placement.brain, placement.orientation).T
    result = np.zeros(inside.shape, np.float32)
    mask = placement.mask[..., 0].astype(np.float64)
    rows = _linear_weights(placement.rows, inside.shape[1])
    columns = _linear_weights(placement.columns, inside.shape[2]).T
    sampling = (1 / placement.rows.step, 1 / placement.columns.step)
    masked = np.where(mask > 0, values[..., 0], 0).astype(np.float64)
    for k, m, v in zip(placement.index, mask, masked, strict=True):
        weight = rows @ m @ columns
        known = weight > 1e-6
        plane = (rows @ v @ columns) / np.where(known, weight, 1)
        if (inside[k] & ~known).any():
            nearest = ndimage.distance_transform_edt(
                ~known, sampling=sampling, return_distances=False, return_indices=True
            )
            plane = plane[tuple(nearest)]
        result[k] = np.where(inside[k], plane, 0)
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), placement.orientation)
    return np.ascontiguousarray(nib.orientations.apply_orientation(result.T, back))


def _voxel_ml(image: Volume) -> float:
    return abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000


def _without_background(image: Volume) -> np.ndarray:
    """Returns the voxels that differ from a flat background; its value is that of the sides."""
    data = image.data
    axial = int(np.argmax(nib.orientations.io_orientation(image.affine)[:, 0] == 2))
    planes = np.moveaxis(data, axial, 2)  # slices may end inside the brain, so the border is the in-plane one
    border = np.concatenate([side.ravel() for side in (planes[0], planes[-1], planes[:, 0], planes[:, -1])])
    background = np.partition(border, border.size // 2)[border.size // 2]  # the median; NaN sorts last
    flat = np.isnan(data) if np.isnan(background) else data == background  # SPM writes NaN around the brain
    brain = ~flat
    if not brain.any():
        raise InputError(image.source, "has the same value in every voxel", "Check that this is the right file")
    below = data < background
    if below.sum() <= _MAX_OVERSHOOT * brain.sum():
        brain &= ~below
    volume = brain.sum() * _voxel_ml(image)
    if flat.mean() < _MIN_BACKGROUND or volume > _MAX_BRAIN:
        problem = f"still has its skull, it seems: {volume:.0f} ml differ from the background"
        raise InputError(image.source, problem, _GIVE_MASK)
    labels, _ = ndimage.label(brain)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= _MIN_COMPONENT * sizes.max())[labels] & brain


def _place(row_box: slice, column_box: slice, row_zoom: float, column_zoom: float, grid: Grid) -> tuple[Axis, Axis]:
    """Centres the grid on the brain's bounding box."""
    spacing = max(
        grid.spacing,
        (row_box.stop - row_box.start) * row_zoom / (grid.height - 2),
        (column_box.stop - column_box.start) * column_zoom / (grid.width - 2),
    )
    axes = []
    for box, zoom, size in ((row_box, row_zoom, grid.height), (column_box, column_zoom, grid.width)):
        step = float(spacing / zoom)
        first = float((box.start + box.stop - 1) / 2 - step * (size - 1) / 2)
        if abs(step - 1) < 1e-4:  # the native resolution: pixels are voxels, so that nothing is interpolated
            step, first = 1.0, float(np.floor(first + 0.5))
        axes.append(Axis(first, step, size))
    return axes[0], axes[1]


def _area_weights(axis: Axis, box: slice) -> np.ndarray:
    """Returns [pixels, voxels in the box]: overlap of both when shrinking, linear when enlarging."""
    distance = np.abs(axis.centres[:, None] - np.arange(box.start, box.stop))
    if axis.step < 1:
        return np.maximum(0, 1 - distance)
    overlap = (axis.step + 1) / 2 - distance
    return np.clip(overlap, 0, 1) / axis.step


def _linear_weights(axis: Axis, size: int) -> np.ndarray:
    """Returns [voxels, pixels]: linear interpolation between pixel centres."""
    position = (np.arange(size) - axis.first) / axis.step
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(axis.size)))
