"""One synthetic subject, healthy or with lesions, from its seed and index."""

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lgjax.runtime.errors import UsageError
from lgjax.scans.phantom import lesions
from lgjax.scans.phantom.anatomy import Anatomy
from lgjax.scans.phantom.draw import draw
from lgjax.scans.phantom.render import make_grid, render, scan_of, survey
from lgjax.scans.volume import Scan, Volume

KINDS = ("healthy", "glioma", "ms", "dark", "isointense")


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
    grid = make_grid(slices, spacing, thickness)
    shape, disease, noise = (stream(seed, index, part) for part in range(3))
    anatomy = anatomies[int(shape.integers(len(anatomies)))]
    subject = draw(shape, anatomy, grid.lattice)
    lesion = None
    if kind != "healthy":
        looked = survey(subject, anatomy, grid)
        lesion = lesions.plan(kind, disease, looked, grid.lattice, subject.means)
        if lesion.displacement is not None:
            pushed = np.tensordot(subject.turn, lesion.displacement, 1)
            subject = subject._replace(position=subject.position - pushed)
    signal, depth, covered = render(subject, anatomy, grid, lesion, thickness)
    parts, _ = ndimage.label(ndimage.binary_fill_holes(depth >= 0, np.ones((3, 3, 1))))
    brain = parts == np.bincount(parts.ravel())[1:].argmax() + 1  # without what skull stripping cut off
    image = scan_of(subject, grid, signal, noise) * brain
    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    volume = Volume(data=image, affine=grid.affine, header=None, sha256=sha256, source=f"phantom:{kind}/{index}")
    return Scan(volume, brain, (covered >= 0.5) & brain)


def stream(seed: int, index: int, part: int) -> np.random.Generator:
    """Returns the random generator of one subject: part 0 shape and contrast, 1 disease, 2 noise."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, part])))
