"""The embedded data set: synthetic T2-weighted brains, healthy and with lesions.

    anatomies = load_anatomies(None)
    scan = make_subject(anatomies, seed=0, index=3, kind="glioma")

Anatomies are tissue maps: the MNI152 templates that nilearn ships, or a folder of FreeSurfer label maps.
Each subject draws a contrast, a smooth deformation and a scanner from its own stream, keyed by (seed, index):
the same subject comes out in any order, in any number of workers, and a patient is its own healthy twin
outside the lesion. Single precision is used only with +, -, *, / and square roots, whose rounding every
machine shares; the rest is double precision, rounded to whole numbers at the end.
"""

import functools
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from tqdm import tqdm

from lgjax.data import lesions, nifti
from lgjax.data.volume import Scan, Volume
from lgjax.errors import InputError, UsageError
from lgjax.files import atomic_write

KINDS = ("healthy", "glioma", "ms", "dark", "isointense")
CLASSES = ("ventricle", "cortex", "striatum", "thalamus", "pallidum", "white", "deep white", "surface")
VENTRICLE, CORTEX, STRIATUM, THALAMUS, PALLIDUM, WHITE, DEEP_WHITE, SURFACE = range(8)
CODES = {  # FreeSurfer labels -> class
    VENTRICLE: (4, 5, 14, 15, 31, 43, 44, 63, 72, 213, 221),
    CORTEX: (3, 8, 17, 18, 42, 47, 53, 54, *range(1000, 3000)),
    STRIATUM: (11, 12, 26, 50, 51, 58),
    THALAMUS: (9, 10, 28, 48, 49, 60),
    PALLIDUM: (13, 52),
    WHITE: (2, 7, 16, 25, 41, 46, 57, 77, 78, 79, 85, 192, *range(250, 256), *range(3000, 5003)),
}
LANDMARKS = {  # FreeSurfer labels -> MNI centres, mm, of the left half, to which label maps are turned
    (10, 49): (-11, -19, 7),
    (11, 50): (-13, 10, 10),
    (12, 51): (-25, 1, 0),
    (17, 53): (-26, -23, -14),
    (18, 54): (-23, -4, -19),
}
MNI_DEEP = (  # class, MNI centre and radii in mm of one half, sideways shift per mm to the front
    (PALLIDUM, (19.5, -4, -1), (5, 9, 7), -0.35),
    (STRIATUM, (26, 2, 1), (6, 17, 12), -0.25),
    (STRIATUM, (13, 12, 8), (6, 12, 12), -0.1),
    (STRIATUM, (17, -8, 21), (5, 16, 6), -0.3),
    (THALAMUS, (10, -18, 7), (10, 14, 10), -0.4),
)
SURFACE_STEP = 16.0  # the surface map stores 128 + 16 times the depth below the brain's surface in mm
FIELD = ((-93.0, 93.0), (-125.0, 91.0), (-52.0, 60.0))  # mm, x, y and the centres of the outer slices in z
PLANES = 2  # thin planes averaged over one slice's thickness
NODE = 10.0  # mm between the nodes of smooth random fields


class Anatomy(NamedTuple):
    """Tissue maps of one head in a frame close to MNI: x to the right, y to the front, z up."""

    maps: np.ndarray  # [8, X, Y, Z] uint8: fractions of CLASSES in 1/255 (the rest is outer CSF), and the surface
    affine: np.ndarray  # [4, 4] voxel -> mm
    top: float  # mm, height above which the brain's cross-section is under 50 cm^2


def load_anatomies(labels: str | None) -> list[Anatomy]:
    """Loads the heads that subjects are made from.

    Args:
      labels: a folder of FreeSurfer-style label maps (*.nii, *.nii.gz, *.mgz, in subfolders too); None: the
        MNI152 templates inside nilearn.

    Raises:
      InputError: the folder is missing, holds no label map, or a file is no label map of a brain.
    """
    return list(_load(labels))


