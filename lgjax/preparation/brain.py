"""Where the brain is: a given mask, what a skull-stripped scan leaves, or what an installed tool finds in a head."""

import pathlib
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lgjax.preparation import padding
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import nifti, orientation
from lgjax.scans.volume import Volume

_MIN_BRAIN = 1.0  # ml
_MAX_BRAIN = 2500.0  # ml; the largest heads hold about 2000 ml inside the skull
_MAX_COVERAGE = 0.95  # of the volume, by a mask
_LEAST_SHARE, _HEAD = 0.15, 2000.0  # a brain mask holds at least this share of what is imaged, or of so many ml
_MIN_BACKGROUND = 0.15  # of the volume, in a scan without its skull; a slab cropped to the brain has 0.21
_MIN_COMPONENT = 0.01  # of the largest one
_MAX_OVERSHOOT = 0.01  # of the brain: values below background that spline resampling leaves around it
_GIVE_MASK = (
    "Give a brain mask (--mask, or X_mask.nii.gz beside X.nii.gz), or install hd-bet or mri_synthstrip, which are used "
    "where they are on the PATH"
)
STRIPPERS = {  # command -> its arguments for a scan, and the name of the mask it writes
    "hd-bet": (["-i", "scan.nii.gz", "-o", "out.nii.gz", "--save_bet_mask", "--no_bet_image"], "out_bet.nii.gz"),
    "mri_synthstrip": (["-i", "scan.nii.gz", "-m", "out_mask.nii.gz"], "out_mask.nii.gz"),
}


class Brain(NamedTuple):
    """A brain mask and its origin."""

    mask: np.ndarray  # [X, Y, Z] bool
    origin: str  # given, background or the name of a tool
    note: str = ""  # what a reader of the result should know of the background


def find_brain(
    image: Volume, mask: Volume | None = None, stripper: str = "none", scratch: pathlib.Path | None = None
) -> Brain:
    """Finds the brain: the given mask, what is not background in a skull-stripped scan, or what a tool says.

    Args:
      image: the scan.
      mask: 0 outside the brain and one positive value inside, on the grid of the scan; None: derive it.
      stripper: the tool for scans with their skull: auto (what is on the PATH), hd-bet, mri_synthstrip or none.
      scratch: where a folder for the tool is made and removed again; None: the system's place for such.

    Raises:
      InputError: the mask is empty, tiny, covers nearly everything, is not binary or on another grid; the scan is
        constant; or it still has its skull and no tool finds the brain.
      UsageError: the tool asked for is not there.
    """
    if mask is not None:
        return Brain(_checked(image, mask), "given")
    inside, problem, note = _without_background(image)
    if not problem:
        return Brain(_plausible(image, inside, image.source, _GIVE_MASK), "background", note)
    tool = find_tool(stripper)
    if tool is None:
        raise InputError(image.source, problem, _GIVE_MASK)
    with tempfile.TemporaryDirectory(prefix=".stripping-", dir=scratch) as folder:
        return Brain(_checked(image, _strip(image, tool, pathlib.Path(folder))), tool)


def misfit(image: Volume, mask: Volume) -> str:
    """Says in a few words why a volume that is called a mask is no brain mask of a scan; "": it is one."""
    try:
        _checked(image, mask)
    except InputError as fault:
        return fault.problem.replace(image.source, "the scan").partition(": shape and affine")[0]
    return small(image, mask)


def small(image: Volume, mask: Volume) -> str:
    """Says that a mask holds so little of what is imaged that it may be that of a lesion; "": it does not."""
    volume, imaged = (
        image.voxel_ml * np.count_nonzero(each) for each in (mask.data, image.data != image.data[0, 0, 0])
    )
    if volume >= _LEAST_SHARE * min(imaged, _HEAD):
        return ""
    return f"holds {volume:.1f} of the {imaged:.0f} ml imaged: a lesion's mask, it seems"


def find_tool(stripper: str) -> str | None:
    """Finds the tool that strips skulls; None where there is or should be none.

    Args:
      stripper: auto (what is on the PATH), hd-bet, mri_synthstrip or none.

    Raises:
      UsageError: the stripper is unknown or not there.
    """
    if stripper == "none":
        return None
    if stripper != "auto" and (stripper not in STRIPPERS or shutil.which(stripper) is None):
        known = f"known are auto, none, {', '.join(STRIPPERS)}"
        why = "is not on the PATH" if stripper in STRIPPERS else f"is no tool to strip skulls with; {known}"
        raise UsageError(f"brain.stripper={stripper}: {stripper} {why}.")
    return stripper if stripper != "auto" else next(filter(shutil.which, STRIPPERS), None)


