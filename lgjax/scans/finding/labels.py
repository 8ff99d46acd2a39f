"""Which file is the reference segmentation of a scan, by the names that public data sets use."""

import bisect
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lgjax.scans.finding import label_folders, written
from lgjax.scans.finding.folders import home, stem

Shelf = Mapping[pathlib.Path, Sequence[pathlib.Path]]  # the NIfTI files of each folder

_LESION = re.compile(r"lesion|tumou?r|glioma|stroke|infarct|wmh|metastas")
_ALONE = re.compile(r"lesions?|lesionmask|tumou?r|wmh")  # such a word says enough; X_stroke may be a scan
_MASK = re.compile(r"mask\d*|msk|d?seg|segm|segmentation|roi|labels?|manual|lesionmask")
_GENERIC = re.compile(
    r"seg|segm|(manual)?segmentation|msk|roi|gt|labels?|consensus|mask\d+|(ground)?truth|gold(standard)?"
)
_NEUTRAL = re.compile(r"\d+|manual|final|corrected|desc|ground|standard|(rater|reader|expert)\d*|by|preprocessed")
_OTHERS = {"brain", "bet", "skull", "head", "tissue", "gm", "wm", "csf", "filled", "probseg", "prob", "probability"}
_SEQUENCE = re.compile(r"t[12]w?|t1(ce|c|gd|n)|t2f|t2starw?|flair|pdw?|dwi|adc|swi|psir|stir|mp2?rage|unit1|mag|phase")
_TOLD = 12  # files of a scan in a folder of many scans, for messages
_T2 = {"t2", "t2w"}
_STRICT = ("sub", "ses", "run")  # another value of one of these is another scan
_BIDS_NAMES = ("label-lesion_mask", "desc-lesion_mask", "label-L_mask", "lesion-manual", "lesion_mask", "msk", "seg")
_NAMES = ("seg", "lesion_mask", "lesion-manual", "label-lesion_mask", "msk", "mask1", "consensus")


class Found(NamedTuple):
    """What the names tell of the reference of one scan."""

    paths: tuple[pathlib.Path, ...] = ()  # one: the reference; several: nothing tells which of them
    looked_for: tuple[str, ...] = ()  # names, without extension
    beside: tuple[pathlib.Path, ...] = ()  # other images in the folder of the scan
    alone: bool = False  # whether that folder holds one scan only: a patient's own folder

    @property
    def candidates(self) -> tuple[pathlib.Path, ...]:
        """Images that may be the reference where no name says which; what they hold decides."""
        return tuple(filter(_may_be_lesion, self.beside)) if self.alone and not self.paths else ()


def _may_be_lesion(path: pathlib.Path) -> bool:
    """Returns whether nothing says that an image beside a scan holds a brain, or is a detection of lgjax.restore."""
    name = path.name.lower()
    if written.here(path):
        return False
    return not any(word in name for word in ("brain", "bet", "skull")) and ("mask" not in name or says_lesion(name))


def shelve(paths: Iterable[pathlib.Path]) -> Shelf:
    """Returns files by their folder, but for what lgjax.restore wrote: a detection is no reference."""
    found: dict[pathlib.Path, list[pathlib.Path]] = defaultdict(list)
    for path in paths:
        if not written.is_named(path):
            found[home(path)].append(path)
    return dict(found)


def given(path: pathlib.Path | None) -> Found:
    """Returns the reference that somebody named; None: there is none."""
    return Found((path,) if path else ())


def says_lesion(rest: str) -> bool:
    """Returns whether the rest of a name, after that of the scan, says that the file is a mask of lesions."""
    text = re.sub(r"(^|_)label-l(?=_|$)", r"\1label-lesion", rest.lower())
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word]
    if not words or _OTHERS & set(words) or _SEQUENCE.fullmatch(words[-1]):
        return False
    words = [word for word in words if not _SEQUENCE.fullmatch(word) and not _NEUTRAL.fullmatch(word)]
    if any(_LESION.search(word) for word in words):
        return any(map(_MASK.fullmatch, words)) or all(map(_ALONE.fullmatch, words)) or "manual" in text
    return bool(words) and all(map(_GENERIC.fullmatch, words))


def beside(scans: Sequence[tuple[pathlib.Path, Sequence[str]]], shelf: Shelf) -> list[Found]:
    """Finds the references in the folders of scans; a file belongs to the scan whose name its own name begins with.

    Args:
      scans: each scan, and how names of what belongs to the scan begin: its own, with and without the sequence.
      shelf: the files.

    Returns:
      One for each scan, in order. In a patient's own folder a name such as lesion_mask needs no beginning.
    """
    owners = {(home(image), start.lower().rstrip("_-. ")): image for image, starts in scans for start in starts}
    in_folder = Counter(home(image) for image, _ in scans)
    ranked: dict[pathlib.Path, list] = defaultdict(list)
    for folder in in_folder:
        for path in shelf.get(folder, ()):
            owner, rest = _owner(owners, path)
            if owner and _is_of(rest):
                ranked[owner].append(((_agreed(rest), 0, _foreign(rest)), path))
    found, apart = [], _apart(scans)
    listed = {folder: sorted((_stem(path), path) for path in shelf.get(folder, ())) for folder in in_folder}
    for image, starts in scans:
        alone = in_folder[home(image)] == 1
        start = min(starts, key=len).rstrip("_-. ")
        others = [path for path in _near(listed[home(image)], start.lower(), alone) if path != image]
        unnamed = [((_agreed(name), 1, 0), path) for path in others if alone and says_lesion(name := _stem(path))]
        looked_for = [f"{start}_{name}" for name in _NAMES] + (["lesion_mask"] if alone else [])
        named = _best(ranked[image] + unnamed) or _best(apart[image])
        found.append(Found(named, (*looked_for, f"labels/{start}"), tuple(others), alone))
    return found


