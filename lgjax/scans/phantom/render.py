"""Images of drawn subjects: thin planes of tissue, their signal, and the scan that a scanner makes of them."""

from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy.spatial import cKDTree

from lgjax.runtime.errors import UsageError
from lgjax.scans.phantom import lesions
from lgjax.scans.phantom.anatomy import CORTEX, DEEP_WHITE, SURFACE, SURFACE_STEP, VENTRICLE, WHITE, Anatomy
from lgjax.scans.phantom.draw import Drawn
from lgjax.scans.phantom.lattice import FIELD, VERTEX, Lattice

PLANES = 2  # thin planes averaged over one slice's thickness


def _fractions(anatomy: Anatomy, position: np.ndarray) -> np.ndarray:
    """Interpolates all maps at once, trilinearly, in integers, the same on every machine.

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


class Grid(NamedTuple):
    """The voxel centres of one image, mm."""

    x: np.ndarray  # [NX]
    y: np.ndarray  # [NY]
    z: np.ndarray  # [NZ]
    affine: np.ndarray  # [4, 4]
    lattice: Lattice


def make_grid(slices: int, spacing: float, thickness: float, gap: float | None = None) -> Grid:
    """Lays slices over the brain, from the lower cerebellum upwards: `slices` evenly, or as many as a gap allows.

    Without a gap they end at FIELD's height, just below the vertex; with one, above the vertex. The lowest slices can
    lie under a small brain, or under a label map that ends early: those are empty.
    """
    if slices < 1 or not 0.25 <= spacing <= 8 or not 0.25 <= thickness <= 20 or not 0 <= (gap or 0) <= 20:
        raise UsageError(
            f"phantom: expected slices >= 1, 0.25 <= spacing <= 8, 0.25 <= thickness <= 20 and 0 <= gap <= 20 mm, "
            f"got {slices}, {spacing}, {thickness} and {gap}"
        )
    x, y = (low + spacing * np.arange(int(np.ceil((high - low) / spacing))) for low, high in FIELD[:2])
    low, high = FIELD[2][0], FIELD[2][1] if gap is None else VERTEX
    if gap is None:
        step = (high - low) / (slices - 1) if slices > 1 else thickness
        z = low + step * np.arange(slices) if slices > 1 else np.array([(low + high) / 2])
    else:
        step = thickness + gap
        z = np.arange(low, high, step)
    affine = np.diag([spacing, spacing, step, 1.0])
    affine[:3, 3] = x[0], y[0], z[0]
    return Grid(x, y, z, affine, Lattice(x, y, high))


class _Plane(NamedTuple):
    """Noise-free sample points of one thin plane; N points lie in or next to the brain."""

    inside: np.ndarray  # [NX * NY] bool, where the N points lie
    tissue: np.ndarray  # [8, N] fractions of CLASSES[:7], then outer CSF; sum 1
    depth: np.ndarray  # [N] mm below the surface
    signal: np.ndarray  # [N] brightness, ventricle = 1


def _plane(subject: Drawn, anatomy: Anatomy, lattice: Lattice, z: float) -> _Plane:
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


def survey(subject: Drawn, anatomy: Anatomy, grid: Grid) -> lesions.Survey:
    """Looks at the healthy brain every 4 mm or so."""
    step = max(1, round(4.0 / (grid.x[1] - grid.x[0])))
    x, y = grid.x[::step], grid.y[::step]
    lattice = Lattice(x, y, grid.lattice.top)
    across = np.array(np.meshgrid(x, y, indexing="ij")).reshape(2, -1)
    heights = grid.z[:: max(1, round(3.0 / max(grid.affine[2, 2], 0.5)))]
    planes = [_plane(subject, anatomy, lattice, z) for z in heights]
    points = np.concatenate(
        [np.vstack([across[:, p.inside], np.full(len(p.inside), z)]) for p, z in zip(planes, heights, strict=True)],
        1,
    )
    tissue = np.concatenate([p.tissue for p in planes], axis=1)
    voxels = [
        lattice.plane(subject.position, z).reshape(3, -1)[:, p.inside] for p, z in zip(planes, heights, strict=True)
    ]
    tree = cKDTree(points[:, tissue[VENTRICLE] > 0.5].T)
    return lesions.Survey(
        points=points,
        depth=np.concatenate([p.depth for p in planes]),
        white=tissue[WHITE] + tissue[DEEP_WHITE],
        grey=tissue[CORTEX],
        from_ventricles=np.minimum(tree.query(points.T)[0], 99.0),
        native=nib.affines.apply_affine(anatomy.affine, np.concatenate(voxels, axis=1).T).T,
    )


def render(subject: Drawn, anatomy: Anatomy, grid: Grid, lesion: lesions.Lesion | None, thickness: float):
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


def scan_of(subject: Drawn, grid: Grid, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulates the scanner: blur, bias field, Rician noise and whole numbers, [NX, NY, NZ] float32."""
    side = np.float32((subject.blur / (grid.x[1] - grid.x[0])) ** 2 / 2)  # of the kernel (side, 1 - 2 side, side)
    for axis in (0, 1):
        signal = signal + min(side, np.float32(1 / 3)) * (
            np.roll(signal, 1, axis) + np.roll(signal, -1, axis) - 2 * signal
        )
    bias = np.stack([grid.lattice.plane(subject.fields[5], z) for z in grid.z], axis=-1)
    real, imaginary = np.float32(subject.noise) * rng.standard_normal((2, *signal.shape), np.float32)
    signal = signal * bias + real
    return np.clip(np.rint(np.float32(subject.scale) * np.sqrt(signal * signal + imaginary * imaginary)), 1, 32767)
