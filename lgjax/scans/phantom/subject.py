"""One synthetic subject, healthy or with lesions, from its seed and index."""

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lgjax.runtime.errors import UsageError
from lgjax.scans.phantom import hard, lesions
from lgjax.scans.phantom.anatomy import Anatomy
from lgjax.scans.phantom.draw import UPRIGHT, Drawn, draw, foreign, tilt
from lgjax.scans.phantom.render import Grid, make_grid, render, scan_of, survey
from lgjax.scans.volume import Scan, Volume

KINDS = ("healthy", "glioma", "ms", "dark", "isointense")
HARD = (*hard.KINDS, "tilted", "contrast")  # the last two: gliomas in unusual heads
COVERED = 0.5  # of a voxel's volume, from which on the voxel is lesion
DISPLACED = 0.1  # standard deviations of the healthy brain; a voxel that a mass effect changed by more is displaced


def make_subject(
    anatomies: Sequence[Anatomy],
    seed: int,
    index: int,
    kind: str,
    *,
    twin: bool = False,
    slices: int = 24,
    spacing: float = 1.5,
    thickness: float = 4.0,
    gap: float | None = None,
) -> Scan:
    """Makes one subject.

    Args:
      anatomies: what load_anatomies returned; the subject draws one of them.
      seed, index: name the subject; the same pair is the same brain whatever its kind.
      kind: one of KINDS or HARD.
      twin: makes the healthy brain of a patient in place of the patient: same head, contrast, scanner and noise.
      slices, spacing, thickness: axial slices evenly from the lower cerebellum to just below the vertex, pixel size
        in mm, slice thickness in mm.
      gap: mm between two slices, in place of a number of slices: as many are made as reach above the vertex. With a
        gap, the pair of seed and index is another brain than without.

    Returns:
      The skull-stripped scan, [124, 144, slices] at 1.5 mm: whole numbers, 0 outside the brain, at least 1
      inside. Some heads end above the lowest slices, which are then all 0. The masks of the lesion and of what it
      displaces are all false for a healthy subject.
    """
    if kind not in KINDS + HARD:
        raise UsageError(f"phantom: expected a kind among {', '.join(KINDS + HARD)}, got {kind!r}")
    if not anatomies:
        raise UsageError("phantom: expected at least one anatomy, got none")
    grid = make_grid(slices, spacing, thickness, gap)
    shape, disease = (stream(seed, index, part) for part in range(2))
    anatomy = anatomies[int(shape.integers(len(anatomies)))]
    unusual = stream(seed, index, 3)
    healthy = draw(shape, anatomy, grid.lattice, tilt(unusual) if kind == "tilted" else UPRIGHT)
    lesion = None if twin or kind == "healthy" else _plan(kind, disease, healthy, anatomy, grid)
    if kind == "contrast":
        healthy, lesion = _recontrasted(healthy, lesion, foreign(unusual))
    subject = healthy
    if lesion is not None and lesion.displacement is not None:
        pushed = np.tensordot(healthy.turn, lesion.displacement, 1)
        subject = healthy._replace(position=healthy.position - pushed)
    image, covered = _scanned(subject, anatomy, grid, lesion, thickness, stream(seed, index, 2))
    brain = image > 0
    inside = (covered >= COVERED) & brain
    displaced = np.zeros_like(brain)
    if subject is not healthy:
        before, _ = _scanned(healthy, anatomy, grid, None, thickness, stream(seed, index, 2))
        displaced = brain & ~inside & (np.abs(image - before) > DISPLACED * before[before > 0].std(dtype=np.float64))
    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    volume = Volume(
        data=image,
        affine=grid.affine,
        header=None,
        sha256=sha256,
        source=f"phantom:{'healthy' if twin else kind}/{index}",
    )
    return Scan(volume, brain, inside, displaced)


def _plan(kind: str, rng: np.random.Generator, healthy: Drawn, anatomy: Anatomy, grid: Grid) -> lesions.Lesion:
    """Draws the lesions of a kind in a healthy head."""
    planner = hard.plan if kind in hard.KINDS else lesions.plan
    disease = kind if kind in KINDS + hard.KINDS else "glioma"
    return planner(disease, rng, survey(healthy, anatomy, grid), grid.lattice, healthy.means)


def _recontrasted(
    healthy: Drawn, lesion: lesions.Lesion | None, exponent: float
) -> tuple[Drawn, lesions.Lesion | None]:
    """Raises the brightness of all tissues and of the lesion to a power: the order stays, the ratios do not."""
    healthy = healthy._replace(means=healthy.means**exponent, rim=healthy.rim**exponent)
    return healthy, lesion and lesion._replace(levels=lesion.levels**exponent)


def _scanned(
    subject: Drawn, anatomy: Anatomy, grid: Grid, lesion: lesions.Lesion | None, thickness: float, noise
) -> tuple[np.ndarray, np.ndarray]:
    """Scans a subject and strips the skull: the image, 0 outside the brain, and the fraction covered by lesions."""
    signal, depth, covered = render(subject, anatomy, grid, lesion, thickness)
    parts, _ = ndimage.label(ndimage.binary_fill_holes(depth >= 0, np.ones((3, 3, 1))))
    brain = parts == np.bincount(parts.ravel())[1:].argmax() + 1  # without what skull stripping cut off
    return scan_of(subject, grid, signal, noise) * brain, covered


def stream(seed: int, index: int, part: int) -> np.random.Generator:
    """Returns the random generator of one subject: part 0 shape and contrast, 1 disease, 2 noise, 3 tilt, contrast."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, part])))
