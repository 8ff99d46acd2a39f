"""Subjects of folders without rules: images directly inside, or in a folder for each patient; IXI's too."""

import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lgjax.runtime.counting import counted
from lgjax.scans import foreign
from lgjax.scans.finding import folders, nested, sequences, written
from lgjax.scans.finding.datasets import cases_without, is_ours, starts, with_references
from lgjax.scans.finding.folders import NIFTI, home, stem
from lgjax.scans.finding.listing import BELOW, MAYBE, Files, LeftOut, Listing, Other, below
from lgjax.scans.names import identifier

_IXI = re.compile(r"(?P<subject>IXI\d+)-[A-Za-z]+-\d+-T2(_bet|_brain)*" + NIFTI, re.IGNORECASE)
_IXI_CASE = re.compile(r"(?P<case>IXI\d+)-", re.IGNORECASE)
_NOT_A_SCAN = re.compile(
    r"(^|[_.-])(brain|manual)?"
    r"(mask\d*|msk|d?seg|segm|segmentation|labels?|lesions?|roi|gt|ground_?truth|gold_?standard|consensus)(?=[_.-])",
    re.IGNORECASE,
)
_NOBODYS = "a mask or label of no scan here"
_DEEP = ("*/*", "*/*/*", "*/*/*/*", "*/*/*/*/*")  # folders of patients
_ECHO = re.compile(r"_e\d+(?=_|$)", re.IGNORECASE)  # as dcm2niix names the echoes of one series


