"""What a user has, one file or a folder in a common layout, as a list of subjects to load one at a time."""

import dataclasses
import functools
import json
import pathlib
import re
import sys
from collections.abc import Callable

import numpy as np

from lgjax import __version__
from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import layouts, nifti, phantom, segmentations, subject_table
from lgjax.scans.layouts import Files
from lgjax.scans.names import identifier, participant, uri
from lgjax.scans.prepared import noted, read_image
from lgjax.scans.volume import Scan, Volume


@dataclasses.dataclass(frozen=True)
class Subject:
    """One scan and what belongs to it; nothing is read before it is asked for, and each part fails by itself.

    Attributes:
      identifier: "sub-", letters and digits, and the entities that BIDS gave the scan: safe in any path or page.
      original: the name as found.
      image: reads the scan.
      mask: reads the brain mask, where there is one.
      lesion: reads the reference segmentation, where a name tells which file that is.
      guess: where none tells: reads the reference of a scan, on whose grid it must lie, by what images hold.
      mask_found: whether the mask was found by its name: one that does not fit is passed over.
      displaced: reads the mask, 0 or 1, of what the lesion changed outside itself, of synthetic subjects: neither
        lesion nor healthy.
      kind: group shown in tables, for example "glioma"; "" if unknown.
      paths: the files that determine the prepared result: the image's, then the mask's; () for the phantom.
      reading: the options that the files are read with, as JSON; of the phantom, the digest of all it is made from.
      bias_field: None for a raw scan; for one that lgjax.preprocess wrote, the canonical JSON of the settings of
        the bias field that it removed ("null": none).
      person: of such a scan, who was scanned, as was noted then.
      source: what outputs say of where the scan comes from: a BIDS URI in which `raw` is the data set or folder, for files.
    """

    identifier: str
    original: str
    image: Callable[[], Volume]
    mask: Callable[[], Volume] | None = None
    lesion: Callable[[], Volume] | None = None
    displaced: Callable[[], Volume] | None = None
    kind: str = ""
    paths: tuple[pathlib.Path, ...] = ()
    reading: str = ""
    bias_field: str | None = None
    person: str = ""
    guess: Callable[[Volume], Volume] | None = None
    mask_found: bool = False
    source: str = ""

    @property
    def participant(self) -> str:
        """Who was scanned, see `names.participant`."""
        return self.person or participant(self.original)


def find(
    spec: str,
    *,
    layout: str = "auto",
    mask: str | None = None,
    max_voxels: int = nifti.MAX_VOXELS,
    assume_ras: bool = False,
    volume: int | None = None,
    single_slice: bool = False,
) -> list[Subject]:
    """Lists the subjects in one NIfTI file, a folder, a table or the phantom.

    Args:
      spec: path of a file, a folder or a table of scans (.tsv, .csv); or
        phantom[@THICKNESS[+GAP]]:SPLIT[:COUNT[:LABELS]] with SPLIT train, calibration (both healthy), test or dev
        (COUNT subjects of every kind; dev is what design is decided on), made from a folder of label maps where one is
        named. THICKNESS and GAP, 0 where not given, are mm; without them, 24 slices of 4 mm end below the vertex.
      layout: of a folder: bids, camcan, brats, ixi, nnunet or folder; auto recognises it (and the phantom by its name).
      mask: path of the brain mask, with a single file only.
      max_voxels, assume_ras, volume, single_slice: as in `nifti.read`; `volume` is not applied to masks.

    Returns:
      The subjects, by identifier.

    Raises:
      UsageError: there is no subject, no such layout, or a mask is given for a folder.
      InputError: two subjects would get one identifier, or participants.tsv cannot be read.
    """
    if layout not in layouts.NAMES:
        raise UsageError(f"There is no layout {layout}. Choose one of {', '.join(layouts.NAMES)}.")
    if layout == "phantom" or (layout == "auto" and is_phantom(spec)):
        return _phantom(spec)
    found = _found(spec, layout, mask)
    _check_unique(spec, found)
    root = pathlib.Path(spec)
    root = root.parent if subject_table.is_table(spec) else root
    read = functools.partial(nifti.read, max_voxels=max_voxels, assume_ras=assume_ras, single_slice=single_slice)
    reading = json.dumps({"assume_ras": assume_ras, "volume": volume, "single_slice": single_slice})
    subjects = [_subject(root, entry, functools.partial(read, volume=volume), read, reading) for entry in found]
    return sorted(subjects, key=lambda subject: subject.identifier)


def prepared(folder: str) -> list[Subject]:
    """Lists the scans that lgjax.preprocess wrote into a folder: what was doubtful in them was decided then."""
    return find(folder, layout="bids", max_voxels=sys.maxsize, assume_ras=True, single_slice=True)


def _found(spec: str, layout: str, mask: str | None) -> list[Files]:
    root = pathlib.Path(spec)
    if root.is_dir():
        if mask is not None:
            raise UsageError(f"--mask goes with a single file, and {spec} is a folder: name the masks X_mask.nii.gz")
        return layouts.find(root, layout)
    if not (root.exists() or root.is_symlink()):
        raise UsageError(f"{spec} does not exist. Give a NIfTI file or a folder of scans.")
    if layout != "auto":
        raise UsageError(f"--layout={layout} goes with a folder, and {spec} is a file.")
    if subject_table.is_table(spec):
        if mask is not None:
            raise UsageError(
                f"--mask goes with a single scan, and {spec} is a table: name the masks in its column mask"
            )
        return layouts.listed(root)
    if mask:
        return [Files(layouts.stem(root), root, pathlib.Path(mask), mask_given=True)]
    return [Files(layouts.stem(root), root, layouts.mask_beside(root))]


