"""The embedded data set: synthetic T2-weighted brains, healthy and with lesions.

    anatomies = load_anatomies(None)
    scan = make_subject(anatomies, seed=0, index=3, kind="glioma")

Anatomies are tissue maps: the MNI152 templates that nilearn ships, or a folder of FreeSurfer label maps
(`anatomy`). Each subject draws a contrast, a smooth deformation and a scanner from its own stream, keyed by
(seed, index): the same subject comes out in any order, in any number of workers, and a patient is its own
healthy twin outside the lesion. Single precision is used only with +, -, *, / and square roots, whose rounding
every machine shares; the rest is double precision, rounded to whole numbers at the end.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from tqdm import tqdm

from lgjax.runtime import parallel
from lgjax.runtime.errors import UsageError
from lgjax.runtime.files import atomic_write
from lgjax.scans import nifti
from lgjax.scans.phantom import lesions
from lgjax.scans.phantom.anatomy import CORTEX, DEEP_WHITE, SURFACE, SURFACE_STEP, VENTRICLE, WHITE, Anatomy
from lgjax.scans.phantom.anatomy import load_anatomies as load_anatomies  # callers find it beside make_subject
from lgjax.scans.phantom.lattice import FIELD, Lattice
from lgjax.scans.volume import Scan, Volume

KINDS = ("healthy", "glioma", "ms", "dark", "isointense")
PLANES = 2  # thin planes averaged over one slice's thickness


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
    """Lays `slices` slices evenly over FIELD's heights, from the lower cerebellum to just below the vertex.

    The lowest slices can lie under a small brain, or under a label map that ends early: those are empty.
    """
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
      slices, spacing, thickness: axial slices evenly from the lower cerebellum to just below the vertex, pixel size
        in mm, slice thickness in mm.

    Returns:
      The skull-stripped scan, [124, 144, slices] at 1.5 mm: whole numbers, 0 outside the brain, at least 1
      inside. Some heads end above the lowest slices, which are then all 0. The lesion mask is all false for a
      healthy subject.
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
    scans = parallel.ahead(lambda job: make(*job), jobs, workers)
    yield from tqdm(scans, "phantom", len(jobs), unit="subject", disable=not progress)


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
        "GeneratedBy": [{"Name": "lgjax.scans.phantom.draw", "Description": f"seed {seed}, settings {image_settings}"}],
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
