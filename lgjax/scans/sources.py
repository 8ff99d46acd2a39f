"""What a user has, one file or a folder in a common layout, as a list of subjects to load one at a time."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lgjax import __version__
from lgjax.runtime import files
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.scans import dicom, dicom_header, nifti, segmentations, synthetic
from lgjax.scans.finding import folders, layouts, sequences, series, subject_table, twins, written
from lgjax.scans.finding.listing import Files, Listing, below, lines
from lgjax.scans.names import identifier, uri
from lgjax.scans.prepared import noted, read_image
from lgjax.scans.subject import Subject as Subject
from lgjax.scans.synthetic import is_phantom as is_phantom
from lgjax.scans.unnamed import FOUND, GIVEN, REFERENCE, unnamed
from lgjax.scans.volume import Volume

LOG = logging.getLogger(__name__)


class Reading(NamedTuple):
    """How scans are found and read; all as in `find`."""

    layout: str = "auto"
    mask: str | None = None
    max_voxels: int = nifti.MAX_VOXELS
    assume_ras: bool = False
    volume: int | None = None
    single_slice: bool = False
    any_sequence: bool = False


def find(
    spec: str,
    *,
    layout: str = "auto",
    mask: str | None = None,
    max_voxels: int = nifti.MAX_VOXELS,
    assume_ras: bool = False,
    volume: int | None = None,
    single_slice: bool = False,
    any_sequence: bool = False,
) -> list[Subject]:
    """Lists the subjects in one NIfTI file, a folder, a table or the phantom; what is left out goes to the log.

    Args:
      spec: path of a file, a folder or a table of scans (.tsv, .csv); or
        phantom[@THICKNESS[+GAP]]:SPLIT[/KIND[+KIND ...]][:COUNT[:LABELS]] with SPLIT train, calibration (both healthy),
        test or hard, dev or hard-dev (COUNT subjects of every KIND that is named, of all where none is; the dev splits
        are what design is decided on), made from a folder of label maps where one is named. THICKNESS and GAP, 0 where
        not given, are mm; without them, 24 slices of 4 mm end below the vertex.
      layout: of a folder, a name in `layouts.NAMES`; auto recognises it (and the phantom by its name).
      mask: path of the brain mask, with a single file only.
      max_voxels, assume_ras, volume, single_slice: as in `nifti.read`; `volume` is not applied to masks.
      any_sequence: takes scans whose names or sidecars say another sequence than T2, in layouts without a rule for
        names.

    Returns:
      The subjects, by identifier. A scan that cannot be chosen, as of two with one identifier, fails when it is read.

    Raises:
      UsageError: there is no subject, no such layout, or a mask is given for a folder.
    """
    listing = survey(spec, Reading(layout, mask, max_voxels, assume_ras, volume, single_slice, any_sequence))
    tell(spec, listing)
    return listing.found


def tell(spec: str, listing: Listing[Subject]) -> None:
    """Logs what a survey of `spec` left out, and its notes."""
    named = "".join(f"{name}: " for name in series.nameable([spec], listing.found))
    for line in lines(listing):
        LOG.warning("%s%s", named, line)


def survey(spec: str, reading: Reading) -> Listing[Subject]:
    """Lists the subjects, and what was left out; arguments and errors as in `find`."""
    if reading.layout not in layouts.NAMES:
        raise UsageError(f"There is no layout {reading.layout}. Choose one of {', '.join(layouts.NAMES)}.")
    if reading.layout == "phantom" or (reading.layout == "auto" and is_phantom(spec)):
        return Listing(synthetic.subjects(spec))
    root = pathlib.Path(spec)
    return _subjects(_found(spec, reading), root.parent if subject_table.is_table(spec) else root, reading)


def survey_files(names: Sequence[str], reading: Reading) -> Listing[Subject]:
    """Lists the subjects in several files, as a shell's pattern gives them: masks and labels among them are no scans.

    Raises:
      UsageError: there is no scan, or the layout of a folder is given.
    """
    if reading.layout != "auto":
        raise UsageError(f"--layout={reading.layout} goes with a folder, and {names[0]} is a file.")
    paths = [pathlib.Path(name) for name in names]
    if any(path.is_absolute() for path in paths):
        paths = [pathlib.Path(os.path.abspath(path)) for path in paths]
    above = os.path.commonpath([os.path.abspath(folders.home(path)) for path in paths])
    root = pathlib.Path(above if paths[0].is_absolute() else os.path.relpath(above))
    return _subjects(layouts.chosen(paths, root, reading.any_sequence), root, reading)


def _subjects(listing: Listing[Files], root: pathlib.Path, reading: Reading) -> Listing[Subject]:
    """Makes subjects of files; of two different scans with one identifier, neither is read."""
    groups: dict[str, list[Files]] = {}
    for entry in listing.found:
        groups.setdefault(identifier(entry.name).lower(), []).append(entry)  # some file systems ignore case
    subjects, left_out = [], list(listing.left_out)
    for first, *others in groups.values():
        if others and twins.are_same([first.image, *(other.image for other in others)]):
            left_out += below(root, [other.image for other in others], f"the same as {first.image.name}")
            others = []
        if others:
            named = ", ".join(entry.said for entry in (first, *others))
            count = "two" if len(others) == 1 else str(len(others) + 1)
            problem = f"has {count} scans that would both be {identifier(first.name)}: {named}"
            fault = InputError(root, problem, "Keep one of them, or rename one by more than punctuation")
            private = first.private.union(*(entry.private for entry in others))
            subjects.append(_refused(root, first._replace(private=private), fault))
        elif first.refused:
            where = first.name if subject_table.is_table(str(first.image)) else first.said
            subjects.append(_refused(root, first, InputError(where, first.refused, first.remedy)))
        else:
            subjects.append(_subject(root, first, reading))
    return Listing(sorted(subjects, key=lambda each: each.identifier), tuple(left_out), listing.notes)


def prepared(folder: str) -> list[Subject]:
    """Lists the scans that lgjax.preprocess wrote into a folder: what was doubtful in them was decided then."""
    how = Reading("bids", max_voxels=sys.maxsize, assume_ras=True, single_slice=True, any_sequence=True)
    return survey(folder, how).found


def _found(spec: str, reading: Reading) -> Listing[Files]:
    root, mask = pathlib.Path(spec), reading.mask
    if root.is_dir() and not (mask and dicom_header.is_series(root)):
        if mask:
            raise UsageError(f"--mask goes with a single file, and {spec} is a folder: name the masks X_mask.nii.gz")
        return layouts.find(root, reading.layout, reading.any_sequence)
    if not (root.exists() or root.is_symlink()):
        raise UsageError(f"{spec} does not exist. Give a NIfTI file or a folder of scans.")
    if reading.layout != "auto" and not root.is_dir():
        raise UsageError(f"--layout={reading.layout} goes with a folder, and {spec} is a file.")
    if subject_table.is_table(spec):
        if mask is not None:
            remedy = "name the masks in its column mask"
            raise UsageError(f"--mask goes with a single scan, and {spec} is a table: {remedy}")
        return layouts.listed(root, reading.any_sequence)
    problem, remedy = sequences.refusal(root, reading.any_sequence)
    stem = folders.stem(root)
    name = stem.replace("_", "-") if written.here(root) else stem  # no name of a scan that has maps
    found = series.one(root) or Files(name, root)
    found = found._replace(refused=problem, remedy=remedy, mask=folders.mask_beside(root))
    if mask:
        found = found._replace(mask=pathlib.Path(mask), mask_given=True)
    return Listing([found], (), series.notes([found]))


def _refused(root: pathlib.Path, entry: Files, fault: InputError) -> Subject:
    """Makes a subject that fails whatever is asked of it."""
    refuse = functools.partial(_refuse, fault)
    return Subject(
        identifier=identifier(entry.name),
        original=entry.name,
        image=refuse,
        lesion=refuse,
        kind=entry.kind,
        reading=str(fault),
        source=entry.source or uri(entry.image, root),
        private=entry.private,
    )


def _refuse(fault: InputError) -> Volume:
    raise fault


def _subject(root: pathlib.Path, entry: Files, reading: Reading) -> Subject:
    assume_ras, single_slice, volume = reading.assume_ras, reading.single_slice, reading.volume
    read_label = functools.partial(
        nifti.read, max_voxels=reading.max_voxels, assume_ras=assume_ras, single_slice=single_slice
    )
    read = functools.partial(read_label, volume=volume)
    named, noticed = entry.reference, noted(entry.image)
    if entry.person:
        noticed["person"] = identifier(entry.person)
    found = Subject(
        identifier=identifier(entry.name),
        original=entry.name,
        image=functools.partial(read_image, read, entry.image),
        mask=functools.partial(_read_mask, read_label, entry) if entry.mask else None,
        lesion=functools.partial(segmentations.read_one, named.paths, read_label) if named.paths else None,
        guess=functools.partial(segmentations.guess, entry.name, named, read_label),
        mask_found=not (entry.mask_given or "bias_field" in noticed),  # a prepared scan belongs with its mask
        kind=entry.kind,
        paths=(*(entry.series or nifti.parts(entry.image)), *(nifti.parts(entry.mask) if entry.mask else ())),
        reading=json.dumps({"assume_ras": assume_ras, "volume": volume, "single_slice": single_slice}),
        source=entry.source or uri(entry.image, root),
        slices=len(entry.series),
        private=entry.private,
        earlier=identifier(entry.earlier) if entry.earlier else "",
        **noticed,  # type: ignore[arg-type]
    )
    return _of_series(found, entry, reading.max_voxels) if entry.series else found


def _of_series(subject: Subject, entry: Files, max_voxels: int) -> Subject:
    """Makes the subject of a DICOM series: names around a series may tell who was scanned, and nothing says them."""
    mask = {*twins.beside(entry.mask), *nifti.parts(entry.mask)} if entry.mask else ()
    labels = (*entry.reference.paths, *entry.reference.beside, *map(pathlib.Path, entry.reference.looked_for))
    said = GIVEN if entry.mask_given else FOUND
    return dataclasses.replace(
        subject,
        image=functools.partial(dicom.read, entry.series, entry.said, max_voxels),
        mask=subject.mask and functools.partial(_unnamed, subject.mask, said, mask),
        lesion=subject.lesion and functools.partial(_unnamed, subject.lesion, REFERENCE, labels),
        guess=subject.guess and functools.partial(_unnamed, subject.guess, REFERENCE, labels),
    )


def _unnamed(read: Callable[..., Volume], said: str, paths: Iterable[pathlib.Path], *arguments: Volume) -> Volume:
    """Reads a file of which neither the volume nor a fault says more than `said`."""
    with unnamed(said, paths):
        return dataclasses.replace(read(*arguments), source=said)


def _read_mask(read: Callable[[pathlib.Path], Volume], entry: Files) -> Volume:
    """Reads the brain mask; raises InputError where another of its name, found beside it, holds another."""
    assert entry.mask is not None
    same = [entry.mask] if entry.mask_given else twins.beside(entry.mask)
    if not twins.are_same(same) and len(same) > 1:
        problem = f"is not the same mask as {', '.join(path.name for path in same[1:])}"
        raise InputError(entry.mask, problem, "Keep one of them")
    return read(entry.mask)


def _sha256(subject: Subject, number: int) -> str:
    """Returns SHA-256 of one of a subject's files; a fault holds no name of a file around a DICOM series."""
    path, images = subject.paths[number], subject.paths[: subject.slices]
    if number < subject.slices:
        with dicom_header.damage(images, number, subject.said):
            return files.sha256(path)
    hidden = unnamed(FOUND if subject.mask_found else GIVEN, [path]) if images else contextlib.nullcontext()
    with hidden, files.faults(path):
        return files.sha256(path)


def content(subject: Subject) -> str:
    """Returns the SHA-256 of a raw scan, as `Volume` has it; "" of what was made or prepared here, or is unreadable."""
    if not subject.paths or subject.bias_field is not None:
        return ""
    try:
        series = subject.paths[: subject.slices]
        return dicom_header.digest(series) if series else files.sha256(*nifti.parts(subject.paths[0]))
    except (OSError, LgjaxError):  # told when the scan's turn comes
        return ""


def digest(subject: Subject) -> str:
    """Returns SHA-256 of all that a subject's preparation starts from: the bytes of its files and how they are read.

    Raises:
      InputError: a file cannot be read.
    """
    found = [subject.original, __version__]
    if subject.paths:
        found = [_sha256(subject, number) for number in range(len(subject.paths))]
        found = [*sorted(found[: subject.slices]), *found[subject.slices :]]
    return files.digest([found, subject.reading])