def flat(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists the images directly inside a folder that are no masks, labels, results or other sequences."""
    paths = list(folders.images(root, ("*",)))
    index = folders.index(paths)
    reasons = {image: _no_scan(index, image) or other(image, [stem(image)]) for image in paths}
    reasons |= _echoes(reasons)
    found = _found([Files(stem(image), image) for image in paths if not reasons[image]], index, paths)
    deeper = [path for path in folders.images(root, _DEEP[:2]) if path not in reasons and not _says_label(path)]
    tops = [top for top in dict.fromkeys(root / path.relative_to(root).parts[0] for path in deeper) if not is_ours(top)]
    left_out = [*_unused(root, found, paths, reasons), *_foreign(root, ("*",))]
    return Listing(found, (*left_out, *below(root, tops, BELOW)))


def ixi(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists IXI-T2.tar, one folder; site and number of a file are left out of the name, so nobody is listed twice."""
    listing = flat(root, other)
    matches = [(files, _IXI.fullmatch(files.image.name)) for files in listing.found]
    found = [files._replace(name=match["subject"].upper()) for files, match in matches if match]
    strange = below(root, [files.image for files, match in matches if not match], "not named like IXI's T2 scans")
    without = cases_without(found, folders.images(root, ("*",)), _IXI_CASE)
    left_out = [each for each in listing.left_out if not _IXI_CASE.match(each.name)]
    return Listing(found, (*without, *strange, *left_out))


def deep(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists scans in folders, a patient each; the folders name them, since the files may all have one name."""
    parts = {path: list(home(path).relative_to(root).parts) for path in folders.images(root, _DEEP)}
    ours = {top.name for top in root.glob("*") if is_ours(top)}
    paths = [
        path
        for path, above in parts.items()
        if not (ours.intersection(above[:1]) or any(map(nested.is_skipped, above)))
    ]
    index = folders.index(paths)
    reasons = {path: _no_scan(index, path) or other(path, [stem(path), *reversed(parts[path])]) for path in paths}
    reasons |= _echoes(reasons)
    images = [image for image in paths if not reasons[image]]
    scans = Counter(map(home, images))
    named = [Files(nested.name(parts[image], stem(image), scans[home(image)] == 1), image) for image in images]
    found = [
        files._replace(mask=folders.first(index, [home(files.image)], ["brain_mask", "brainmask"]))
        if files.mask is None and scans[home(files.image)] == 1
        else files
        for files in _found(_as_bids(root, named, parts), index, paths)
    ]
    return Listing(found, (*_unused(root, found, paths, reasons), *_foreign(root, _DEEP)))


def _as_bids(root: pathlib.Path, named: Sequence[Files], parts: Mapping[pathlib.Path, Sequence[str]]) -> list[Files]:
    """Gives the scans in a BIDS participant's own folder their BIDS names, where these tell them apart.

    Args:
      root: the input.
      named: the scans, as folders name them.
      parts: the folders between the input and each image.
    """
    told = [nested.of_participant(root, parts[files.image], stem(files.image)) for files in named]
    wanted = [name or files.name for name, files in zip(told, named, strict=True)]
    known = Counter(identifier(name).lower() for name in wanted)
    return [
        files._replace(name=name, earlier=files.name) if name and known[identifier(name).lower()] == 1 else files
        for name, files in zip(told, named, strict=True)
    ]


def chosen(paths: list[pathlib.Path], root: pathlib.Path, any_sequence: bool) -> Listing[Files]:
    """Lists files that somebody named, all of a shell's pattern perhaps: masks, labels and sidecars are no scans.

    Args:
      paths: the files.
      root: a folder above them all; where two in different folders have one name, the way from there names them.
      any_sequence: takes scans whatever sequence their names and sidecars say; otherwise others are refused by name.
    """
    known = folders.index(paths)
    scans = [path for path in paths if folders.is_nifti(path) or foreign.scan_named(path)]
    headers = {path.with_name(stem(path)) for path in scans if folders.is_nifti(path)}
    scans = [path for path in scans if folders.is_nifti(path) or path.with_name(stem(path)) not in headers]
    slices = {path for path in scans if not folders.is_nifti(path) and foreign.scan_named(path) is foreign.DICOM}
    scans = [path for path in scans if path not in slices]
    reasons = {path: _no_scan(known, path) for path in scans}
    images = [path for path in scans if not reasons[path]]
    places: dict[str, set[pathlib.Path]] = {}
    for path in images:
        places.setdefault(stem(path).lower(), set()).add(home(path))
    named = []
    for path in images:
        above = list(pathlib.Path(os.path.relpath(home(path), root)).parts)
        name = nested.name(above, stem(path), True) if len(places[stem(path).lower()]) > 1 else stem(path)
        refusal = sequences.refusal(path, any_sequence)
        named.append(Files(name, path, refused=refusal[0], remedy=refusal[1]))
    around = folders.beside(images)
    found = _found(named, folders.index(around), around)
    beside = (path.with_name(re.sub(r"\.json$", "", stem(path))) for path in paths)  # sidecars and voxels of pairs
    known_ones = {*scans, *slices}
    others = [
        path for path, start in zip(paths, beside, strict=True) if path not in known_ones and start not in headers
    ]
    left_out = (*_unused(root, found, scans, reasons), *below(root, others, "no image by its name"))
    return Listing(found, (*left_out, *_unnamed(len(slices))))


def _found(named: list[Files], index: folders.Index, paths: list[pathlib.Path]) -> list[Files]:
    """Returns subjects with their masks and references, but for those that are another's reference."""
    named = [files._replace(mask=folders.mask_of(index, files.image)) for files in named]
    found = with_references(named, starts(named), paths)
    taken = {path for files in found for path in files.reference.paths}
    return [files for files in found if files.image not in taken]


def _says_label(image: pathlib.Path) -> bool:
    return bool(_NOT_A_SCAN.search(image.name))


def _no_scan(index: folders.Index, image: pathlib.Path) -> str:
    """Tells why a file is no scan of its own; "" where it may be one."""
    if _says_label(image) and not written.is_named(image):
        return _NOBODYS
    return written.here(image) or ("made of a scan beside it" if folders.is_derived(index, image) else "")


def _echoes(reasons: dict[pathlib.Path, str]) -> dict[pathlib.Path, str]:
    """Returns why images are no scans of their own that are echoes of one series, where more than one is left."""
    series: dict[tuple[pathlib.Path, str], list[pathlib.Path]] = {}
    for image, reason in reasons.items():
        if not reason and _ECHO.search(stem(image)):
            series.setdefault((home(image), _ECHO.sub("", stem(image))), []).append(image)
    return {image: "one of several echoes" for echoes in series.values() if len(echoes) > 1 for image in echoes}


def _unused(
    root: pathlib.Path, found: list[Files], paths: list[pathlib.Path], reasons: dict[pathlib.Path, str]
) -> list[LeftOut]:
    """Lists the files that are no scans and belong to none."""
    used = {path for files in found for path in (files.mask, *files.reference.paths)}
    maybe = {path for files in found for path in files.reference.candidates}
    return [
        each
        for path in paths
        if reasons[path] and path not in used
        for each in below(root, [path], MAYBE if reasons[path] == _NOBODYS and path in maybe else reasons[path])
    ]


def _foreign(root: pathlib.Path, patterns: Iterable[str]) -> list[LeftOut]:
    """Lists what seems to be a scan in another format, each with what to do, and folders that are named like scans."""
    found: list[LeftOut] = []
    unnamed = 0
    paths = [path for pattern in patterns for path in sorted(root.glob(pattern)) if not path.name.startswith(".")]
    headers = {(path.parent, stem(path)) for path in paths if folders.is_nifti(path)}
    dicom: dict[pathlib.Path, bool] = {}  # by folder: one file is looked into, since there may be very many
    for path in paths:
        if path.is_dir():
            if folders.is_nifti(path) and not folders.inside(path):
                found += below(root, [path], "a folder that is named like a scan")
        elif (path.parent, stem(path)) not in headers and (said := foreign.scan_named(path, dicom)):
            unnamed += said is foreign.DICOM
            found += [] if said is foreign.DICOM else below(root, [path], _reason(said))
    return [*found, *_unnamed(unnamed)]


def _reason(said: tuple[str, str]) -> str:
    """Returns why a file in another format is left out, see `foreign.scan_named`."""
    problem, remedy = said[0].removeprefix("is "), said[1]
    return f"{problem} ({remedy[0].lower()}{remedy[1:]})"


def _unnamed(count: int) -> list[LeftOut]:
    """Tells of DICOM files without their names, which may tell who was scanned."""
    return [LeftOut(f"{counted(count, 'file')}, names untold", _reason(foreign.DICOM))] if count else []
