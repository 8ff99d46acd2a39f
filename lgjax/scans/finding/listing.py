"""What a search found, and all that it passed over, with the reason of each: for the last lines and for the record."""

import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from lgjax.runtime import files, places
from lgjax.runtime.errors import printable
from lgjax.scans.finding import labels

T = TypeVar("T")
Other = Callable[[pathlib.Path, list[str]], str]  # as `sequences.other`
RECORD = "left_out.tsv"
NO_T2 = "no T2 scan"  # the reason of a subject
BELOW = "a folder below with images, an input of its own"
MAYBE = "a mask or label, perhaps the reference of the scan beside it"
_SHOWN = 5  # names in a line


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
    remedy: str = ""
    series: tuple[pathlib.Path, ...] = ()  # the files of a DICOM series, of which `image` is the folder
    source: str = ""  # what stands for the path of the image, where that names the patient
    private: frozenset[pathlib.Path] = frozenset()  # as in Subject
    earlier: str = ""  # what earlier versions called the scan, where that was another name

    @property
    def said(self) -> str:
        """What a message calls the scan."""
        return self.source or str(self.image)


class LeftOut(NamedTuple):
    """A file, or a subject, that was not taken."""

    name: str  # the path below the input, or the subject
    reason: str


class Listing(NamedTuple, Generic[T]):
    """What was found, what was left out, and what else should be said."""

    found: list[T]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def lines(listing: Listing) -> list[str]:
    """Tells what was left out, a line for each reason, and the notes."""
    reasons: dict[str, list[str]] = {}
    for name, reason in listing.left_out:
        reasons.setdefault(reason, []).append(name)
    told = [f"left out, {reason}: {len(names)} ({shown(names)})" for reason, names in reasons.items()]
    if any(re.search("by its name|in its (sidecar|header)", reason) for reason in reasons):
        told.append("Rename what is T2 after all, or take all sequences with --any_sequence.")
    return [printable(line) for line in (*told, *(f"note: {note}" for note in listing.notes))]


def shown(names: Iterable[str]) -> str:
    """Joins the first names, and says how many more there are."""
    names = list(names)
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def record(folder: str | os.PathLike, listing: Listing) -> None:
    """Writes all that was left out into left_out.tsv of an output folder; nothing left out, no file."""
    path = pathlib.Path(folder, RECORD)
    if not listing.left_out:
        path.unlink(missing_ok=True)
        return
    rows = ["\t".join(printable(places.told(text)) for text in one) for one in listing.left_out]
    files.atomic_write(path, "\n".join(["name\treason", *rows]) + "\n")


def below(root: pathlib.Path, paths: Iterable[pathlib.Path], reason: str) -> list[LeftOut]:
    """Names paths by their place below the input."""
    places = [path.relative_to(root) if path.is_relative_to(root) else path for path in paths]
    return [LeftOut(place.as_posix(), reason) for place in places]
