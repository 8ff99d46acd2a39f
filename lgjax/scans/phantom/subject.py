"""One synthetic subject, healthy or with lesions, from its seed and index."""

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lgjax.runtime.errors import UsageError
from lgjax.scans.phantom import lesions
from lgjax.scans.phantom.anatomy import Anatomy
from lgjax.scans.phantom.draw import Drawn, draw
from lgjax.scans.phantom.render import Grid, make_grid, render, scan_of, survey
from lgjax.scans.volume import Scan, Volume

KINDS = ("healthy", "glioma", "ms", "dark", "isointense")
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
      kind: one of KINDS.
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
    if kind not in KINDS:
        raise UsageError(f"phantom: expected a kind among {', '.join(KINDS)}, got {kind!r}")
    if not anatomies:
        raise UsageError("phantom: expected at least one anatomy, got none")
    grid = make_grid(slices, spacing, thickness, gap)
    shape, disease = (stream(seed, index, part) for part in range(2))
    anatomy = anatomies[int(shape.integers(len(anatomies)))]
    healthy = draw(shape, anatomy, grid.lattice)
    kind = "healthy" if twin else kind
    lesion, subject = None, healthy
    if kind != "healthy":
        looked = survey(healthy, anatomy, grid)
        lesion = lesions.plan(kind, disease, looked, grid.lattice, healthy.means)
        if lesion.displacement is not None:
            pushed = np.tensordot(healthy.turn, lesion.displacement, 1)
            subject = healthy._replace(position=healthy.position - pushed)
    image, covered = _scanned(subject, anatomy, grid, lesion, thickness, stream(seed, index, 2))
    brain = image > 0
    inside = (covered >= COVERED) & brain
    displaced = np.zeros_like(brain)
    if subject is not healthy:
        twin, _ = _scanned(healthy, anatomy, grid, None, thickness, stream(seed, index, 2))
        displaced = brain & ~inside & (np.abs(image - twin) > DISPLACED * twin[twin > 0].std(dtype=np.float64))
    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    volume = Volume(data=image, affine=grid.affine, header=None, sha256=sha256, source=f"phantom:{kind}/{index}")
    return Scan(volume, brain, inside, displaced)


def _scanned(
    subject: Drawn, anatomy: Anatomy, grid: Grid, lesion: lesions.Lesion | None, thickness: float, noise
) -> tuple[np.ndarray, np.ndarray]:
    """Scans a subject and strips the skull: the image, 0 outside the brain, and the fraction covered by lesions."""
    signal, depth, covered = render(subject, anatomy, grid, lesion, thickness)
    parts, _ = ndimage.label(ndimage.binary_fill_holes(depth >= 0, np.ones((3, 3, 1))))
    brain = parts == np.bincount(parts.ravel())[1:].argmax() + 1  # without what skull stripping cut off
    return scan_of(subject, grid, signal, noise) * brain, covered


def stream(seed: int, index: int, part: int) -> np.random.Generator:
    """Returns the random generator of one subject: part 0 shape and contrast, 1 disease, 2 noise."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, part])))
