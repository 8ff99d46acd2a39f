"""The one path of every scan: brain, bias field, histogram, z-score, slices, and back to its own intensities."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.preparation import bias, histogram
from lgjax.preparation.brain import Brain, find_brain, misfit, small
from lgjax.preparation.histogram import Histogram, Transfer
from lgjax.preparation.recipe import Recipe, bias_json
from lgjax.preparation.slices import Placement, Slices, clean, saturate, to_slices
from lgjax.runtime.errors import InputError
from lgjax.scans import orientation
from lgjax.scans.sources import Subject
from lgjax.scans.volume import Volume

LOG = logging.getLogger(__name__)


class Corrected(NamedTuple):
    """A scan with its brain found and its bias field known: all that needs no cohort."""

    image: Volume  # finite everywhere, in the scan's own intensities
    filled: int  # voxels of the brain that were NaN or infinite
    brain: Brain
    field: np.ndarray | None  # [X, Y, Z] float32: the scan is this much too bright; None: nothing to remove

    def intensities(self) -> np.ndarray:
        """Returns the scan without its bias field, [X, Y, Z] float32."""
        return self.image.data if self.field is None else self.image.data / self.field


class Prepared(NamedTuple):
    """A scan ready to be restored, and the way back."""

    image: Volume  # finite everywhere, in the scan's own intensities
    filled: int  # voxels of the brain that were NaN or infinite
    slices: Slices
    placement: Placement
    brain_from: str = "given"  # or background, or the name of a tool
    field: np.ndarray | None = None  # the bias field that was removed, as in Corrected
    transfer: Transfer | None = None  # the change of intensities by histogram matching, after the field was removed
    saturation: tuple[float, float] | None = None  # as in Recipe


def correct(subject: Subject, recipe: Recipe, scratch: pathlib.Path | None = None) -> Corrected:
    """Reads one subject, finds its brain and estimates its bias field.

    Args:
      subject: a raw scan, or one whose bias field was removed before with the same settings.
      recipe: its grid and histogram have no say.
      scratch: a folder of the user's choice for what an external tool needs.

    Raises:
      InputError: the scan or its mask cannot be used.
    """
    image = subject.image()
    mask, doubt = _mask(subject, image)
    try:
        brain = find_brain(image, mask, recipe.stripper, scratch)
    except InputError as fault:
        if mask or not doubt:
            raise
        raise InputError(fault.path, f"{fault.problem}; {doubt}", fault.remedy) from fault
    data, filled = clean(image, brain.mask)
    doubts = tuple(f"brain mask: {warning}" for warning in mask.warnings) if mask else ()
    doubts = (*doubts, *filter(None, (doubt, brain.note)))
    known = image.warnings if subject.bias_field is not None else ()  # `preprocess` has told them
    image = dataclasses.replace(image, data=data, warnings=(*image.warnings, *doubts))
    _tell(subject, image.warnings[len(known) :])
    wanted = bias_json(recipe)
    if subject.bias_field is not None and subject.bias_field != wanted:
        problem = f"was prepared with the bias field settings {subject.bias_field}, here they are {wanted}"
        raise InputError(image.source, problem, "Give the raw scan, or prepare it with --recipe")
    if subject.bias_field is not None or recipe.bias_field is None:
        return Corrected(image, filled, brain, None)
    order = orientation.to_lps(image.affine)
    values, inside = (orientation.axial(part, order) for part in (data, brain.mask))
    field, warning = bias.estimate(values, inside, orientation.zooms(image.affine), recipe.bias_field)
    if field is None:
        _tell(subject, [warning])
        return Corrected(dataclasses.replace(image, warnings=(*image.warnings, warning)), filled, brain, None)
    return Corrected(image, filled, brain, np.ascontiguousarray(orientation.native(field, order)))


def _tell(subject: Subject, warnings: Sequence[str]) -> None:
    for warning in warnings:
        LOG.warning("%s: %s", subject.identifier, warning)


def _mask(subject: Subject, image: Volume) -> tuple[Volume | None, str]:
    """Reads the brain mask of a scan; one that was found by its name and does not fit is passed over, with a note."""
    mask = subject.mask() if subject.mask else None
    if mask is None:
        return None, ""
    said = mask.source if subject.slices else f"the mask {pathlib.Path(mask.source).name}"
    if not subject.mask_found:  # what was given is used or refused
        problem = small(image, mask) if mask.data.shape == image.data.shape else ""
        return mask, f"{said} {problem}" if problem else ""
    problem = misfit(image, mask)
    return (None, f"{said}, found by its name, is passed over: the mask {problem}") if problem else (mask, "")


def prepare(subject: Subject, recipe: Recipe, scratch: pathlib.Path | None = None) -> Prepared:
    """Brings one subject all the way to z-scored, saturated slices; arguments and errors as in `correct`."""
    corrected = correct(subject, recipe, scratch)
    image, brain = corrected.image, corrected.brain
    data, change = corrected.intensities(), None
    if recipe.histogram:
        change = match(image.source, data, brain.mask, recipe.histogram)
        data = histogram.apply(change, data)
    slices, placement = to_slices(data, brain.mask, image.affine, recipe.grid)
    if not len(slices.number):
        raise InputError(image.source, "has no axial slice with enough brain in it", "Check the scan and its mask")
    slices = slices._replace(y=saturate(slices.y, recipe.saturation))
    return Prepared(
        image, corrected.filled, slices, placement, brain.origin, corrected.field, change, recipe.saturation
    )


def match(source: str, data: np.ndarray, brain: np.ndarray, reference: Histogram) -> Transfer:
    """Returns the map of a scan's intensities, [X, Y, Z], to those of the training cohort.

    Raises:
      InputError: nearly all of its brain has one intensity.
    """
    marks = histogram.landmarks(orientation.picked(data.T, brain.T), reference.percentiles)  # as files are in memory
    if not marks[-1] > marks[0]:
        raise InputError(source, "has one intensity in nearly all of its brain", "Check that this is the right file")
    return histogram.transfer(marks, reference)


def restored(prepared: Prepared, change: np.ndarray) -> np.ndarray:
    """Returns the restored scan in the scan's own intensities, to the bit those of the scan where nothing changed.

    Saturation moved a voxel of intensity z to c(z), beyond which nothing is known of it. The voxel's change is scaled
    as saturation scaled its intensity, D z / c(z): what is restored to the mean of the brain lies at that mean, and
    what is half restored lies half way.

    Args:
      prepared: the scan.
      change: D = c(Y) - X, in standard deviations of the brain, [X, Y, Z] float32, 0 outside the brain.

    Returns:
      [X, Y, Z] float32.
    """
    result = prepared.image.data.copy("K")
    for k in range(result.shape[2]):  # a plane at a time: big volumes are not copied
        inside = change[..., k] != 0
        data = result[..., k][inside]
        factor = 1 if prepared.field is None else prepared.field[..., k][inside]
        result[..., k][inside] = data - _difference(prepared, data / factor, change[..., k][inside]) * factor
    return result


def _difference(prepared: Prepared, values: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Returns by how much intensities fall, [n] float32.

    Args:
      prepared: the scan.
      values: intensities without the bias field, [n].
      change: as in `restored`, [n].
    """
    transfer, std = prepared.transfer, np.float32(prepared.placement.std)
    matched = values if transfer is None else histogram.apply(transfer, values)
    if prepared.saturation is not None:
        change = change * _excess((matched - prepared.placement.mean) / std, prepared.saturation)
    difference = change * std
    if transfer is None:
        return difference
    before, after = (histogram.invert(transfer, values) for values in (matched, matched - difference))
    return before - after


def _excess(z: np.ndarray, saturation: tuple[float, float]) -> np.ndarray:
    """Returns z / c(z), [n] float32, for z-scores z, [n]; 1 where nothing is saturated."""
    kept = saturate(z, saturation)
    return np.where(kept == z, 1, z / np.where(kept == z, 1, kept)).astype(np.float32)
