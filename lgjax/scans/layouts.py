"""Which files make a subject in each layout that data sets come in: names are looked at, images are not."""

import csv
import json
import logging
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import labels, nnunet, subject_table

LOG = logging.getLogger(__name__)

_NIFTI = r"\.(nii|hdr)(\.gz)?$"
# BraTS 2012 to 2021: Brats18_2013_11_1_t2.nii.gz; from 2023: BraTS-GLI-00000-000-t2w.nii.gz
_BRATS = re.compile(r"(?P<case>brats.*)(?P<mark>[_-])t2w?" + _NIFTI, re.IGNORECASE)
_BIDS = re.compile(r"sub-[^_]+(_[a-zA-Z]+-[^_]+)*_T2w" + _NIFTI)
_IXI = re.compile(r"(?P<subject>IXI\d+)-[A-Za-z]+-\d+-T2(_bet|_brain)*" + _NIFTI, re.IGNORECASE)
_NOT_A_SCAN = re.compile(
    r"(^|[_.-])(brain|manual)?(mask\d*|msk|d?seg|segm|segmentation|labels?|lesions?|roi|gt|ground_?truth|gold_?standard|consensus)(?=[_.-])",
    re.IGNORECASE,
)
_OUTPUTS = re.compile(r"_desc-(restored|anomaly)_")  # what lgjax.restore writes
# X_bet comes last: beside X it is the mask that HD-BET 2 writes, but the stripped scan where X_bet has a mask itself.
_MASKS = ("_mask", "_desc-brain_mask", "_brain_mask", "_bet_mask", "_brain_bet", "_bet_bet", "_bet")
_CAMCAN = ("", "anat/", "*/anat/", "*/*/anat/", "*/*/*/anat/", "*/*/*/*/anat/")  # cc700/mri/pipeline/release004/BIDS*/


class Files(NamedTuple):
    """The files of one subject."""

    name: str
    image: pathlib.Path
    mask: pathlib.Path | None = None  # of the brain
    reference: labels.Found = labels.Found()  # where the lesion is
    kind: str = ""  # lesion_kind of participants.tsv
    mask_given: bool = False  # by the user, rather than found by its name
    person: str = ""  # who was scanned, where a table says
    refused: str = ""  # why the scan is not read, though it was named


class _Layout(NamedTuple):
    find: Callable[[pathlib.Path], list[Files]]
    looked_for: str


def find(root: pathlib.Path, layout: str) -> list[Files]:
    """Lists the subjects of a folder.

    Args:
      root: the folder.
      layout: a name in `NAMES`; auto takes the first layout of which there is a scan.

    Raises:
      UsageError: there is no scan.
      InputError: participants.tsv cannot be read.
    """
    for name in _LAYOUTS if layout == "auto" else [layout]:
        if found := _LAYOUTS[name].find(root):
            return found
    if layout == "auto":
        *most, last = (each.looked_for for each in _LAYOUTS.values())
        raise UsageError(f"{root} holds no scan. Looked for {', '.join(most)} and {last}.")
    looked_for = _LAYOUTS[layout].looked_for
    raise UsageError(f"{root} holds no scan in the layout {layout}. Looked for {looked_for}; or try --layout=auto.")


