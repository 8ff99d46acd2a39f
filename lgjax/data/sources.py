"""What a user has, one file or a folder in a common layout, as a list of subjects to load one at a time."""

import csv
import dataclasses
import functools
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lgjax.data import nifti, phantom
from lgjax.data.volume import Scan, Volume
from lgjax.errors import InputError, UsageError

_NIFTI = r"\.(nii|nii\.gz|hdr)$"
# BraTS 2012 to 2021: Brats18_2013_11_1_t2.nii.gz; from 2023: BraTS-GLI-00000-000-t2w.nii.gz
_BRATS = re.compile(r"(?P<case>brats.*)(?P<mark>[_-])t2w?" + _NIFTI, re.IGNORECASE)
_BIDS = re.compile(r"sub-[^_]+(_[a-zA-Z]+-[^_]+)*_T2w" + _NIFTI)
_NOT_A_SCAN = re.compile(
    r"(^|[_.-])(brain)?(mask|d?seg|segmentation|labels?|lesions?|roi|gold_?standard|consensus)(?=[_.-])",
    re.IGNORECASE,
)
_OUTPUTS = re.compile(r"_desc-(restored|anomaly)_")  # what lgjax.restore writes
_LABELS = (0, 1, 2, 3, 4)  # BraTS 2018 uses 0, 1, 2 and 4, from 2023 on 0 to 3; others 0 and 1
_LOOKED_FOR = (
    "a BIDS folder (sub-*/[ses-*/]anat/sub-*_T2w.nii.gz), a BraTS folder (BraTS*_t2.nii.gz, 3 levels down "
    "at most) and NIfTI files directly inside"
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One scan and what belongs to it; nothing is read before it is asked for, and each part fails by itself.

    Attributes:
      identifier: "sub-" and letters and digits only: safe in any path or page.
      original: the name as found.
      image: reads the scan.
      mask: reads the brain mask, where there is one.
      lesion: reads the reference segmentation, where there is one (`reference` checks it).
      kind: group shown in tables, for example "glioma"; "" if unknown.
    """

    identifier: str
    original: str
    image: Callable[[], Volume]
    mask: Callable[[], Volume] | None = None
    lesion: Callable[[], Volume] | None = None
    kind: str = ""


def find(
    spec: str,
    *,
    mask: str | None = None,
    max_voxels: int = nifti.MAX_VOXELS,
    assume_ras: bool = False,
    volume: int | None = None,
    single_slice: bool = False,
) -> list[Subject]:
    """Lists the subjects in one NIfTI file, a BIDS folder, a BraTS folder, a plain folder or the phantom.

    Args:
      spec: path of the file or folder, whose layout is recognised; or phantom:SPLIT[:COUNT[:LABELS]] with SPLIT
        train, calibration (both healthy) or test (COUNT subjects of every kind), made from a folder of label maps
        where one is named.
      mask: path of the brain mask, with a single file only.
      max_voxels, assume_ras, volume, single_slice: as in `nifti.read`; `volume` is not applied to masks.

    Returns:
      The subjects, by identifier.

    Raises:
      UsageError: there is no subject, or a mask is given for a folder.
      InputError: two subjects would get one identifier, or participants.tsv cannot be read.
    """
    read_label = functools.partial(nifti.read, max_voxels=max_voxels, assume_ras=assume_ras, single_slice=single_slice)
    read_image = functools.partial(read_label, volume=volume)
    if spec == "phantom" or spec.startswith("phantom:"):
        return _phantom(spec)
    root = pathlib.Path(spec)
    if root.is_dir():
        if mask is not None:
            raise UsageError(f"--mask goes with a single file, and {spec} is a folder: name the masks X_mask.nii.gz")
        found = _bids(root) or _brats(root) or _plain(root)
    elif root.exists() or root.is_symlink():
        found = [_Found(_stem(root), root, pathlib.Path(mask) if mask else None)]
    else:
        raise UsageError(f"{spec} does not exist. Give a NIfTI file or a folder of scans.")
    if not found:
        raise UsageError(f"{spec} holds no scan. Looked for {_LOOKED_FOR}.")
    _check_unique(spec, found)
    subjects = [
        Subject(
            identifier=identifier(entry.name),
            original=entry.name,
            image=functools.partial(read_image, entry.image),
            mask=functools.partial(read_label, entry.mask) if entry.mask else None,
            lesion=functools.partial(read_label, entry.lesion) if entry.lesion else None,
            kind=entry.kind,
        )
        for entry in found
    ]
    return sorted(subjects, key=lambda subject: subject.identifier)


def identifier(name: str) -> str:
    """Returns "sub-" and the letters and digits of `name`, accents dropped; of its hash if none is left."""
    plain = unicodedata.normalize("NFKD", name.removeprefix("sub-")).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]", "", plain)
    if len(plain) > 64:  # keeps file names within what file systems take
        plain = plain[:56] + _short_hash(name)
    return "sub-" + (plain or _short_hash(name))


def reference(subject: Subject, image: Volume) -> np.ndarray | None:
    """Reads a subject's reference segmentation: the lesion is where the label is above 0.

    Args:
      subject: whose.
      image: the scan, or anything on its grid.

    Returns:
      [X, Y, Z] bool, or None where the subject has no reference.

    Raises:
      InputError: it is unreadable, on another grid, or has labels other than 0 to 4.
    """
    if subject.lesion is None:
        return None
    label = subject.lesion()
    nifti.check_same_grid(image, label)
    strange = label.data[~np.isin(label.data, _LABELS)]
    if strange.size:
        values = ", ".join(f"{value:g}" for value in np.unique(strange)[:5])
        problem = f"has the label values {values}; a reference holds 0 (healthy) and 1 to 4 (lesion)"
        raise InputError(
            label.source,
            problem,
            "Give a segmentation; resample labels with nearest neighbours",
        )
    return label.data > 0


_PHANTOM = {
    "train": (1, ("healthy",), 652),
    "calibration": (2, ("healthy",), 24),
    "test": (3, phantom.KINDS, 6),
}


def _phantom(spec: str) -> list[Subject]:
    """Subjects of the embedded data set; a split is a seed, so no subject is in two splits."""
    _, _, rest = spec.partition(":")
    split, count, labels = ([*rest.split(":", 2), "", "", ""])[:3]
    if split not in _PHANTOM or not (count.isdigit() or not count):
        raise UsageError(f"{spec}: expected phantom:SPLIT[:COUNT[:LABELS]] with SPLIT train, calibration or test.")
    seed, kinds, default = _PHANTOM[split]
    subjects = []
    for number in range(int(count or default)):
        for k, kind in enumerate(kinds):
            part = functools.partial(_phantom_part, labels or None, seed, number * len(kinds) + k, kind)
            subjects.append(
                Subject(
                    identifier=f"sub-{split}{kind}{number:03d}",
                    original=f"phantom:{split}:{kind}:{number}",
                    image=functools.partial(part, "image"),
                    mask=functools.partial(part, "brain"),
                    lesion=functools.partial(part, "lesion"),
                    kind=kind,
                )
            )
    return sorted(subjects, key=lambda subject: subject.identifier)


@functools.lru_cache(maxsize=8)
def _phantom_scan(labels: str | None, seed: int, index: int, kind: str) -> Scan:
    """One subject of the phantom, kept for a moment because its image, mask and lesion are asked for in turn."""
    return phantom.make_subject(phantom.load_anatomies(labels), seed, index, kind)


def _phantom_part(labels: str | None, seed: int, index: int, kind: str, part: str) -> Volume:
    """The image, the brain mask or the lesion mask of a phantom subject."""
    scan = _phantom_scan(labels, seed, index, kind)
    if part == "image":
        return scan.image
    return dataclasses.replace(scan.image, data=getattr(scan, part).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class _Found:
    """The files of one subject."""

    name: str
    image: pathlib.Path
    mask: pathlib.Path | None = None
    lesion: pathlib.Path | None = None
    kind: str = ""


def _bids(root: pathlib.Path) -> list[_Found]:
    layouts = ("sub-*/anat/*", "sub-*/ses-*/anat/*")
    images = [path for path in _files(root, layouts) if _BIDS.fullmatch(path.name)]
    if not images:
        return []
    kinds = _kinds(root)
    derivatives = [f"derivatives/{inner}{layout}" for inner in ("", "*/") for layout in layouts]
    index = _index(_files(root, (*layouts, *derivatives)))
    found = []
    for image in images:
        if _OUTPUTS.search(image.name):
            continue
        stem = _stem(image).removesuffix("_T2w")
        # The name is every entity but those that tell how the image was processed: sub-01_ses-2 -> 01ses2.
        name = re.sub(r"_(desc|space|res)-[^_]+", "", stem)
        folder = image.parent.relative_to(root)
        folders = [image.parent, root / "derivatives" / folder]
        folders += [inner / folder for inner in sorted((root / "derivatives").glob("*"))]
        starts = (stem, name, f"{name}_space-orig")
        mask = _first(index, folders, [f"{start}_desc-brain_mask" for start in starts])
        lesion = _first(index, folders, [f"{start}_label-lesion_mask" for start in starts])
        found.append(_Found(name, image, mask, lesion, kinds.get(name.split("_")[0], "")))
    return found


def _brats(root: pathlib.Path) -> list[_Found]:
    paths = list(_files(root, ("*", "*/*", "*/*/*", "*/*/*/*")))
    index = _index(paths)
    found = []
    for image in paths:
        if match := _BRATS.fullmatch(image.name):
            start, folder = match["case"] + match["mark"], [image.parent]
            mask, lesion = _first(index, folder, [f"{start}mask"]), _first(index, folder, [f"{start}seg"])
            found.append(_Found(match["case"], image, mask, lesion))
    return found


def _plain(root: pathlib.Path) -> list[_Found]:
    paths = list(_files(root, ("*",)))
    index = _index(paths)
    found = []
    for image in paths:
        if not (_NOT_A_SCAN.search(image.name) or _OUTPUTS.search(image.name)):
            stem = _stem(image)
            mask, lesion = _first(index, [root], [f"{stem}_mask"]), _first(index, [root], [f"{stem}_seg"])
            found.append(_Found(stem, image, mask, lesion))
    return found


def _files(root: pathlib.Path, patterns: Iterable[str]) -> Iterator[pathlib.Path]:
    """Yields NIfTI files (by their names; a broken link is listed too, and reported when it is read)."""
    for pattern in patterns:  # of fixed depth: a link to a parent folder cannot send us round
        for path in sorted(root.glob(pattern)):
            if re.search(_NIFTI, path.name, re.IGNORECASE) and not path.name.startswith("."):
                yield path


def _index(paths: Iterable[pathlib.Path]) -> dict[tuple[pathlib.Path, str], pathlib.Path]:
    """Returns the files by folder and name without extension, in lower case."""
    return {(path.parent, _stem(path).lower()): path for path in paths}


def _first(index: dict, folders: list[pathlib.Path], stems: list[str]) -> pathlib.Path | None:
    keys = ((folder, stem.lower()) for folder in folders for stem in stems)
    return next((index[key] for key in keys if key in index), None)


def _kinds(root: pathlib.Path) -> dict[str, str]:
    """Returns the column lesion_kind of participants.tsv, where there is one."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"cannot be read: {error}", "Save it as tab-separated UTF-8 text") from error
    return {
        f"sub-{(row.get('participant_id') or '').removeprefix('sub-')}": row.get("lesion_kind") or "" for row in rows
    }


def _check_unique(spec: str, found: list[_Found]) -> None:
    seen: dict[str, _Found] = {}
    for entry in found:
        other = seen.setdefault(identifier(entry.name).lower(), entry)  # some file systems ignore case
        if other is not entry:
            problem = f"has two scans that would both be {identifier(entry.name)}: {other.image} and {entry.image}"
            raise InputError(spec, problem, "Rename one of them, by more than punctuation")


def _stem(path: pathlib.Path) -> str:
    return re.sub(r"\.(nii|nii\.gz|hdr|img)$", "", path.name, flags=re.IGNORECASE)


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
