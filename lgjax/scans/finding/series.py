"""Series of DICOM files in folders: each folder that holds some is a scan, and no name of a patient is passed on."""

import hashlib
import os
import pathlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lgjax.runtime.counting import counted
from lgjax.scans import dicom_header
from lgjax.scans.dicom_header import Identity
from lgjax.scans.finding import folders, nested
from lgjax.scans.finding.datasets import is_ours
from lgjax.scans.finding.listing import Files, LeftOut, Listing, Other, shown

if TYPE_CHECKING:  # importing it takes a while, and --help lists layouts
    from lgjax.scans.subject import Subject

_DEPTH = ("", "*", "*/*", "*/*/*", "*/*/*/*", "*/*/*/*/*")  # export/patient/study/series; discs have DICOM/ above
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_CONTAINED = 4  # letters and digits: a shorter one must be a word of its own
_HASH = 8  # hexadecimal digits
_HIDDEN = "series:"  # begins what stands for the path of a series whose folders are named after the patient


def dicom(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists the folders that directly hold DICOM files, the root itself included.

    Raises:
      EnvironmentFault: there is one, and pydicom is not installed.
    """
    found = [(folder, paths) for folder in _places(root) if (paths := dicom_header.files_of(folder))]
    hidden = {folder: neutral_name(paths[0], folder) for folder, paths in found}
    names = {folder: hidden[folder] or folder.relative_to(root).as_posix() for folder, _ in found}
    reasons = {folder: other(folder, list(reversed(_parts(root, folder)))) for folder, _ in found}
    alone = Counter(folder.parent for folder, _ in found if not reasons[folder])
    taken = [
        _files(_parts(root, folder), folder, paths, hidden[folder], alone[folder.parent] == 1)
        for folder, paths in found
        if not reasons[folder]
    ]
    left_out = tuple(LeftOut(names[folder], reason) for folder, reason in reasons.items() if reason)
    return Listing(taken, left_out, notes(taken))


def one(path: pathlib.Path) -> Files | None:
    """Returns the series in a folder, or that is one file, as Enhanced MR is; None: the path is no series.

    Raises:
      EnvironmentFault: it is a series, and pydicom is not installed.
    """
    if not (paths := dicom_header.files_of(path)):
        return None
    name = re.sub(r"\.(dcm|dicom|ima)$", "", path.resolve().name, flags=re.IGNORECASE)
    return _files([name], path, paths, neutral_name(paths[0], path), True)


def notes(found: Iterable[Files]) -> tuple[str, ...]:
    """Says which scans are called by a hash, and how to give them other names."""
    names = [f"sub-{files.name}" for files in found if files.source.startswith(_HIDDEN)]
    if not names:
        return ()
    told = f"{counted(len(names), 'scan')} called by a hash, since folders are named after the patient or a date"
    return (f"{told}: {shown(names)}. A table, --input=table.tsv, gives names of your own",)


def nameable(inputs: Iterable[str], subjects: Sequence["Subject"]) -> list[str]:
    """Lists the inputs that a record may name: those whose path does not tell who was scanned in a series below."""
    found = [each for each in subjects if each.slices and each.source.startswith(_HIDDEN)]
    hidden = [pathlib.Path(os.path.abspath(each.paths[0])) for each in found]

    def tells(path: pathlib.Path) -> bool:
        return any(neutral_name(file, path) for file in hidden if file.is_relative_to(path))

    return [name for name in inputs if not tells(pathlib.Path(os.path.abspath(name)))]


def neutral_name(file: pathlib.Path, place: pathlib.Path) -> str:
    """Returns a name made of a hash for a series on whose path a name tells who was scanned, or when; else "".

    The hash is that of the series' UID: no name of a file, no order and no other series changes the hash.

    Args:
      file: one of the series.
      place: the path.
    """
    identity = dicom_header.identity(file)
    if identity is None or not any(_tells(name, identity) for name in pathlib.Path(os.path.abspath(place)).parts):
        return ""
    return hashlib.sha256(identity.series.encode()).hexdigest()[:_HASH]


def _tells(name: str, identity: Identity) -> bool:
    """Returns whether a name holds what tells who was scanned, but for case, accents and punctuation."""
    words = {word for text in identity.words for word in _words(text) if len(word) > 1}
    whole = {"".join(_words(text)) for text in (*identity.words, *identity.whole)}
    whole |= {other for text in identity.whole if (date := _DATE.fullmatch(text)) for other in _written(*date.groups())}
    squeezed = "".join(_words(name))
    return bool(words & set(_words(name))) or any(
        len(each) >= _CONTAINED and each in squeezed for each in words | whole
    )


def _written(year: str, month: str, day: str) -> tuple[str, str]:
    """Returns how a date is written where the year comes last."""
    return f"{day}{month}{year}", f"{month}{day}{year}"


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.findall(r"[^\W_]+", "".join(letter for letter in plain if not unicodedata.combining(letter)))


def _places(root: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders in which series may lie, to a fixed depth: a link to a parent cannot send us round."""
    found = []
    for pattern in _DEPTH:
        for path in sorted(root.glob(pattern)) if pattern else [root]:
            parts = path.relative_to(root).parts
            if path.is_dir() and not any(map(nested.is_skipped, parts)) and not (parts and is_ours(root / parts[0])):
                found.append(path)
    return found


def _parts(root: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Returns the names that a series may be named after: those below the root, or the root's own."""
    return list(folder.relative_to(root).parts) or [root.resolve().name]


def _files(parts: list[str], folder: pathlib.Path, paths: tuple[pathlib.Path, ...], hidden: str, alone: bool) -> Files:
    name = hidden or nested.name(parts[:-1], parts[-1], alone)
    mask = folders.mask_beside(folder)
    return Files(name, folder, mask, series=paths, source=f"{_HIDDEN}{hidden}" if hidden else "")