def stem(path: pathlib.Path) -> str:
    """Returns the name without .nii, .hdr or .img, and .gz."""
    return re.sub(r"\.(nii|hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _bids(root: pathlib.Path, subjects: str = "sub-*", tables: tuple[str, ...] = (".",)) -> list[Files]:
    """Lists the subjects of a BIDS folder whose folders match `subjects`; participants.tsv is in one of `tables`."""
    layouts = (f"{subjects}/anat/*", f"{subjects}/ses-*/anat/*")
    images = [path for path in _files(root, layouts) if _BIDS.fullmatch(path.name) and not _OUTPUTS.search(path.name)]
    if not images:
        return []
    kinds = _kinds([root / table / "participants.tsv" for table in tables])
    anywhere = (*layouts, f"{subjects}/*", f"{subjects}/ses-*/*")  # derivatives may lack the folder anat, as ISLES' do
    derivatives = [f"derivatives/{inner}{layout}" for inner in ("", "*/") for layout in anywhere]
    paths = list(_files(root, (*layouts, *derivatives)))
    index, shelf = _index(paths), labels.shelve(paths)
    scans = Counter(image.parent for image in images)
    pipelines = [folder for folder in sorted((root / "derivatives").glob("*")) if not _is_ours(folder)]
    found = []
    for image in images:
        start = stem(image).removesuffix("_T2w")
        # The name is every entity but those that tell how the image was processed.
        name = re.sub(r"_(desc|space|res)-[^_]+", "", start)
        folder = image.parent.relative_to(root)
        folders = [image.parent, *(pipeline / folder for pipeline in (root / "derivatives", *pipelines))]
        starts = (start, name, f"{name}_space-orig")
        mask = _first(index, folders, [f"{each}_desc-brain_mask" for each in starts]) or _mask_beside(index, image)
        folders += [each.parent for each in folders[1:]]
        reference = labels.bids(image, folders, shelf, alone=scans[image.parent] == 1)
        found.append(Files(name, image, mask, reference, kinds.get(name.split("_")[0], "")))
    return found


def _camcan(root: pathlib.Path) -> list[Files]:
    """Lists Cam-CAN's release: a folder a modality, each with subject folders; `root` is any folder on the way."""
    for pattern in _CAMCAN:
        folders = sorted({path.parent for path in root.glob(f"{pattern}sub-CC*")})
        if found := [files for folder in folders for files in _bids(folder, "sub-CC*", (".", ".."))]:
            return found
    return []


def _brats(root: pathlib.Path) -> list[Files]:
    paths = list(_files(root, ("*", "*/*", "*/*/*", "*/*/*/*")))
    index, found, starts = _index(paths), [], []
    for image in paths:
        if match := _BRATS.fullmatch(image.name):
            start, folder = match["case"] + match["mark"], [image.parent]
            mask = _first(index, folder, [f"{start}mask"]) or _mask_beside(index, image)
            found.append(Files(match["case"], image, mask))
            starts.append((start,))
    return _with_references(found, starts, paths)


def _ixi(root: pathlib.Path) -> list[Files]:
    """Lists IXI-T2.tar, one folder; site and number of a file are left out of the name, so nobody is listed twice."""
    matches = ((files, _IXI.fullmatch(files.image.name)) for files in _plain(root))
    return [files._replace(name=match["subject"].upper()) for files, match in matches if match]


def _plain(root: pathlib.Path) -> list[Files]:
    paths = list(_files(root, ("*",)))
    index = _index(paths)
    found = []
    for image in paths:
        if not (_NOT_A_SCAN.search(image.name) or _OUTPUTS.search(image.name) or _is_derived(index, image)):
            found.append(Files(stem(image), image, _mask_beside(index, image)))
    found = _with_references(found, _starts(found), paths)
    taken = {path for files in found for path in files.reference.paths}
    return [files for files in found if files.image not in taken]


def _with_references(found: list[Files], starts: Sequence[Sequence[str]], paths: Iterable[pathlib.Path]) -> list[Files]:
    """Returns subjects with what the names of the files around them tell of their references."""
    scans = [(files.image, begin) for files, begin in zip(found, starts, strict=True)]
    references = labels.beside(scans, labels.shelve(paths))
    return [files._replace(reference=each) for files, each in zip(found, references, strict=True)]


def _nnunet(root: pathlib.Path) -> list[Files]:
    """Lists the cases of a data set as nnU-Net keeps it."""
    found = []
    for case in nnunet.find(root):
        names = (f"{case.looked_for.parent.name}/{case.looked_for.name}",)
        reference = labels.given(case.reference)._replace(looked_for=names)
        found.append(Files(case.name, case.image, mask_beside(case.image), reference))
    return found


def listed(path: pathlib.Path) -> list[Files]:
    """Lists the subjects of a table; what has no column there is found by names.

    Raises:
      UsageError: see `subject_table.read`.
    """
    table = subject_table.read(path)
    for note in table.notes:
        LOG.warning("note: %s", note)
    found = []
    for row in table.rows:
        image = row.image or path
        mask = row.mask if "mask" in table.columns or row.refused else mask_beside(image)
        reference = labels.given(row.reference)
        found.append(Files(row.name, image, mask, reference, row.kind, row.mask is not None, row.person, row.refused))
    if "reference" in table.columns:
        return found
    folders = dict.fromkeys(files.image.parent for files in found)
    return _with_references(found, _starts(found), (path for folder in folders for path in _files(folder, ("*",))))


def _starts(found: Sequence[Files]) -> list[tuple[str, str]]:
    """Returns how the names of what belongs to each scan begin: its own, and that without the mark of its sequence."""
    stems = [stem(files.image) for files in found]
    return [(name, re.sub(r"(?i)(?<=.)[_.-]t2w?(?=[_.-]|$).*", "", name)) for name in stems]


_LAYOUTS = {  # in the order in which auto tries them
    "bids": _Layout(_bids, "a BIDS folder (sub-*/[ses-*/]anat/sub-*_T2w.nii.gz)"),
    "camcan": _Layout(_camcan, "Cam-CAN's release (anat/sub-CC*/anat/sub-CC*_T2w.nii.gz, 4 levels down at most)"),
    "brats": _Layout(_brats, "a BraTS folder (BraTS*_t2.nii.gz or BraTS*-t2w.nii.gz, 3 levels down at most)"),
    "ixi": _Layout(_ixi, "IXI's scans (IXI*-SITE-*-T2.nii.gz directly inside)"),
    "nnunet": _Layout(_nnunet, "a data set of nnU-Net (imagesTs/*_0000.nii.gz with labelsTs)"),
    "folder": _Layout(_plain, "NIfTI files directly inside"),
}
NAMES = ("auto", *_LAYOUTS, "phantom")


def _is_ours(folder: pathlib.Path) -> bool:
    """Returns whether lgjax wrote a BIDS derivative: its masks are results, not what a user gives."""
    try:
        made = json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"]
        return any(maker["Name"] == "lgjax" for maker in made)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def mask_beside(image: pathlib.Path) -> pathlib.Path | None:
    """Finds the brain mask in the folder of a scan, by its name."""
    return _mask_beside(_index(_files(image.parent, ("*",))), image)


def _mask_beside(index: dict, image: pathlib.Path) -> pathlib.Path | None:
    """Returns the brain mask in the image's own folder that is named after it."""
    return _first(index, [image.parent], [stem(image) + suffix for suffix in _MASKS])


def _is_derived(index: dict, image: pathlib.Path) -> bool:
    """Tells whether a file X_bet or X_brain was made from a file X beside it: it is no other subject, then."""
    start = stem(image).lower()
    while (shorter := re.sub(r"_(bet|brain)$", "", start)) != start:
        if (image.parent, shorter) in index:
            return True
        start = shorter
    return False


def _files(root: pathlib.Path, patterns: Iterable[str]) -> Iterator[pathlib.Path]:
    """Yields NIfTI files (by their names; a broken link is listed too, and reported when it is read)."""
    for pattern in patterns:  # of fixed depth: a link to a parent folder cannot send us round
        for path in sorted(root.glob(pattern)):
            if re.search(_NIFTI, path.name, re.IGNORECASE) and not path.name.startswith("."):
                yield path


def _index(paths: Iterable[pathlib.Path]) -> dict[tuple[pathlib.Path, str], pathlib.Path]:
    """Returns the files by folder and name without extension, in lower case."""
    return {(path.parent, stem(path).lower()): path for path in paths}


def _first(index: dict, folders: list[pathlib.Path], stems: list[str]) -> pathlib.Path | None:
    keys = ((folder, name.lower()) for folder in folders for name in stems)
    return next((index[key] for key in keys if key in index), None)


def _kinds(tables: list[pathlib.Path]) -> dict[str, str]:
    """Returns the column lesion_kind of the first participants.tsv that is there, by subject."""
    path = next((path for path in tables if path.is_file()), None)
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"cannot be read: {error}", "Save it as tab-separated UTF-8 text") from error
    return {
        f"sub-{(row.get('participant_id') or '').removeprefix('sub-')}": row.get("lesion_kind") or "" for row in rows
    }
