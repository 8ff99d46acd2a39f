"""Subjects of data sets that name their files by rules: BIDS, Cam-CAN, BraTS and nnU-Net."""

import json
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lgjax.scans import names, tables
from lgjax.scans.finding import folders, labels, nnunet, written
from lgjax.scans.finding.folders import NIFTI, home, stem
from lgjax.scans.finding.listing import NO_T2, Files, LeftOut, Listing, Other, below

# BraTS 2012 to 2021: Brats18_2013_11_1_t2.nii.gz; from 2023: BraTS-GLI-00000-000-t2w.nii.gz
_BRATS = re.compile(r"(?P<case>brats.*)(?P<mark>[_-])t2w?" + NIFTI, re.IGNORECASE)
_BRATS_CASE = re.compile(r"(?P<case>brats.*?)[_-](t1\w*|t2\w*|flair|seg|mask)" + NIFTI, re.IGNORECASE)
_BIDS = re.compile(r"sub-[^_]+(_[a-zA-Z]+-[^_]+)*_T2w" + NIFTI)
_CAMCAN = ("", "anat/", "*/anat/", "*/*/anat/", "*/*/*/anat/", "*/*/*/*/anat/")  # cc700/mri/pipeline/release004/BIDS*/


def bids(root: pathlib.Path, other: Other, subjects: str = "sub-*", places: tuple[str, ...] = (".",)) -> Listing[Files]:
    """Lists the subjects of a BIDS folder whose folders match `subjects`; participants.tsv is in one of `places`."""
    layouts = (f"{subjects}/anat/*", f"{subjects}/ses-*/anat/*")
    named = [path for path in folders.images(root, layouts) if _BIDS.fullmatch(path.name)]
    reasons = {image: written.here(image) or other(image, [stem(image)]) for image in named}
    images = [image for image in named if not reasons[image]]
    table = next((path for place in places if (path := root / place / "participants.tsv").is_file()), None)
    participants = tables.read(table) if table else tables.Table([])
    left_out = [each for image in named if reasons[image] for each in below(root, [image], reasons[image])]
    left_out += _without_scan(root, subjects, images, participants.rows)
    if not images:
        return Listing([], tuple(left_out))
    kinds = {_subject(row): row.get("lesion_kind", "") for row in participants.rows}
    anywhere = (*layouts, f"{subjects}/*", f"{subjects}/ses-*/*")  # derivatives may lack the folder anat, as ISLES' do
    derivatives = [f"derivatives/{inner}{layout}" for inner in ("", "*/") for layout in anywhere]
    paths = list(folders.images(root, (*layouts, *derivatives)))
    index, shelf = folders.index(paths), labels.shelve(paths)
    scans = Counter(home(image) for image in images)
    pipelines = [folder for folder in sorted((root / "derivatives").glob("*")) if not is_ours(folder)]
    found = []
    for image in images:
        start = stem(image).removesuffix("_T2w")
        # The name is every entity but those that tell how the image was processed.
        name = re.sub(r"_(desc|space|res)-[^_]+", "", start)
        folder = home(image).relative_to(root)
        where = [home(image), *(pipeline / folder for pipeline in (root / "derivatives", *pipelines))]
        starts = (start, name, f"{name}_space-orig")
        mask = folders.first(index, where, [f"{each}_desc-brain_mask" for each in starts])
        mask = mask or folders.mask_of(index, image)
        where += [each.parent for each in where[1:]]
        reference = labels.bids(image, where, shelf, alone=scans[home(image)] == 1)
        found.append(Files(names.of_session(name, folder), image, mask, reference, kinds.get(name.split("_")[0], "")))
    return Listing(found, tuple(left_out), participants.notes)