@functools.lru_cache(maxsize=2)
def _load(labels: str | None) -> tuple[Anatomy, ...]:
    if labels is None:
        return (_mni(),)
    folder = Path(labels)
    files = sorted(f for f in folder.rglob("*") if f.name.endswith((".nii", ".nii.gz", ".mgz")))
    if not files:
        raise InputError(folder, "holds no label map", "Name a folder of *.nii, *.nii.gz or *.mgz label maps")
    with ThreadPoolExecutor(2) as pool:
        return tuple(tqdm(pool.map(_from_labels, files), desc="label maps", total=len(files), disable=len(files) < 4))


def _from_labels(file: Path) -> Anatomy:
    """One FreeSurfer-style label map -> tissue maps; the deep grey matter's centre becomes (0, -5, 5) mm."""
    try:
        image = nib.as_closest_canonical(nib.load(file))
        codes = np.asarray(image.dataobj).astype(np.int16).squeeze()
    except Exception as error:
        raise InputError(file, f"cannot be read ({error})", "Give 3-D label maps or move the file away") from error
    table = np.full(max(int(codes.max()), 0) + 1, -1, np.int8)
    for tissue, members in CODES.items():
        table[[m for m in members if m < len(table)]] = tissue
    label = table[np.maximum(codes, 0)]
    if (label == WHITE).sum() < 1000 or (label == THALAMUS).sum() < 100:
        raise InputError(file, "has too few voxels with FreeSurfer's brain labels", "Give aseg-like label maps")
    box = tuple(slice(max(w.min() - 8, 0), w.max() + 9) for w in np.nonzero(label >= 0))
    label, codes = label[box], codes[box]
    affine = _align(codes, np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0)))
    holes = ndimage.binary_fill_holes((label >= 0) | (codes == 24)) & (label < 0) & (codes != 24)
    label[holes] = WHITE
    maps = np.zeros((*label.shape, 8), np.uint8)
    for c in CODES:
        maps[..., c] = (_binomial((label == c).astype(np.uint8)).astype(np.uint16) * 255) // 64
    total = maps.sum(axis=-1, dtype=np.float32)
    total += 0.6 * (255 - total)  # label maps overstate the sulci: a voxel half fluid is called fluid
    for c in CODES:
        maps[..., c] = np.minimum(maps[..., c] * np.float32(255) / np.maximum(total, 1), 255)
    _finish(maps, label >= 0, np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return Anatomy(np.moveaxis(maps, -1, 0), affine, _top(maps, affine))


def _align(codes: np.ndarray, zooms: np.ndarray) -> np.ndarray:
    """The rigid voxel -> mm map, [4, 4], that lays deep grey structures on their MNI places (Kabsch)."""
    pairs = [
        (np.argwhere(codes == code).mean(axis=0) * zooms, np.array([side * x, y, z], float))
        for pair, (x, y, z) in LANDMARKS.items()
        for code, side in zip(pair, (1, -1), strict=True)
        if (codes == code).any()
    ]
    source, target = (np.array(p) for p in zip(*pairs, strict=True))
    u, _, vt = np.linalg.svd((target - target.mean(axis=0)).T @ (source - source.mean(axis=0)))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    affine = np.eye(4)
    affine[:3, :3] = rotation * zooms
    affine[:3, 3] = target.mean(axis=0) - rotation @ source.mean(axis=0)
    return affine


def _binomial(one_hot: np.ndarray) -> np.ndarray:
    """Smooths [X, Y, Z] 0/1 with (1, 2, 1) along each axis, sum 64: a Gaussian of 0.71 voxels in integers."""
    for axis in range(3):
        padded = np.pad(one_hot, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        lower, middle, upper = (
            padded[tuple(slice(s, s + n) if a == axis else slice(None) for a, n in enumerate(one_hot.shape))]
            for s in range(3)
        )
        one_hot = lower + 2 * middle + upper
    return one_hot


def _finish(maps: np.ndarray, tissue: np.ndarray, zooms: np.ndarray) -> None:
    """Fills in the surface map and splits white matter by depth.

    maps: [X, Y, Z, 8]. tissue: [X, Y, Z] bool. zooms: [3] mm.
    """
    step = 2
    small = np.pad(tissue[::step, ::step, ::step], 6)
    spacing = step * zooms
    grown = ndimage.distance_transform_edt(~small, spacing) <= 8.0
    closed = ndimage.distance_transform_edt(grown, spacing) > 8.0
    depth = ndimage.distance_transform_edt(closed, spacing) - ndimage.distance_transform_edt(~closed, spacing)
    white = ndimage.gaussian_filter(np.pad(maps[::step, ::step, ::step, WHITE] / 255.0, 6), 2.0)
    deep = np.clip((white - 0.72) / 0.25, 0.0, 1.0)
    at = np.meshgrid(*(np.arange(n) / step + 6 for n in tissue.shape), indexing="ij", sparse=False)
    depth, deep = (ndimage.map_coordinates(f, at, order=1, mode="nearest") for f in (depth, deep))
    maps[..., SURFACE] = np.clip(np.rint(128 + SURFACE_STEP * depth), 0, 255)
    maps[..., DEEP_WHITE] = np.rint(maps[..., WHITE] * deep)
    maps[..., WHITE] -= maps[..., DEEP_WHITE]


def _top(maps: np.ndarray, affine: np.ndarray) -> float:
    """The height in mm above which the brain, maps [X, Y, Z, 8], is smaller than 50 cm^2 across."""
    step = 3
    inside = np.argwhere(maps[::step, ::step, ::step, SURFACE] >= 128) * step
    heights = np.floor(inside @ affine[2, :3] + affine[2, 3]).astype(int)
    area = np.bincount(heights - heights.min()) * abs(np.linalg.det(affine[:3, :3])) * step**3  # mm^2 of 1 mm planes
    area = np.convolve(area, np.full(5, 0.2), "same")
    return float(heights.min() + np.flatnonzero(area > 5000).max())


def _mni() -> Anatomy:
    """The MNI152 templates, sharpened; deep grey matter and ventricles are told apart by their place."""
    from nilearn import datasets  # heavy: only who uses the templates pays for it

    names = ("gm_template", "wm_template", "brain_mask")
    images = [getattr(datasets, f"load_mni152_{name}")(resolution=1) for name in names]
    brain = images[2].get_fdata(dtype=np.float32) > 0
    box = tuple(slice(max(w.min() - 8, 0), w.max() + 9) for w in np.nonzero(brain))
    brain = brain[box]
    grey, white = (np.clip(image.get_fdata(dtype=np.float32)[box], 0, 1) * brain for image in images[:2])
    affine = np.array(images[2].affine, float)
    affine[:3, 3] += [s.start for s in box]
    x, y, z = np.ogrid[tuple(slice(affine[i, 3], affine[i, 3] + n) for i, n in enumerate(brain.shape))]
    x, y, z = x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)
    fraction = np.zeros((*brain.shape, 8), np.float32)
    for c, (cx, cy, cz), (rx, ry, rz), tilt in MNI_DEEP:
        dx, dy = np.abs(x) - cx - tilt * (y - cy), y - cy
        inside = np.clip(3 * (1.15 - (dx / rx) ** 2 - (dy / ry) ** 2 - ((z - cz) / rz) ** 2), 0, 1)
        part = inside * np.minimum(1.6 * grey, grey + white)
        fraction[..., c] += part
        kept = np.maximum(grey + white - part, 0) / np.maximum(grey + white, 1e-6)
        grey, white = grey * kept, white * kept
    fluid = np.maximum(1 - fraction.sum(axis=-1) - grey - white, 0)
    central = (np.abs(x) < 32) & (y > -58) & (y < 36) & (z > -14) & (z < 34) & ((np.abs(x) < 24) | (y < -20))
    fraction[..., CORTEX], fraction[..., WHITE], fraction[..., VENTRICLE] = grey, white, fluid * central
    sharp = fraction * fraction  # undoes some of the averaging over people
    outer = (1.3 * fluid * ~central) ** 2
    sharp *= (255 * brain / (sharp.sum(axis=-1) + outer + 1e-9))[..., None]
    maps = np.floor(sharp).astype(np.uint8)
    _finish(maps, brain, np.ones(3))
    return Anatomy(np.moveaxis(maps, -1, 0), affine, _top(maps, affine))


class Lattice:
    """Smooth fields over the field of view: cubic B-splines on nodes NODE mm apart, taken slice by slice."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        """Prepares for pixels at x [NX] and y [NY] in mm."""
        self.axes = [np.arange(low - 2 * NODE, high + 2.01 * NODE, NODE) for low, high in FIELD]
        self.nodes = np.array(np.meshgrid(*self.axes, indexing="ij"))  # [3, GX, GY, GZ] mm
        self._x, self._y = self._basis(0, x), self._basis(1, y).T

    def _basis(self, axis: int, at: np.ndarray) -> np.ndarray:
        t = np.abs(np.asarray(at)[:, None] - self.axes[axis]) / NODE
        return np.where(t < 1, 2 / 3 - t * t + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)

    def noise(self, rng: np.random.Generator, count: int, scale: float) -> np.ndarray:
        """Coefficients [count, GX, GY, GZ] of fields of unit variance; scale: smoothness in mm."""
        white = rng.standard_normal((count, *self.nodes.shape[1:]))
        smooth = ndimage.gaussian_filter(white, (0, *[scale / NODE] * 3), mode="wrap")
        spline = smooth
        for axis in (1, 2, 3):  # the values at the nodes
            spline = ndimage.convolve1d(spline, [1 / 6, 2 / 3, 1 / 6], axis, mode="wrap")
        return smooth / spline.std(axis=(1, 2, 3), keepdims=True)

    def plane(self, coefficients: np.ndarray, z: float) -> np.ndarray:
        """The fields [C, GX, GY, GZ] on the pixels of the plane at z mm, [C, NX, NY] float32."""
        layer = coefficients @ self._basis(2, np.array([z]))[0]
        return (self._x @ layer @ self._y).astype(np.float32)


class _Subject(NamedTuple):
    """All random choices of one healthy subject except the noise."""

    position: np.ndarray  # [3, GX, GY, GZ] anatomy voxel coordinates at the lattice nodes
    turn: np.ndarray  # [3, 3] mm in the image -> anatomy voxels, without the deformation
    fields: np.ndarray  # [6, GX, GY, GZ] see _fields
    means: np.ndarray  # [8] brightness of ventricle .. deep white, then outer CSF; ventricle = 1
    rim: float  # brightness of what the skull stripping left at the surface
    rim_depth: float  # mm
    strip: float  # mm of outer CSF that skull stripping kept
    blur: float  # standard deviation in mm
    noise: float
    scale: float  # scanner units for brightness 1


def _column(vector) -> np.ndarray:
    """A vector [3] laid out for lattice arrays, [3, 1, 1, 1]."""
    return np.asarray(vector, float).reshape(3, 1, 1, 1)


def _place(rng: np.random.Generator, anatomy: Anatomy, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Draws a shape: the anatomy voxel at each lattice node, and that map's linear part."""
    angles = np.deg2rad(rng.normal(0, 3.0, 3)).clip(-0.12, 0.12)
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    turn = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn = turn @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    zoom = rng.uniform(0.96, 1.09) * rng.uniform(0.96, 1.04, 3)  # above 1: a smaller brain
    turn = turn * (zoom * [rng.choice([-1, 1]), 1, 1])
    pivot = np.array([0.0, -17.0, 20.0])
    rise = anatomy.top - pivot[2] - zoom[2] * (rng.uniform(62.0, 68.0) - pivot[2])  # the vertex ends above the slices
    shift = np.array([*rng.normal(0, [2.0, 3.0]), rise]) + pivot
    place = np.tensordot(turn, lattice.nodes - _column(pivot), 1) + _column(shift)
    place += rng.uniform(1.5, 3.0) * lattice.noise(rng, 3, 28.0) + rng.uniform(0.8, 1.8) * lattice.noise(rng, 3, 10.0)
    offset = (place - _column([0, -10, 14])) / _column([24, 38, 20])  # ventricles, wider or narrower
    place -= rng.uniform(-0.15, 0.45) * np.exp(-(offset**2).sum(axis=0)) * offset * 14.0
    inverse = np.linalg.inv(anatomy.affine)
    position = np.tensordot(inverse[:3, :3], place, 1) + _column(inverse[:3, 3])
    return position, inverse[:3, :3] @ turn


def _fields(rng: np.random.Generator, lattice: Lattice) -> np.ndarray:
    """Draws the smooth fields of a subject, [6, GX, GY, GZ] lattice coefficients."""
    fields = lattice.noise(rng, 6, 9.0)
    fields[0] = np.exp(rng.normal(0.0, 0.5) + rng.uniform(0.2, 0.6) * fields[0])  # outer CSF against tissue
    fields[1] = np.exp(rng.normal(0.0, 0.25) + rng.uniform(0.1, 0.4) * fields[1])  # white against grey matter
    fields[2] = 1 + rng.uniform(0.02, 0.07) * fields[2]  # brightness of tissue
    fields[3] = 1 + rng.uniform(0.05, 0.2) * fields[3]  # brightness of outer CSF
    fields[4] = rng.uniform(0.3, 1.2) * fields[4]  # mm, skull stripping
    fields[5] = np.exp(rng.uniform(0.02, 0.12) * lattice.noise(rng, 1, 45.0)[0])  # bias
    return fields


def _contrast(rng: np.random.Generator) -> np.ndarray:
    """Draws the brightness of CLASSES[:7] and of outer CSF, [8]; ventricles are 1."""
    white = rng.uniform(0.22, 0.42)
    cortex = white + rng.uniform(0.05, 0.17)
    return np.array(
        [
            1.0,
            cortex,
            white + rng.uniform(0.25, 0.85) * (cortex - white),
            white + rng.uniform(0.2, 0.7) * (cortex - white),
            white - rng.uniform(-0.03, 0.07),
            white,
            white + rng.uniform(-0.02, 0.06),
            rng.uniform(0.6, 1.0),
        ]
    )


def _draw(rng: np.random.Generator, anatomy: Anatomy, lattice: Lattice) -> _Subject:
    """Draws a subject's shape, contrast and scanner."""
    position, turn = _place(rng, anatomy, lattice)
    return _Subject(
        position=position,
        turn=turn,
        fields=_fields(rng, lattice),
        means=_contrast(rng),
        rim=rng.uniform(0.0, 0.45),
        rim_depth=rng.uniform(0.7, 4.0),
        strip=rng.uniform(-1.0, 2.0),
        blur=rng.uniform(0.1, 0.9),
        noise=rng.uniform(0.004, 0.02),
        scale=float(np.exp(rng.uniform(np.log(300), np.log(2200)))),
    )


def _fractions(anatomy: Anatomy, position: np.ndarray) -> np.ndarray:
    """Trilinear interpolation of all maps at once in integers, the same on every machine.

    The eight bytes of a voxel are one 64-bit word; its even and odd bytes are widened to four 16-bit lanes,
    in which byte * 256 fits, so that one multiplication weights four maps.

    Args:
      position: [3, N] voxel coordinates, float32.

    Returns:
      [8, N] float32, the values of anatomy.maps, 0..255.
    """
    maps = np.moveaxis(anatomy.maps, 0, -1)
    nx, ny, nz = maps.shape[:3]
    words = maps.view(np.uint64).reshape(-1)
    fixed = (position * np.float32(256)).astype(np.int32)
    limit = np.array([[nx - 2], [ny - 2], [nz - 2]], np.int32)
    fixed = np.clip(fixed, 0, limit * 256 + 255)
    cell, weight = fixed >> 8, (fixed & 255).astype(np.uint64)
    first = (cell[0] * ny + cell[1]) * nz + cell[2]
    lanes, half = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0080008000800080)
    eight, whole = np.uint64(8), np.uint64(256)
    corners = [words[first + ((i * ny + j) * nz + k)] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    result = np.empty((8, len(first)), np.float32)
    for odd in (0, 1):
        values = [((c >> eight) if odd else c) & lanes for c in corners]
        for w in weight[::-1]:  # z, y, x
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [((a * (whole - w) + b * w + half) >> eight) & lanes for a, b in pairs]
        result[odd::2] = values[0].view(np.uint16).reshape(-1, 4).T
    return result


class _Grid(NamedTuple):
    """The voxel centres of one image, mm."""

    x: np.ndarray  # [NX]
    y: np.ndarray  # [NY]
    z: np.ndarray  # [NZ]
    affine: np.ndarray  # [4, 4]
    lattice: Lattice


def _grid(slices: int, spacing: float, thickness: float) -> _Grid:
    """Lays `slices` slices evenly over the brain between the middle of the cerebellum and the vertex."""
    if slices < 1 or not 0.25 <= spacing <= 8 or not 0 < thickness <= 20:
        raise UsageError(
            f"phantom: expected slices >= 1, 0.25 <= spacing <= 8 and 0 < thickness <= 20 mm, "
            f"got {slices}, {spacing} and {thickness}"
        )
    x, y = (low + spacing * np.arange(int(np.ceil((high - low) / spacing))) for low, high in FIELD[:2])
    low, high = FIELD[2]
    gap = (high - low) / (slices - 1) if slices > 1 else thickness
    z = low + gap * np.arange(slices) if slices > 1 else np.array([(low + high) / 2])
    affine = np.diag([spacing, spacing, gap, 1.0])
    affine[:3, 3] = x[0], y[0], z[0]
    return _Grid(x, y, z, affine, Lattice(x, y))


class _Plane(NamedTuple):
    """Noise-free sample points of one thin plane; N points lie in or next to the brain."""

    inside: np.ndarray  # [NX * NY] bool, where the N points lie
    tissue: np.ndarray  # [8, N] fractions of CLASSES[:7], then outer CSF; sum 1
    depth: np.ndarray  # [N] mm below the surface
    signal: np.ndarray  # [N] brightness, ventricle = 1


def _plane(subject: _Subject, anatomy: Anatomy, lattice: Lattice, z: float) -> _Plane:
    """Samples one thin plane of the (possibly displaced) brain at z mm."""
    position = lattice.plane(subject.position, z).reshape(3, -1)
    fields = lattice.plane(subject.fields[:5], z).reshape(5, -1)
    nearest = np.rint(position).astype(np.int32)
    size = np.array(anatomy.maps.shape[1:])[:, None]
    inside = np.flatnonzero(((nearest >= 0) & (nearest < size)).all(axis=0))
    near = anatomy.maps[SURFACE][tuple(nearest[:, inside])] > 128 - SURFACE_STEP * (subject.strip + 5.0)
    inside = inside[near]
    fluid, white, texture, flow, strip = fields[:, inside]
    values = _fractions(anatomy, position[:, inside])
    depth = (values[SURFACE] - 128) / np.float32(SURFACE_STEP) + np.float32(subject.strip) + strip
    values[7] = np.maximum(255 - values[:7].sum(axis=0), 0) * fluid
    values[WHITE] *= white
    values[DEEP_WHITE] *= white
    tissue = values / (values.sum(axis=0) + np.float32(1e-3))
    means = subject.means.astype(np.float32)
    solid = sum(means[c] * tissue[c] for c in range(1, 7))
    signal = means[0] * tissue[0] + texture * solid + means[7] * flow * tissue[7]
    rim = np.clip(1 - depth / np.float32(subject.rim_depth), 0, 1) * (np.float32(0.4) + np.float32(0.6) * tissue[7])
    signal = signal + rim * (np.float32(subject.rim) - signal)
    return _Plane(inside, tissue, depth, signal)


def _survey(subject: _Subject, anatomy: Anatomy, grid: _Grid) -> lesions.Survey:
    """Looks at the healthy brain every 4 mm or so."""
    step = max(1, round(4.0 / (grid.x[1] - grid.x[0])))
    x, y = grid.x[::step], grid.y[::step]
    lattice = Lattice(x, y)
    across = np.array(np.meshgrid(x, y, indexing="ij")).reshape(2, -1)
    heights = grid.z[:: max(1, round(3.0 / max(grid.affine[2, 2], 0.5)))]
    planes = [_plane(subject, anatomy, lattice, z) for z in heights]
    points = np.concatenate(
        [np.vstack([across[:, p.inside], np.full(len(p.inside), z)]) for p, z in zip(planes, heights, strict=True)],
        1,
    )
    tissue = np.concatenate([p.tissue for p in planes], axis=1)
    tree = cKDTree(points[:, tissue[VENTRICLE] > 0.5].T)
    return lesions.Survey(
        points=points,
        depth=np.concatenate([p.depth for p in planes]),
        white=tissue[WHITE] + tissue[DEEP_WHITE],
        grey=tissue[CORTEX],
        from_ventricles=np.minimum(tree.query(points.T)[0], 99.0),
    )


def make_subject(
    anatomies: Sequence[Anatomy],
    seed: int,
    index: int,
    kind: str,
    *,
    slices: int = 24,
    spacing: float = 1.5,
    thickness: float = 4.0,
) -> Scan:
    """Makes one subject.

    Args:
      anatomies: what load_anatomies returned; the subject draws one of them.
      seed, index: name the subject; the same pair is the same brain whatever its kind.
      kind: one of KINDS.
      slices, spacing, thickness: axial slices evenly over the brain, pixel size in mm, slice thickness in mm.

    Returns:
      The skull-stripped scan, [124, 144, slices] at 1.5 mm: whole numbers, 0 outside the brain, at least 1
      inside. The lesion mask is all false for a healthy subject.
    """
    if kind not in KINDS:
        raise UsageError(f"phantom: expected a kind among {', '.join(KINDS)}, got {kind!r}")
    if not anatomies:
        raise UsageError("phantom: expected at least one anatomy, got none")
    grid = _grid(slices, spacing, thickness)
    stream, disease, noise = (_stream(seed, index, part) for part in range(3))
    anatomy = anatomies[int(stream.integers(len(anatomies)))]
    subject = _draw(stream, anatomy, grid.lattice)
    lesion = None
    if kind != "healthy":
        survey = _survey(subject, anatomy, grid)
        lesion = lesions.plan(kind, disease, survey, grid.lattice, subject.means)
        if lesion.displacement is not None:
            pushed = np.tensordot(subject.turn, lesion.displacement, 1)
            subject = subject._replace(position=subject.position - pushed)
    signal, depth, covered = _render(subject, anatomy, grid, lesion, thickness)
    parts, _ = ndimage.label(ndimage.binary_fill_holes(depth >= 0, np.ones((3, 3, 1))))
    brain = parts == np.bincount(parts.ravel())[1:].argmax() + 1  # without what skull stripping cut off
    image = _scan(subject, grid, signal, noise) * brain
    volume = Volume(
        data=image,
        affine=grid.affine,
        header=None,
        sha256=hashlib.sha256(image.tobytes()).hexdigest(),
        source=f"phantom:{kind}/{index}",
    )
    return Scan(volume, brain, (covered >= 0.5) & brain)


def _stream(seed: int, index: int, part: int) -> np.random.Generator:
    """Random numbers of one subject: part 0 shape and contrast, 1 disease, 2 noise."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, part])))


def _render(subject: _Subject, anatomy: Anatomy, grid: _Grid, lesion: lesions.Lesion | None, thickness: float):
    """Averages thin planes: signal, depth in mm, fraction covered by lesions, [NX, NY, NZ] float32 each."""
    shape = (len(grid.x), len(grid.y))
    across = np.array(np.meshgrid(grid.x, grid.y, indexing="ij"), np.float32).reshape(2, -1)
    offsets = thickness * ((np.arange(PLANES) + 0.5) / PLANES - 0.5)
    out = np.zeros((4, len(grid.z), shape[0] * shape[1]), np.float32)  # signal, depth, covered, painted
    out[1] = -99.0 * PLANES
    for k, z in enumerate(grid.z):
        for offset in offsets:
            plane = _plane(subject, anatomy, grid.lattice, z + offset)
            signal = plane.signal
            if lesion is not None:
                points = np.vstack([across[:, plane.inside], np.full(len(signal), z + offset, np.float32)])
                near = np.flatnonzero(lesions.reach(lesion, points))
                if len(near):
                    noise = grid.lattice.plane(lesion.noise, z + offset).reshape(3, -1)[:, plane.inside[near]]
                    fraction, painted = lesions.paint(
                        lesion, points[:, near], noise, plane.tissue[:, near], signal[near]
                    )
                    signal[near] *= 1 - fraction
                    out[2, k, plane.inside[near]] += fraction
                    out[3, k, plane.inside[near]] += painted
            out[0, k, plane.inside] += signal
            out[1, k, plane.inside] += plane.depth + 99
    signal, depth, covered, painted = np.moveaxis(out.reshape(4, -1, *shape), 1, -1) / np.float32(PLANES)
    if lesion is not None:
        signal = lesions.blend(lesion, signal, depth >= 0, covered, painted, grid.x[1] - grid.x[0])
    return signal, depth, covered


def _scan(subject: _Subject, grid: _Grid, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, bias field, Rician noise and whole numbers: the scanner, [NX, NY, NZ] float32."""
    side = np.float32((subject.blur / (grid.x[1] - grid.x[0])) ** 2 / 2)  # of the kernel (side, 1 - 2 side, side)
    for axis in (0, 1):
        signal = signal + min(side, np.float32(1 / 3)) * (
            np.roll(signal, 1, axis) + np.roll(signal, -1, axis) - 2 * signal
        )
    bias = np.stack([grid.lattice.plane(subject.fields[5], z) for z in grid.z], axis=-1)
    real, imaginary = np.float32(subject.noise) * rng.standard_normal((2, *signal.shape), np.float32)
    signal = signal * bias + real
    return np.clip(np.rint(np.float32(subject.scale) * np.sqrt(signal * signal + imaginary * imaginary)), 1, 32767)


def make_cohort(
    anatomies: Sequence[Anatomy],
    seed: int,
    indices: Sequence[int],
    kinds: Sequence[str],
    *,
    workers: int = 2,
    progress: bool = True,
    **image_settings,
) -> Iterator[Scan]:
    """Makes subjects in order, a few ahead of the reader; results do not depend on the number of workers.

    Args:
      indices, kinds: of equal length, one pair for each subject.
      workers: threads. NumPy frees the interpreter while it computes; threads share the anatomies and, unlike
        forked processes, live well beside JAX.
      progress: whether to show a bar with the time left.
      image_settings: slices, spacing and thickness of make_subject.
    """
    jobs = list(zip(indices, kinds, strict=True))
    make = functools.partial(make_subject, anatomies, seed, **image_settings)
    bar = tqdm(total=len(jobs), desc="phantom", unit="subject", disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Scan]] = deque()
        for job in jobs + [None] * (2 * workers):
            if job is not None:
                ahead.append(pool.submit(make, *job))
            if ahead and (job is None or len(ahead) > 2 * workers):
                scan = ahead.popleft().result()
                bar.update()
                yield scan


