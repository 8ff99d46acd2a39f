"""Series of DICOM files in folders: each folder that holds some is a scan, and no name of a patient is passed on."""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lgjax.runtime.counting import counted
from lgjax.scans import dicom_header, dicom_identity
from lgjax.scans.dicom_identity import Identity
from lgjax.scans.finding import folders, nested
from lgjax.scans.finding.datasets import is_ours
from lgjax.scans.finding.listing import Files, LeftOut, Listing, Other, shown
from lgjax.scans.finding.subject_table import is_table

if TYPE_CHECKING:  # importing it takes a while, and --help lists layouts
    from lgjax.scans.subject import Subject

_DEPTH = ("", "*", "*/*", "*/*/*", "*/*/*/*", "*/*/*/*/*")  # export/patient/study/series; discs have DICOM/ above
_HASH = 8  # hexadecimal digits
UNNAMED = "DICOM series"  # in place of names that may tell who was scanned
_HIDDEN = "series:"  # begins what stands for the path of a series whose folders may be named after the patient


def dicom(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists the folders that directly hold DICOM files, the root itself included.

    Raises:
      EnvironmentFault: there is one, and pydicom is not installed.
    """
    found = {folder: paths for folder in _places(root) if (paths := dicom_header.files_of(folder))}
    identities = {folder: dicom_identity.of(paths) for folder, paths in found.items()}
    judged = {folder: _judge(identities[folder], paths, folder) for folder, paths in found.items()}
    reasons = {folder: other(folder, list(reversed(_parts(root, folder)))) for folder in found}
    tells = functools.cache(functools.partial(dicom_identity.tells, dicom_identity.anybody(identities.values())))

    def said(folder: pathlib.Path) -> str:
        """Names a series that is left out: it may lie in a folder that is named after the patient of another one."""
        place = folder.relative_to(root)
        if judged[folder].hidden or any(map(tells, place.parts)):
            return judged[folder].hidden or _hash(identities[folder], found[folder])
        return place.as_posix()

    alone = Counter(folder.parent for folder in found if not reasons[folder])
    taken = [
        _files(_parts(root, folder), folder, paths, judged[folder], alone[folder.parent] == 1)
        for folder, paths in found.items()
        if not reasons[folder]
    ]
    left_out = tuple(LeftOut(said(folder), reason) for folder, reason in reasons.items() if reason)
    return Listing(taken, left_out, notes(taken))


def one(path: pathlib.Path) -> Files | None:
    """Returns the series in a folder, or that is one file, as Enhanced MR is; None: the path is no series.

    Raises:
      EnvironmentFault: it is a series, and pydicom is not installed.
    """
    if not (paths := dicom_header.files_of(path)):
        return None
    name = re.sub(r"\.(dcm|dicom|ima)$", "", path.resolve().name, flags=re.IGNORECASE)
    return _files([name], path, paths, _judge(dicom_identity.of(paths), paths, path), True)


def notes(found: Iterable[Files]) -> tuple[str, ...]:
    """Says which scans are called by a hash, and how to give them other names."""
    names = [f"sub-{files.name}" for files in found if files.source.startswith(_HIDDEN)]
    if not names:
        return ()
    told = f"{counted(len(names), 'scan')} called by a hash, since folders are named after the patient or a date"
    told += f", or headers do not tell that they are not: {shown(names)}"
    return (f"{told}. A table, --input=table.tsv, gives names of your own",)


def nameable(inputs: Iterable[str], subjects: Iterable["Subject"]) -> list[str]:
    """Lists the inputs that a record may name: those whose path does not tell who was scanned in a series below."""
    private = frozenset().union(*(each.private for each in subjects))
    return [name for name in inputs if private.isdisjoint(_paths(pathlib.Path(name), is_table(name)))]


def private(paths: Sequence[pathlib.Path], place: pathlib.Path) -> frozenset[pathlib.Path]:
    """Returns `Subject.private` of a series that a table names, as the user likes: folders whose path tells."""
    return _private(dicom_identity.of(paths)._replace(comparable=True), place)


class _Judged(NamedTuple):
    """What a name of a series may tell."""

    hidden: str  # a hash in place of a name on the path that may tell who was scanned, or when; "": none may
    private: frozenset[pathlib.Path]  # as in Subject


def _judge(identity: Identity, paths: Sequence[pathlib.Path], place: pathlib.Path) -> _Judged:
    """Compares the path of a series with who was scanned; what cannot be compared may tell."""
    private = _private(identity, place)
    return _Judged(_hash(identity, paths) if private else "", private)


def _hash(identity: Identity, paths: Sequence[pathlib.Path]) -> str:
    """Returns a hash of a series' UID, or of its content where no file has a UID.

    No name of a file, no order and no other series changes the hash. What cannot be read counts as empty.
    """
    content = identity.series
    with contextlib.suppress(OSError):  # told when the scan's turn comes
        content = content or dicom_header.digest(paths)
    return hashlib.sha256(content.encode()).hexdigest()[:_HASH]


def _private(identity: Identity, place: pathlib.Path) -> frozenset[pathlib.Path]:
    """Returns the folders on a path, as `Subject.private`."""
    return frozenset(
        folder
        for path in _paths(place)
        for folder in (path, *path.parents)
        if not identity.comparable or any(dicom_identity.tells(identity, name) for name in folder.parts)
    )


def _paths(path: pathlib.Path, is_file: bool = False) -> list[pathlib.Path]:
    """Returns a path as it is named and as links lead; of a file that is no series, those of its folder."""
    path = path.parent if is_file else path
    return [pathlib.Path(os.path.abspath(path)), path.resolve()]


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


def _files(
    parts: list[str], folder: pathlib.Path, paths: tuple[pathlib.Path, ...], judged: _Judged, alone: bool
) -> Files:
    name = judged.hidden or nested.name(parts[:-1], parts[-1], alone)
    mask = folders.mask_beside(folder)
    source = f"{_HIDDEN}{judged.hidden}" if judged.hidden else ""
    return Files(name, folder, mask, series=paths, source=source, private=judged.private)