def camcan(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists Cam-CAN's release: a folder a modality, each with subject folders; `root` is any folder on the way."""
    for pattern in _CAMCAN:
        releases = sorted({path.parent for path in root.glob(f"{pattern}sub-CC*")})
        listings = [(release, bids(release, other, "sub-CC*", (".", ".."))) for release in releases]
        listings = [(release, listing) for release, listing in listings if listing.found]  # no T2 is in dwi/
        if listings:
            left = [(release / each.name, each.reason) for release, listing in listings for each in listing.left_out]
            return Listing(
                [files for _, listing in listings for files in listing.found],
                tuple(each for path, reason in left for each in below(root, [path], reason)),
                tuple(note for _, listing in listings for note in listing.notes),
            )
    return Listing([])


def brats(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists the cases of a BraTS folder, each in a folder of its own or not."""
    everything = list(folders.images(root, ("*", "*/*", "*/*/*", "*/*/*/*")))
    ours = [path for path in everything if _BRATS.fullmatch(path.name) and written.here(path)]
    paths = [path for path in everything if path not in ours]
    index = folders.index(paths)
    found, begins = [], []
    for image in paths:
        if match := _BRATS.fullmatch(image.name):
            start = match["case"] + match["mark"]
            mask = folders.first(index, [home(image)], [f"{start}mask"]) or folders.mask_of(index, image)
            found.append(Files(match["case"], image, mask))
            begins.append((start,))
    left_out = (*cases_without(found, paths, _BRATS_CASE), *below(root, ours, written.REASON))
    return Listing(with_references(found, begins, paths), left_out)


def is_bids(root: pathlib.Path) -> bool:
    """Returns whether a folder holds images in the folders and with the names of BIDS."""
    found = folders.images(root, ("sub-*/anat/*", "sub-*/ses-*/anat/*"))
    return any(re.fullmatch(r"sub-[^_]+(_[a-zA-Z0-9]+-[^_]+)*_[a-zA-Z0-9]+", stem(path)) for path in found)


def nnu(root: pathlib.Path, other: Other) -> Listing[Files]:
    """Lists the cases of a data set as nnU-Net keeps it."""
    found, every = [], nnunet.find(root)
    ours = [case.image for case in every if written.here(case.image)]
    cases = [case for case in every if case.image not in ours]
    index = folders.index(folders.beside(case.image for case in cases))
    for case in cases:
        names = (f"{case.looked_for.parent.name}/{case.looked_for.name}",)
        reference = labels.given(case.reference)._replace(looked_for=names)
        found.append(Files(case.name, case.image, folders.mask_of(index, case.image), reference))
    return Listing(found, tuple(below(root, ours, written.REASON)))


def cases_without(found: Iterable[Files], paths: Iterable[pathlib.Path], pattern: re.Pattern) -> tuple[LeftOut, ...]:
    """Names the cases of which there are other files but no T2 scan."""
    have = {files.name.lower() for files in found}
    cases = [match["case"] for path in paths if (match := pattern.match(path.name))]
    return tuple(LeftOut(case, NO_T2) for case in dict.fromkeys(cases) if case.lower() not in have)


def with_references(found: list[Files], begins: Sequence[Sequence[str]], paths: Iterable[pathlib.Path]) -> list[Files]:
    """Returns subjects with what the names of the files around them tell of their references."""
    scans = [(files.image, begin) for files, begin in zip(found, begins, strict=True)]
    references = labels.beside(scans, labels.shelve(paths))
    return [files._replace(reference=each) for files, each in zip(found, references, strict=True)]


def starts(found: Iterable[Files]) -> list[tuple[str, str]]:
    """Returns how the names of what belongs to each scan begin: its own, and that without the mark of its sequence."""
    stems = [stem(files.image) for files in found]
    return [(name, re.sub(r"(?i)(?<=.)[_.-]t2w?(?=[_.-]|$).*", "", name)) for name in stems]


def _subject(row: dict[str, str]) -> str:
    return f"sub-{row['participant_id'].removeprefix('sub-')}"


def _without_scan(
    root: pathlib.Path, subjects: str, images: list[pathlib.Path], rows: list[dict[str, str]]
) -> list[LeftOut]:
    """Names the subjects and sessions of a BIDS folder of which there is no T2 scan, and those of the table alone."""
    have = {home(image).parent for image in images}
    known = [folder for folder in sorted(root.glob(subjects)) if folder.is_dir()]
    left_out = []
    for folder in known:
        sessions = [session for session in sorted(folder.glob("ses-*")) if session.is_dir()]
        if folder not in have:
            left_out += below(root, [each for each in sessions or [folder] if each not in have], NO_T2)
    absent = dict.fromkeys(map(_subject, rows)).keys() - {folder.name for folder in known}
    return left_out + [LeftOut(name, "in participants.tsv, without a folder") for name in sorted(absent)]


def is_ours(folder: pathlib.Path) -> bool:
    """Returns whether lgjax wrote a BIDS derivative: its masks are results, not what a user gives."""
    try:
        made = json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"]
        return any(maker["Name"] == "lgjax" for maker in made)
    except (OSError, ValueError, KeyError, TypeError):
        return False