def _strip(image: Volume, tool: str, folder: pathlib.Path) -> Volume:
    """Calls the tool on a copy of the scan in `folder` and reads the mask it writes."""
    arguments, output = STRIPPERS[tool]
    nifti.write(folder / "scan.nii.gz", np.nan_to_num(image.data, posinf=0, neginf=0), image, np.float32)
    called = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, errors="replace")
    if called.returncode or not (folder / output).exists():
        said = (called.stderr or called.stdout).strip().splitlines() or ["it said nothing"]
        problem = f"has its skull, and {tool} failed with exit code {called.returncode}: {said[-1]}"
        raise InputError(image.source, problem, "Try it by hand, or give a brain mask")
    found = nifti.read(folder / output)
    return Volume(found.data, found.affine, None, found.sha256, f"the mask that {tool} made of {image.source}")


def _checked(image: Volume, mask: Volume) -> np.ndarray:
    """Returns the voxels of a mask, [X, Y, Z] bool; raises InputError where the volume is no brain mask of the scan."""
    nifti.check_same_grid(image, mask)
    inside = mask.data != 0
    values = mask.data[inside]
    if values.size and not (values[0] > 0 and (values == values[0]).all()):
        raise InputError(mask.source, "is not a binary mask", "Give a mask that is 0 outside and 1 inside the brain")
    return _plausible(image, inside, mask.source, "Check that it is the brain mask of this scan")


def _plausible(image: Volume, inside: np.ndarray, source: str, remedy: str) -> np.ndarray:
    count = np.count_nonzero(inside)  # of booleans, several times faster than their sum
    volume = count * image.voxel_ml
    if volume < _MIN_BRAIN:
        raise InputError(source, f"has a brain of {volume:.2g} ml", remedy)
    if count > _MAX_COVERAGE * inside.size:
        raise InputError(source, f"is a mask that covers {count / inside.size:.1%} of the volume", remedy)
    return inside


def _without_background(image: Volume) -> tuple[np.ndarray, str, str]:
    """Finds the voxels that differ from a flat background.

    Returns:
      The voxels, [X, Y, Z] bool; why they are no brain, "" if they may be one; and a note on padding, "" without any.
    """
    data = image.data
    axial = orientation.axial_axis(image.affine)
    planes = np.moveaxis(data, axial, 2)  # slices may end inside the brain, so the border is the in-plane one
    border = np.concatenate([side.ravel() for side in (planes[0], planes[-1], planes[:, 0], planes[:, -1])])
    background = np.partition(border, border.size // 2)[border.size // 2]  # the median; NaN sorts last
    flat = np.isnan(data) if np.isnan(background) else data == background  # SPM writes NaN around the brain
    if flat.all():
        problem = "is NaN" if np.isnan(background) else "has the same value"
        raise InputError(image.source, f"{problem} in every voxel", "Check that this is the right file")
    brain, size, note = ~flat, data.size, ""
    found = padding.find(data, axial, background)
    if found:
        background, flat = found.background, found.flat
        brain, padded = ~(flat | found.padded), int(found.padded.sum())
        if not brain.any():
            raise InputError(image.source, "holds nothing but constant blocks", "Check that this is the right file")
        size -= padded
        values = ", ".join(f"{value:g}" for value in found.values)
        note = f"{padded * image.voxel_ml:.0f} ml of the constant value {values} at the border count as background"
    below = brain & np.isfinite(data) & (data < background)
    if np.count_nonzero(below) <= _MAX_OVERSHOOT * np.count_nonzero(brain):
        brain &= ~below
    volume = np.count_nonzero(brain) * image.voxel_ml
    if np.count_nonzero(flat) < _MIN_BACKGROUND * size or volume > _MAX_BRAIN:
        return brain, f"still has its skull, it seems: {volume:.0f} ml differ from the background", note
    return _without_crumbs(brain), "", note


def _without_crumbs(brain: np.ndarray) -> np.ndarray:
    """Removes the components of a mask, [X, Y, Z] bool, that are small beside the largest one."""
    kept = orientation.zeros(brain, bool)
    if brain.any():
        box = orientation.box(brain)
        labels, count = ndimage.label(brain[box].T)  # files are written from the last axis on
        if count == 1:
            return brain
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        kept[box] = (sizes >= _MIN_COMPONENT * sizes.max())[labels].T
        kept &= brain
    return kept
