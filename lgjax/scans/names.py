"""Names of scans and of files about them: an identifier keeps the BIDS entities of its scan, and gives all paths.

A scan named sub-A1_ses-01_acq-tse_run-1_T2w has the identifier sub-A1_ses-01_acq-tse_run-1, and its files are called
sub-A1/ses-01/anat/sub-A1_ses-01_acq-tse_run-1_*. A scan of any other name has "sub-" and letters and digits.
"""

import hashlib
import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator

from lgjax.scans.persons import person_of

# Of a T2w image, in the order of BIDS, but for `chunk`: BIDS wants it behind `space`, which results state.
ENTITIES = ("ses", "task", "acq", "ce", "rec", "run", "echo", "part")
_NUMBERS = ("run", "echo")  # whose values are digits
_PARTS = ("mag", "phase", "real", "imag")  # that the entity `part` may be
_PROCESSING = ("desc", "space", "res")  # how an image was processed, not what was scanned
_BIDS = re.compile(r"sub-[^_]+(_[a-zA-Z0-9]+-[^_]+)*(_T2w)?")
_LONGEST = 150  # letters of an identifier, so that file names stay within what file systems take


def identifier(name: str) -> str:
    """Returns the identifier of a scan by its name: letters, digits, and where the name is BIDS' its entities.

    Another entity than `ENTITIES`, a second one of its kind, and a value that BIDS does not allow go into `acq`, so
    that two names stay two. Accents are dropped; of a value without a letter or digit stays a hash.
    """
    if not _BIDS.fullmatch(name):
        return "sub-" + _label(name.removeprefix("sub-"), name)
    subject, *pairs = name.removesuffix("_T2w").split("_")
    found, others = {}, []
    for key, _, value in (pair.partition("-") for pair in pairs):
        if key in _PROCESSING:
            continue
        if key in ENTITIES and key not in found and _is_allowed(key, value):
            found[key] = _label(value, value)
        else:
            others.append(f"{key}{value}")
    if others:
        joined = found.get("acq", "") + "".join(others)
        found["acq"] = _label(joined, joined)
    kept = [f"{key}-{found[key]}" for key in ENTITIES if key in found]
    start = "sub-" + _label(subject.removeprefix("sub-"), subject)
    whole = "_".join([start, *kept])
    if len(whole) <= _LONGEST:
        return whole
    return "_".join([start, *(pair for pair in kept if pair.startswith("ses-")), f"acq-{_short_hash(whole)}"])


def squeezed(identifier: str) -> str:
    """Returns what earlier versions called a scan: "sub-" and all letters and digits of its name."""
    return "sub-" + re.sub("[^A-Za-z0-9]", "", identifier.removeprefix("sub-"))


def subject(identifier: str) -> str:
    """Returns the first entity of an identifier: sub-A1 of sub-A1_ses-01_run-1."""
    return identifier.split("_")[0]


def of_session(name: str, folder: pathlib.PurePath) -> str:
    """Returns a scan's name with the session that its folder, sub-X/ses-Y, states where the name leaves it out."""
    session = next((part for part in folder.parts if part.startswith("ses-")), "")
    if not session or "_ses-" in name:
        return name
    start, mark, rest = name.partition("_")
    return f"{start}_{session}{mark}{rest}"


def participant(name: str) -> str:
    """Returns who was scanned, by a scan's name, see `persons.person_of`: sub-01 of sub-01_ses-2_run-1."""
    return identifier(person_of(name))


def place(folder: str | os.PathLike, identifier: str) -> pathlib.Path:
    """Returns the folder of a scan's files: sub-A1/anat or sub-A1/ses-01/anat."""
    return pathlib.Path(folder, *re.findall(r"(?:^|_)((?:sub|ses)-[A-Za-z0-9]+)", identifier), "anat")


def file(folder: str | os.PathLike, identifier: str, rest: str) -> pathlib.Path:
    """Returns the path of one of a scan's files, for example with the rest "desc-brain_mask.nii.gz"."""
    return place(folder, identifier) / f"{identifier}_{rest}"


def figure(folder: str | os.PathLike, identifier: str, rest: str) -> pathlib.Path:
    """Returns the path of a picture of a scan; BIDS gives pictures no name, and programs keep them in figures/."""
    return pathlib.Path(folder, subject(identifier), "figures", f"{identifier}_{rest}")


def uri(path: pathlib.Path, root: pathlib.Path) -> str:
    """Returns the BIDS URI of a file: its path within `root`, or its name alone where `root` is the file itself."""
    within = path.relative_to(root) if path.is_relative_to(root) and path != root else pathlib.Path(path.name)
    return f"bids:raw:{urllib.parse.quote(os.fsencode(within.as_posix()))}"


def places(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the folders of scans' files in a data set, by name."""
    yield from sorted(path for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for path in folder.glob(pattern))


def _is_allowed(key: str, value: str) -> bool:
    if key in _NUMBERS:
        return re.fullmatch("[0-9]+", value) is not None
    return key != "part" or value in _PARTS


def _label(value: str, whole: str) -> str:
    """Returns the letters and digits of a value, accents dropped; a hash of `whole` if none is left, or for the end."""
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]", "", plain)
    if len(plain) > 64:
        plain = plain[:56] + _short_hash(whole)
    return plain or _short_hash(whole)


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