def _subject(
    root: pathlib.Path,
    entry: Files,
    read: Callable[[pathlib.Path], Volume],
    read_label: Callable[..., Volume],
    reading: str,
) -> Subject:
    if entry.refused:
        refuse = functools.partial(_refuse, entry)
        return Subject(identifier(entry.name), entry.name, refuse, kind=entry.kind, reading=entry.refused)
    named, noticed = entry.reference, noted(entry.image)
    if entry.person:
        noticed["person"] = identifier(entry.person)
    return Subject(
        identifier=identifier(entry.name),
        original=entry.name,
        image=functools.partial(read_image, read, entry.image),
        mask=functools.partial(read_label, entry.mask) if entry.mask else None,
        lesion=functools.partial(segmentations.read_one, named.paths, read_label) if named.paths else None,
        guess=functools.partial(segmentations.guess, entry.name, named, read_label),
        mask_found=not (entry.mask_given or "bias_field" in noticed),  # a prepared scan belongs with its mask
        kind=entry.kind,
        paths=tuple(part for path in (entry.image, entry.mask) if path for part in nifti.parts(path)),
        reading=reading,
        source=uri(entry.image, root),
        **noticed,  # type: ignore[arg-type]
    )


def _refuse(entry: Files) -> Volume:
    raise InputError(entry.name, entry.refused, "Correct that, or leave the scan out")


def digest(subject: Subject) -> str:
    """Returns SHA-256 of all that a subject's preparation starts from: the bytes of its files and how they are read.

    Raises:
      InputError: a file cannot be read.
    """
    found = [subject.original, __version__]
    if subject.paths:
        found = []
        for path in subject.paths:
            with files.faults(path):
                found.append(files.sha256(path))
    return files.digest([found, subject.reading])


_PHANTOM = {  # seed, kinds, subjects of each kind
    "train": (1, ("healthy",), 652),
    "calibration": (2, ("healthy",), 24),
    "test": (3, phantom.KINDS, 6),
    "dev": (4, phantom.KINDS, 6),
}


def is_phantom(spec: str) -> bool:
    """Returns whether a source is the embedded data set rather than a path."""
    return re.split("[:@]", spec)[0] == "phantom"


def _phantom(spec: str) -> list[Subject]:
    """Lists subjects of the embedded data set; a split is a seed and, of three heads or more, its own heads."""
    name, _, rest = spec.partition(":")
    split, count, labels = ([*rest.split(":", 2), "", "", ""])[:3]
    named = re.fullmatch(r"phantom(?:@(?P<thickness>\d+\.?\d*)(?:\+(?P<gap>\d+\.?\d*))?)?", name)
    if not named or split not in _PHANTOM or not (count.isdigit() or not count):
        expected = f"phantom[@THICKNESS[+GAP]]:SPLIT[:COUNT[:LABELS]] with SPLIT {', '.join(_PHANTOM)}"
        raise UsageError(f"{spec}: expected {expected}.")
    slab = (float(named["thickness"]), float(named["gap"] or 0)) if named["thickness"] else None
    seed, kinds, default = _PHANTOM[split]
    subjects = [
        _phantom_subject(number, phantom.Request(labels or None, split, seed, number * len(kinds) + k, kind, slab))
        for number in range(int(count or default))
        for k, kind in enumerate(kinds)
    ]
    return sorted(subjects, key=lambda subject: subject.identifier)


def _phantom_subject(number: int, request: phantom.Request) -> Subject:
    part = functools.partial(_phantom_part, request)
    return Subject(
        identifier=f"sub-{request.split}{request.kind}{number:03d}",
        original=f"phantom:{request.split}:{request.kind}:{number}",
        source=f"phantom:{request.split}:{request.kind}:{number}",
        image=functools.partial(part, "image"),
        mask=functools.partial(part, "brain"),
        lesion=functools.partial(part, "lesion"),
        displaced=functools.partial(part, "displaced"),
        kind=request.kind,
        reading=phantom.digest(request),
    )


@functools.lru_cache(maxsize=8)
def _phantom_scan(request: phantom.Request) -> Scan:
    """Gives one phantom subject, kept for a moment because its image and masks are asked for in turn."""
    return phantom.get_subject(request)


def _phantom_part(request: phantom.Request, part: str) -> Volume:
    """Returns the image or a mask of a phantom subject."""
    scan = _phantom_scan(request)
    if part == "image":
        return scan.image
    return dataclasses.replace(scan.image, data=getattr(scan, part).astype(np.float32))


def _check_unique(spec: str, found: list[Files]) -> None:
    seen: dict[str, Files] = {}
    for entry in found:
        other = seen.setdefault(identifier(entry.name).lower(), entry)  # some file systems ignore case
        if other is not entry:
            problem = f"has two scans that would both be {identifier(entry.name)}: {other.image} and {entry.image}"
            raise InputError(spec, problem, "Keep one of them, or rename one by more than punctuation")
