"""From a scan to z-scored axial slices on a small grid, and from values on that grid back to the scan.

Geometry is exact where it can be: a volume is brought to one orientation by permuting and flipping its axes,
and slices are resized in-plane by two sparse matrices, which leave the order of every sum to no library of threads.
Nothing is ever interpolated through-plane.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from lgjax.runtime.errors import InputError
from lgjax.scans import orientation
from lgjax.scans.volume import Volume

BACKGROUND = -3.5  # z-score of everything outside the brain
_FEW_VALUES, _SAMPLE = 8, 20_000  # a scan has more values than that; voxels that are looked at first
_MAX_NONFINITE = 0.01  # of the brain
_MIN_PIXELS = 16  # a slice with less brain than this is left out


class Grid(NamedTuple):
    """The slices a model sees: pixels down, pixels across, and the wanted pixel spacing."""

    height: int
    width: int
    spacing: float  # mm


class Slices(NamedTuple):
    """Axial slices in radiological view: row 0 is anterior, column 0 the patient's right."""

    y: np.ndarray  # [N, H, W, 1] float32, z-scored inside the mask, BACKGROUND outside, then saturated
    mask: np.ndarray  # [N, H, W, 1] float32, 1 inside the brain, 0 outside
    number: np.ndarray  # [N] int32, slice number from inferior to superior, its identity


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
    orientation: np.ndarray  # [3, 2], from `orientation.to_lps`
    rows: Axis
    columns: Axis
    mask: np.ndarray  # [N, H, W, 1] float32, as in Slices
    number: np.ndarray  # [N] int32, as in Slices
    mean: float  # of the brain, in intensity units
    std: float  # of the brain, in intensity units