def write_bids(
    folder: str | Path,
    anatomies: Sequence[Anatomy],
    seed: int,
    indices: Sequence[int],
    kinds: Sequence[str],
    *,
    workers: int = 2,
    progress: bool = True,
    **image_settings,
) -> list[Path]:
    """Writes subjects as a BIDS data set: the arguments are make_cohort's.

    Returns:
      The paths of the T2w images. Masks lie beside them: `..._desc-brain_mask` and `..._label-lesion_mask`.
    """
    folder = Path(folder)
    description = {
        "Name": "lgjax phantom: synthetic T2-weighted brains",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "lgjax.data.phantom", "Description": f"seed {seed}, settings {image_settings}"}],
    }
    written, rows = [], ["participant_id\tlesion_kind\tlesion_mm3"]
    cohort = make_cohort(anatomies, seed, indices, kinds, workers=workers, progress=progress, **image_settings)
    for index, kind, scan in zip(indices, kinds, cohort, strict=True):
        name = f"sub-{index:04d}"
        anat = folder / name / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        lesion = np.zeros_like(scan.brain) if scan.lesion is None else scan.lesion
        nifti.write(anat / f"{name}_T2w.nii.gz", scan.image.data, scan.image, np.float32)
        nifti.write(anat / f"{name}_desc-brain_mask.nii.gz", scan.brain, scan.image, np.uint8)
        nifti.write(anat / f"{name}_label-lesion_mask.nii.gz", lesion, scan.image, np.uint8)
        rows.append(f"{name}\t{kind}\t{lesion.sum() * np.prod(scan.image.zooms):.0f}")
        written.append(anat / f"{name}_T2w.nii.gz")
    atomic_write(folder / "participants.tsv", "\n".join(rows) + "\n")
    atomic_write(folder / "dataset_description.json", json.dumps(description, indent=2) + "\n")
    return written
