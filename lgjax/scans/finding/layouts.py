"""Which files make a subject in each layout that data sets come in: names are looked at, images are not."""

import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lgjax.runtime.errors import UsageError
from lgjax.scans import dicom_header
from lgjax.scans.finding import datasets, folders, labels, plain, sequences, series, subject_table
from lgjax.scans.finding.listing import BELOW, Files, LeftOut, Listing, Other, lines


class _Layout(NamedTuple):
    find: Callable[[pathlib.Path, Other], Listing[Files]]
    looked_for: str


_LAYOUTS = {  # in the order in which auto tries them
    "bids": _Layout(datasets.bids, "a BIDS folder (sub-*/[ses-*/]anat/sub-*_T2w.nii.gz)"),
    "camcan": _Layout(datasets.camcan, "Cam-CAN's release (anat/sub-CC*/anat/sub-CC*_T2w.nii.gz, 4 levels down)"),
    "brats": _Layout(datasets.brats, "a BraTS folder (BraTS*_t2.nii.gz or BraTS*-t2w.nii.gz, 3 levels down at most)"),
    "ixi": _Layout(plain.ixi, "IXI's scans (IXI*-SITE-*-T2.nii.gz directly inside)"),
    "nnunet": _Layout(datasets.nnu, "a data set of nnU-Net (imagesTs/*_0000.nii.gz with labelsTs)"),
    "folder": _Layout(plain.flat, "NIfTI files directly inside"),
    "nested": _Layout(plain.deep, "a folder for each patient (PATIENT/T2.nii.gz, 4 levels down at most)"),
    "dicom": _Layout(series.dicom, "folders that each hold one series of DICOM files (5 levels down at most)"),
}
NAMES = ("auto", *_LAYOUTS, "phantom")


def find(root: pathlib.Path, layout: str, any_sequence: bool = False) -> Listing[Files]:
    """Lists the subjects of a folder, and what was left out.

    Args:
      root: the folder.
      layout: a name in `NAMES`; auto takes the first layout of which there is a scan.
      any_sequence: takes scans whatever sequence their names and sidecars say.

    Raises:
      UsageError: there is no scan.
    """
    other = _none if any_sequence else sequences.other
    left_out: dict[LeftOut, None] = {}
    for name in _LAYOUTS if layout == "auto" else [layout]:
        listing = _LAYOUTS[name].find(root, other)
        if listing.found:
            return listing
        left_out |= dict.fromkeys(each for each in listing.left_out if each.reason != BELOW)
        if layout == "auto" and name == "bids" and datasets.is_bids(root):
            raise UsageError(f"{root} is a BIDS folder without a T2w scan.{_told(left_out)}")
    told = _told(left_out)
    if layout == "auto":
        *most, last = (each.looked_for for each in _LAYOUTS.values())
        raise UsageError(f"{root} holds no scan. Looked for {', '.join(most)} and {last}.{told}")
    looked_for = f"Looked for {_LAYOUTS[layout].looked_for}; or try --layout=auto"
    raise UsageError(f"{root} holds no scan in the layout {layout}. {looked_for}.{told}")


def chosen(paths: list[pathlib.Path], root: pathlib.Path, any_sequence: bool = False) -> Listing[Files]:
    """Lists the subjects of several files; see `plain.chosen`.

    Raises:
      UsageError: there is no scan among them.
    """
    listing = plain.chosen(paths, root, any_sequence)
    if not listing.found:
        raise UsageError(f"None of the {len(paths)} files is a scan.{_told(listing.left_out)}")
    return listing


def _told(left_out: Iterable[LeftOut]) -> str:
    """Returns what was left out as sentences."""
    return "".join(f" {line[0].upper()}{line[1:].rstrip('.')}." for line in lines(Listing([], tuple(left_out))))


def listed(path: pathlib.Path, any_sequence: bool = False) -> Listing[Files]:
    """Lists the subjects of a table; what has no column there is found by names.

    Raises:
      UsageError: see `subject_table.read`.
    """
    table, found = subject_table.read(path), []
    around = folders.beside(row.image for row in table.rows if row.image)
    index = folders.index(around)
    for row in table.rows:
        image, problem, remedy = row.image or path, row.refused, "Correct that, or leave the scan out"
        if not problem:
            problem, remedy = sequences.refusal(image, any_sequence)
        mask = row.mask if "mask" in table.columns or problem else folders.mask_of(index, image)
        reference, given = labels.given(row.reference), row.mask is not None
        files = Files(row.name, image, mask, reference, row.kind, given, row.person, problem, remedy)
        slices = dicom_header.files_of(image)  # whose folder may be named after the patient
        if slices:
            files = files._replace(series=slices, source=f"series:{row.name}", private=series.private(slices, image))
        found.append(files)
    if "reference" not in table.columns:
        found = datasets.with_references(found, datasets.starts(found), around)
    return Listing(found, (), table.notes)


def _none(image: pathlib.Path, texts: list[str]) -> str:
    """Stands for `sequences.other` where every sequence is wanted."""
    return ""
