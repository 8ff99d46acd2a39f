"""One order of axes for all that computes: whatever the order on disk, equal scans give equal arrays."""

import nibabel as nib
import numpy as np

_IDENTITY = np.array([[0, 1], [1, 1], [2, 1]])


def to_lps(affine: np.ndarray) -> np.ndarray:
    """Returns nibabel's orientation transform from a volume's axes to left, posterior, superior, [3, 2]."""
    lps = nib.orientations.axcodes2ornt(("L", "P", "S"))
    return nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), lps)


def axial(data: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Views a native array [X, Y, Z] as axial slices [S, H, W] in radiological view, from inferior to superior.

    Row 0 is anterior, column 0 the patient's right.

    Args:
      data: [X, Y, Z].
      orientation: from `to_lps`.
    """
    return nib.orientations.apply_orientation(data, orientation).T


def within(data: np.ndarray, inside: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Returns the values of a native array at the voxels of a mask, [n], in the order of `axial`, which files are in.

    Args:
      data: [X, Y, Z].
      inside: [X, Y, Z] bool.
      orientation: from `to_lps`.
    """
    return picked(axial(data, orientation), axial(inside, orientation))


def picked(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns `values[inside]` of arrays [S, H, W], [n], slice by slice, which takes half the time.

    Args:
      values: any dtype.
      inside: bool.
    """
    found = [np.compress(chosen.ravel(), plane.ravel()) for plane, chosen in zip(values, inside, strict=True)]
    return np.concatenate(found) if found else values[:0].ravel()


def zeros(like: np.ndarray, dtype: type) -> np.ndarray:
    """Returns zeros, shaped as an array and in its order of axes in memory, which take no memory until written to."""
    return np.zeros(like.shape, dtype, order="F" if like.flags.f_contiguous else "C")


def native(slices: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Inverts `axial`: a view of [S, H, W] in the volume's own order of axes, [X, Y, Z]."""
    back = nib.orientations.ornt_transform(_IDENTITY, orientation)
    return nib.orientations.apply_orientation(slices.T, back)


def zooms(affine: np.ndarray) -> tuple[float, float, float]:
    """Returns the voxel sizes of the axial view in mm: between slices, rows and columns."""
    axes = np.argsort(to_lps(affine)[:, 0])
    sizes = nib.affines.voxel_sizes(np.asarray(affine))[axes]
    return float(sizes[2]), float(sizes[1]), float(sizes[0])


def axial_axis(affine: np.ndarray) -> int:
    """Finds the voxel axis that runs closest to the body's, from slice to slice."""
    return int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == 2)[0])


def codes(affine: np.ndarray) -> str:
    """Tells where the voxel axes point, such as "LPS"."""
    return "".join(nib.orientations.aff2axcodes(affine))


def slice_affine(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the affine of the axial view: (column, row, slice) -> mm (RAS+), [4, 4].

    Args:
      affine: of the native volume.
      shape: of the native volume.
    """
    return np.asarray(affine) @ nib.orientations.inv_ornt_aff(to_lps(affine), shape)


def box(inside: np.ndarray) -> tuple[slice, ...]:
    """Returns the bounding box of what is True in an array of any shape, bool, which must not be empty."""
    axes = range(inside.ndim)
    lines = [inside.any(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    found = [np.flatnonzero(line) for line in lines]
    return tuple(slice(int(index[0]), int(index[-1]) + 1) for index in found)
