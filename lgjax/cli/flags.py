"""The flags that say which scans a binary takes and how they are read."""

import pathlib

from absl import flags

from lgjax.preparation import dataset
from lgjax.runtime.errors import UsageError
from lgjax.scans import layouts, nifti, sources
from lgjax.scans.listing import Listing
from lgjax.scans.sources import Reading, Subject


def define_input_flags(default: str) -> None:
    """Defines --input, whose default is given, and what goes with it."""
    kinds = "NIfTI file; BIDS, Cam-CAN, IXI, BraTS or plain folder; prepared data set; or phantom:SPLIT[:COUNT]."
    flags.DEFINE_string("input", default, kinds)
    flags.DEFINE_enum("layout", "auto", list(layouts.NAMES), "Layout of an input folder; auto recognises it.")
    flags.DEFINE_string("mask", None, "Brain mask of a single scan; default: X_mask.nii.gz beside X.nii.gz.")
    flags.DEFINE_integer("max_voxels", nifti.MAX_VOXELS, "Refuse scans that declare more voxels.", lower_bound=1)
    flags.DEFINE_bool("assume_ras", False, "Take a scan that states no orientation as RAS.")
    flags.DEFINE_integer("volume", None, "Which volume of a 4-D scan, from 0.", lower_bound=0)
    flags.DEFINE_bool("slice", False, "Accept 2-D scans: one axial slice.")
    flags.DEFINE_bool("any_sequence", False, "Take scans whose names or sidecars say another sequence than T2.")


def scans_of_flags() -> Listing[Subject]:
    """Lists subjects that the flags name, of a prepared data set those in its index; errors as in `sources.find`."""
    given = flags.FLAGS
    reading = Reading(
        given.layout,
        given.mask,
        given.max_voxels,
        given.assume_ras,
        given.volume,
        given.slice,
        given.any_sequence,
    )
    listing = sources.survey(given.input, reading)
    if dataset.is_prepared(given.input):
        kept = {entry.identifier for entry in dataset.read_index(given.input).subjects}
        listing = listing._replace(found=[subject for subject in listing.found if subject.identifier in kept])
    return listing


def check_output(folder: pathlib.Path) -> None:
    """Raises UsageError if results would be written into the input."""
    if pathlib.Path(flags.FLAGS.input).resolve() == folder.resolve():
        raise UsageError(f"--output={folder} is the input. Name another folder.")
