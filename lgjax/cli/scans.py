"""The scans that a command line names."""

import glob
import itertools
import pathlib
from collections.abc import Sequence

from absl import flags

from lgjax.cli.commands import expand
from lgjax.preparation import dataset
from lgjax.runtime.errors import UsageError
from lgjax.runtime.files import check_folder
from lgjax.scans import nifti, sources
from lgjax.scans.finding import subject_table
from lgjax.scans.finding.listing import Listing
from lgjax.scans.sources import Reading, Subject


def inputs_of_flags(words: Sequence[str] = ()) -> list[str]:
    """Lists what --input and the words name; a pattern that the shell has left alone is resolved."""
    found = []
    for name in [*([flags.FLAGS.input] if flags.FLAGS.input else []), *map(expand, words)]:
        there = pathlib.Path(name).exists() or sources.is_phantom(name)
        found += [name] if there else sorted(glob.glob(name)) or [name]
    return list(dict.fromkeys(found))


def scans_of_flags(names: Sequence[str]) -> Listing[Subject]:
    """Lists subjects that the flags name, of a prepared data set those in its index; errors as in `sources.find`.

    Args:
      names: files and folders, from `inputs_of_flags`.
    """
    if flags.FLAGS.mask and len(names) > 1:
        raise UsageError(f"--mask goes with a single scan, and {len(names)} are given. Name the masks X_mask.nii.gz.")
    files = [name for name in names if _is_image(pathlib.Path(name))]
    listings = {name: _listing(name) for name in names if len(files) < 2 or name not in files}
    if len(files) > 1:
        listings["the files"] = sources.survey_files(files, _reading())
    places: dict[str, str] = {}
    for name, listing in listings.items():
        for subject in listing.found:
            before = places.setdefault(subject.identifier, name)
            if before != name:
                problem = f"{before} and {name} hold scans that would both be {subject.identifier}"
                raise UsageError(f"{problem}. Rename one, or restore each into an --output of its own.")
    found, left_out, notes = (list(itertools.chain(*parts)) for parts in zip(*listings.values(), strict=True))
    return Listing(found, tuple(left_out), tuple(notes))


def _is_image(path: pathlib.Path) -> bool:
    """Returns whether a path is a file, a broken link too, rather than a folder or a table of scans."""
    return (path.is_file() or (path.is_symlink() and not path.is_dir())) and not subject_table.is_table(str(path))


def _reading() -> Reading:
    given = flags.FLAGS
    return Reading(
        given.layout,
        given.mask,
        given.max_voxels or nifti.MAX_VOXELS,
        given.assume_ras,
        given.volume,
        given.slice,
        given.any_sequence,
    )


def _listing(name: str) -> Listing[Subject]:
    listing = sources.survey(name, _reading())
    if dataset.is_prepared(name):
        kept = {entry.identifier for entry in dataset.read_index(name).subjects}
        listing = listing._replace(found=[subject for subject in listing.found if subject.identifier in kept])
    return listing


def check_output(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Raises UsageError if results would be written into a folder of the input, or into a file.

    Args:
      folder: for the results.
      names: files and folders of the input.
    """
    check_folder(folder)
    for name in names:
        path = pathlib.Path(name)
        place = path.parent if path.is_file() else path
        if place.resolve() == folder.resolve():
            raise UsageError(f"--output={folder} is the folder of the scans. Name another, such as {folder / 'lgjax'}.")