def _few_values(values: np.ndarray) -> list[float]:
    """Returns the distinct values of an image where they are as few as those of a segmentation; else []."""
    sample = np.unique(values[:: max(values.size // _SAMPLE, 1)])  # first, since sorting all takes long
    found = sample if sample.size > _FEW_VALUES else np.unique(values)
    return found.tolist() if found.size <= _FEW_VALUES < values.size // 10 else []


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
      InputError: more than 1 % of the brain is not finite, or the brain is empty, constant or holds labels.
    """
    finite = np.isfinite(image.data)
    bad = brain & ~finite
    n_bad, n_brain = int(np.count_nonzero(bad)), int(np.count_nonzero(brain))
    if n_bad > _MAX_NONFINITE * n_brain:
        problem = f"has {n_bad} voxels that are NaN, infinite or beyond 3.4e38, {n_bad / n_brain:.1%} of the brain"
        raise InputError(image.source, problem, "Export the scan again without them")
    values = orientation.within(image.data, brain & finite, orientation.to_lps(image.affine))
    if not values.size or values.min() == values.max():
        raise InputError(image.source, "is constant inside the brain", "Check that this is the right file")
    if few := _few_values(values):
        problem = f"holds only the values {', '.join(f'{value:g}' for value in few)} inside the brain: labels, no scan"
        raise InputError(image.source, problem, "Give the scan; name a mask of it X_mask or X_seg, beside X")
    if finite.all():
        return image.data, 0
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
    order = orientation.to_lps(affine)
    inside, values = orientation.axial(brain, order), orientation.axial(data, order)
    found = orientation.picked(values, inside).astype(np.float64)  # in axial order, so that sums are equal too
    mean, std = float(found.mean()), float(found.std())
    del found

    box = orientation.box(inside)
    _, row_zoom, column_zoom = orientation.zooms(affine)
    rows, columns = _place(box[1], box[2], row_zoom, column_zoom, grid)
    shrink_rows = _area_weights(rows, box[1])
    shrink_columns = _area_weights(columns, box[2])
    kept, y, mask = [], [], []
    for k in range(box[0].start, box[0].stop):  # one at a time: big volumes are not copied
        m = inside[k, box[1], box[2]].astype(np.float64, order="C")
        z = (values[k, box[1], box[2]].astype(np.float64, order="C") - mean) / std * m
        weight, total = _resize(shrink_rows, (m, z), shrink_columns)
        covered = weight >= 0.5 - 1e-9  # a pixel half covered is inside, whatever the rounding
        if covered.sum() >= _MIN_PIXELS:
            kept.append(k)
            mask.append(covered)
            y.append(np.where(covered, total / np.where(covered, weight, 1), BACKGROUND).astype(np.float32))
    shape = (len(kept), grid.height, grid.width, 1)
    slices = Slices(
        y=np.array(y, np.float32).reshape(shape),
        mask=np.array(mask, np.float32).reshape(shape),
        number=np.array(kept, np.int32),
    )
    return slices, Placement(brain, order, rows, columns, slices.mask, slices.number, mean, std)


def saturate(values: np.ndarray, saturation: tuple[float, float] | None) -> np.ndarray:
    """Returns c(Y) = clip(Y, low, high), any shape, in standard deviations of the brain; None: Y as it is.

    Above `high`, which lies above grey matter, brightness tells fluid from fluid and no lesion from healthy tissue.
    """
    return values if saturation is None else np.clip(values, *saturation)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Chooses at most so many of `count` rows, the first and the last among them: indices, ascending, each once."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def every(slices: Slices, placement: Placement, step: int) -> tuple[Slices, Placement]:
    """Keeps the axial slices whose number is a multiple of `step`; the others leave the brain mask too."""
    brain = placement.brain.copy("K")
    inside = orientation.axial(brain, placement.orientation)
    inside[np.arange(len(inside)) % step != 0] = False
    kept = Slices(*(part[slices.number % step == 0] for part in slices))
    return kept, placement._replace(brain=brain, mask=kept.mask, number=kept.number)


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
    result = orientation.zeros(placement.brain, np.float32)
    if not placement.number.size:
        return result
    whole, mask = orientation.axial(placement.brain, placement.orientation), placement.mask[..., 0].astype(np.float64)
    window = orientation.box(whole)[1:]  # whose voxels have their nearest pixels within
    inside = whole[:, *window]
    planes = orientation.axial(result, placement.orientation)[:, *window]
    rows, columns = map(_linear_weights, (placement.rows, placement.columns), window)
    sampling = (1 / placement.rows.step, 1 / placement.columns.step)
    masked = np.where(mask > 0, values[..., 0], 0).astype(np.float64)
    for k, m, v in zip(placement.number, mask, masked, strict=True):
        weight, total = _resize(rows, (m, v), columns)
        known = weight > 1e-6
        plane = total / np.where(known, weight, 1)
        if (inside[k] & ~known).any():
            box = orientation.box(known | inside[k])
            nearest = ndimage.distance_transform_edt(
                ~known[box], sampling=sampling, return_distances=False, return_indices=True
            )
            plane[box] = plane[box][tuple(nearest)]
        planes[k] = np.where(inside[k], plane, 0)
    return result


def pixel_affine(placement: Placement) -> np.ndarray:
    """Returns the affine, [4, 4]: (column, row, slice number) of the slice grid -> that of the axial view's voxels."""
    result = np.diag([placement.columns.step, placement.rows.step, 1.0, 1.0])
    result[:2, 3] = placement.columns.first, placement.rows.first
    return result


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


def _resize(rows: sparse.csr_array, planes: Sequence[np.ndarray], columns: sparse.csr_array) -> np.ndarray:
    """Resizes two planes [H, W] to [2, H', W'] with the weights rows [H', H] and columns [W', W]."""
    height, width = planes[0].shape
    across = rows @ np.stack(planes, axis=1).reshape(height, -1)  # [H', 2 W]
    down = columns @ across.reshape(-1, width).T  # [W', 2 H']
    return down.T.reshape(-1, 2, len(down)).swapaxes(0, 1)


def _area_weights(axis: Axis, box: slice) -> sparse.csr_array:
    """Returns [pixels, voxels in the box]: overlap of both when shrinking, linear when enlarging."""
    distance = np.abs(axis.centres[:, None] - np.arange(box.start, box.stop))
    if axis.step < 1:
        return sparse.csr_array(np.maximum(0, 1 - distance))
    overlap = (axis.step + 1) / 2 - distance
    return sparse.csr_array(np.clip(overlap, 0, 1) / axis.step)


def _linear_weights(axis: Axis, voxels: slice) -> sparse.csr_array:
    """Returns [voxels, pixels]: linear interpolation between pixel centres."""
    position = (np.arange(voxels.start, voxels.stop) - axis.first) / axis.step
    return sparse.csr_array(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(axis.size))))