def _near(listed: Sequence[tuple[str, pathlib.Path]], start: str, alone: bool) -> list[pathlib.Path]:
    """Returns files of a folder, those first whose names begin so; where there are many scans, a few of those alone.

    Args:
      listed: the files behind their names, sorted.
      start: of names, in lower case.
      alone: whether the folder is that of one scan.
    """
    at = bisect.bisect_left(listed, start, key=lambda each: each[0])
    if not alone and len(listed) > 4 * _TOLD:
        return [path for name, path in listed[at : at + _TOLD] if name.startswith(start)]
    return [path for _, path in sorted(listed, key=lambda each: (not each[0].startswith(start), each[1]))]


def _apart(scans: Sequence[tuple[pathlib.Path, Sequence[str]]]) -> dict[pathlib.Path, list]:
    """Returns what may be the reference of each scan in folders that are called labels or the like, with its rank."""
    around = [(place, image, starts) for image, starts in scans for place in label_folders.places(image)]
    owners = {(place, start.lower().rstrip("_-. ")): image for place, image, starts in around for start in starts}
    number = Counter(place for place, _, _ in around)
    lonely = {place: image for place, image, _ in around if number[place] == 1}
    ranked: dict[pathlib.Path, list] = defaultdict(list)
    for place in dict.fromkeys(place for place, _ in owners):
        for path, own_name_is_enough in label_folders.files(place):
            if written.is_named(path):
                continue
            name = _stem(path)
            owner, rest = _owner(owners, path, place)
            if own_name_is_enough and (place, name) in owners:
                ranked[owners[place, name]].append(((_agreed(name), 0), path))
            elif owner and _is_of(rest):
                ranked[owner].append(((_agreed(rest), 0), path))
            elif place in lonely and says_lesion(name):
                ranked[lonely[place]].append(((_agreed(name), 1), path))
    return ranked


def bids(image: pathlib.Path, folders: Sequence[pathlib.Path], shelf: Shelf, *, alone: bool = False) -> Found:
    """Finds the reference of a BIDS scan: any mask of lesions that is the subject's own, by its entities.

    Of several, those are taken that agree best with the scan in space, sequence and the other entities.

    Args:
      image: the scan.
      folders: where to look.
      shelf: the files.
      alone: whether the folder of the scan holds no other scan.
    """
    scan = _entities(_stem(image))
    ranked = []
    for path in (path for folder in dict.fromkeys(folders) for path in shelf.get(folder, ())):
        name = _stem(path)
        if path == image:
            continue
        theirs = _entities(name)
        if any(theirs.get(key, scan.get(key)) != scan.get(key) for key in _STRICT) or "sub" not in theirs:
            continue
        if says_lesion(_rest(name)):
            ranked.append((_distance(scan, theirs, name), path))
    start = "_".join(part for part in stem(image).split("_") if re.match(r"(sub|ses|run|acq)-", part))
    others = tuple(path for path in shelf.get(home(image), ()) if path != image)
    return Found(_best(ranked), tuple(f"{start}_{name}" for name in _BIDS_NAMES), others, alone)


def _best(ranked: Sequence[tuple[tuple[int, ...], pathlib.Path]]) -> tuple[pathlib.Path, ...]:
    """Returns the files of the lowest rank; a pair of header and voxels is one file."""
    least = min((rank for rank, _ in ranked), default=())
    return tuple(dict.fromkeys(path for rank, path in ranked if rank == least))


def _distance(scan: Mapping[str, str], theirs: Mapping[str, str], name: str) -> tuple[int, ...]:
    """Returns how far a mask's name is from that of a scan, most important first."""
    ours, space = (entities.get("space", "orig") for entities in (scan, theirs))
    differing = [k for k in scan.keys() | theirs.keys() if k in ("acq", "rec", "ce") and scan.get(k) != theirs.get(k)]
    apart = 0 if space == ours else 1 if space == "orig" else 2
    return _agreed(name), apart, _foreign(name), len(differing)


def _agreed(name: str) -> int:
    """Returns 0 for what several experts agreed on, which goes before the mask of each."""
    return 0 if "consensus" in name else 1


def _foreign(name: str) -> int:
    """Returns how many other sequences a name names: a mask of the T2 scan itself goes before one of them."""
    return sum(word not in _T2 and bool(_SEQUENCE.fullmatch(word)) for word in re.split(r"[^a-z0-9]+", name))


def _is_of(rest: str) -> bool:
    """Returns whether the rest of a name says lesion, and does not go on with a number: that would be another scan."""
    return says_lesion(rest) and not re.match(r"[^a-z0-9]*\d", rest)


def _owner(owners: Mapping, path: pathlib.Path, place: pathlib.Path | None = None) -> tuple[pathlib.Path | None, str]:
    """Returns the scan with the longest name that a file's name goes on after, and the rest; None: there is none."""
    name = _stem(path)
    for end in reversed([match.start() for match in re.finditer(r"[^a-z0-9]", name)]):
        owner = owners.get((place or home(path), name[:end]))
        if owner not in (None, path):
            return owner, name[end:]
    return None, ""


def _entities(name: str) -> dict[str, str]:
    """Returns the key-value pairs of a BIDS name."""
    return dict(part.split("-", 1) for part in name.split("_") if "-" in part)


def _rest(name: str) -> str:
    """Returns what a BIDS name says beside whose scan it is: label, desc, suffix."""
    words = ("label", "desc", "lesion", "seg", "mask")
    return "_".join(part for part in name.split("_") if "-" not in part or part.split("-")[0] in words)


def _stem(path: pathlib.Path) -> str:
    return stem(path).lower()
