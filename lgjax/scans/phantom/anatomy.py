"""The heads that synthetic brains are made from: tissue maps in one frame and one format.

    anatomies = load_anatomies(None)  # the MNI152 templates inside nilearn
    anatomies = load_anatomies("/data/aseg")  # a folder of FreeSurfer-style label maps, one head each

Either way each voxel gets eight bytes: the fractions of seven tissues (CLASSES), which leave room for outer CSF,
and the depth below the brain's surface. MNI152 has only grey and white matter; deep grey matter and ventricles are
told apart by their place. Label maps are turned rigidly so that their deep grey matter lies where MNI152 has it;
their voxel size stays. Nothing here is random: what differs between subjects is drawn in lgjax.scans.phantom.draw.
"""

import functools
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from lgjax.runtime import progress
from lgjax.runtime.errors import InputError
from lgjax.scans.phantom import cache, heads

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
_LOADING = threading.Lock()
SURFACE_STEP = 16.0  # the surface map stores 128 + 16 times the depth below the brain's surface in mm


class Anatomy(NamedTuple):
    """Tissue maps of one head in a frame close to MNI: x to the right, y to the front, z up."""

    maps: np.ndarray  # [8, X, Y, Z] uint8: fractions of CLASSES in 1/255 (the rest is outer CSF), and the surface
    affine: np.ndarray  # [4, 4] voxel -> mm
    top: float  # mm, height above which the brain's cross-section is under 50 cm^2


def load_anatomies(labels: str | None, split: str = "train") -> list[Anatomy]:
    """Loads the heads that the subjects of a split are made from.

    Args:
      labels: a folder of FreeSurfer-style label maps (*.nii, *.nii.gz, *.mgz, in subfolders too); None: the
        MNI152 templates inside nilearn.
      split: of the label maps, see `heads.of_split`.

    Raises:
      InputError: the folder is missing, holds no label map, or a file is no label map of a brain.
    """
    with _LOADING:  # threads that ask at once would each load them
        if labels is None:
            return [_mni()]
        found = heads.find(labels)
        return list(_load(tuple(found[head] for head in heads.of_split(found, split))))


@functools.lru_cache(maxsize=2)
def _load(files: tuple[Path, ...]) -> tuple[Anatomy, ...]:
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(_from_labels, files)
        return tuple(made if len(files) < 4 else progress.track(made, "label maps", len(files), "map"))


def _from_labels(file: Path) -> Anatomy:
    """Reads one FreeSurfer-style label map as tissue maps, its deep grey structures on their MNI places."""
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
    """Finds the rigid voxel -> mm map, [4, 4], that lays deep grey structures on their MNI places (Kabsch)."""
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
    """Finds the height in mm above which the brain, maps [X, Y, Z, 8], is smaller than 50 cm^2 across."""
    step = 3
    inside = np.argwhere(maps[::step, ::step, ::step, SURFACE] >= 128) * step
    heights = np.floor(inside @ affine[2, :3] + affine[2, 3]).astype(int)
    area = np.bincount(heights - heights.min()) * abs(np.linalg.det(affine[:3, :3])) * step**3  # mm^2 of 1 mm planes
    area = np.convolve(area, np.full(5, 0.2), "same")
    return float(heights.min() + np.flatnonzero(area > 5000).max())


@functools.cache
def _mni() -> Anatomy:
    """Reads the head of the MNI152 templates from the cache, or makes it and keeps it there; either way the same bits.

    In the cache are about 5 MB.
    """
    return _decode(cache.get(f"{cache.code()}.head", "head", lambda: _encode(_from_templates())))


def _encode(head: Anatomy) -> bytes:
    """Packs a head."""
    stream = io.BytesIO()
    np.savez_compressed(stream, maps=np.moveaxis(head.maps, 0, -1), affine=head.affine, top=head.top)
    return stream.getvalue()


def _decode(content: bytes) -> Anatomy:
    """Inverts `_encode`; the eight bytes of a voxel lie together, as subjects are made from them."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Anatomy(np.moveaxis(arrays["maps"], -1, 0), arrays["affine"], float(arrays["top"]))


def _from_templates() -> Anatomy:
    """Loads the MNI152 templates, sharpened; deep grey matter and ventricles are told apart by their place."""
    from nilearn import datasets  # heavy: only who makes the head pays for it

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
