"""The images in folders, by the names of files; no image is opened."""

import pathlib
import re
from collections.abc import Iterable, Iterator

NIFTI = r"\.(nii|hdr)(\.gz)?$"
# X_bet comes last: beside X it is the mask that HD-BET 2 writes, but the stripped scan where X_bet has a mask itself.
_MASKS = ("_mask", "_desc-brain_mask", "_brain_mask", "_bet_mask", "_brain_bet", "_bet_bet", "_bet")

Index = dict[tuple[pathlib.Path, str], pathlib.Path]


def is_nifti(path: pathlib.Path) -> bool:
    """Returns whether a file is named like a NIfTI image, or like the header of a pair."""
    return bool(re.search(NIFTI, path.name, re.IGNORECASE)) and not path.name.startswith(".")


def stem(path: pathlib.Path) -> str:
    """Returns the name without .nii, .hdr or .img, and .gz."""
    return re.sub(r"\.(nii|hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def home(path: pathlib.Path) -> pathlib.Path:
    """Returns the folder that a file belongs to: not the one that is named like the file itself."""
    folder = path.parent
    return folder.parent if is_nifti(folder) and stem(folder).lower() == stem(path).lower() else folder


def images(root: pathlib.Path, patterns: Iterable[str]) -> Iterator[pathlib.Path]:
    """Yields NIfTI files (by their names; a broken link is listed too, and reported when it is read).

    Of a folder that is named like a scan, as unpackers make them, the file of the same name inside is yielded.
    """
    seen = set()
    for pattern in patterns:  # of fixed depth: a link to a parent folder cannot send us round
        for path in sorted(root.glob(pattern)):
            for file in (inside(path) if path.is_dir() else [path]) if is_nifti(path) else []:
                if file not in seen:
                    seen.add(file)
                    yield file


def inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files X.nii in a folder that is named X.nii too."""
    inner = [path for path in sorted(folder.glob("*")) if is_nifti(path) and not path.is_dir()]
    return [path for path in inner if stem(path).lower() == stem(folder).lower()]


def index(paths: Iterable[pathlib.Path]) -> Index:
    """Returns the files by folder and name without extension, in lower case."""
    return {(home(path), stem(path).lower()): path for path in paths}


def first(known: Index, places: list[pathlib.Path], stems: list[str]) -> pathlib.Path | None:
    """Returns the first file that has one of the names, in the order of the folders, then of the names."""
    keys = ((folder, name.lower()) for folder in places for name in stems)
    return next((known[key] for key in keys if key in known), None)


def mask_of(known: Index, image: pathlib.Path) -> pathlib.Path | None:
    """Returns the brain mask in the image's own folder that is named after it."""
    return first(known, [home(image)], [stem(image) + suffix for suffix in _MASKS])


def beside(files: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Lists the images in the folders of some files, each folder once."""
    return [path for place in dict.fromkeys(map(home, files)) for path in images(place, ("*",))]


def mask_beside(image: pathlib.Path) -> pathlib.Path | None:
    """Finds the brain mask in the folder of a scan, by its name."""
    return mask_of(index(beside([image])), image)


def is_derived(known: Index, image: pathlib.Path) -> bool:
    """Tells whether a file X_bet, X_brain or X_Crop_1 was made from a file X beside it, and is no other subject."""
    start = stem(image).lower()
    while (shorter := re.sub(r"_(bet|brain|crop_\d+)$", "", start)) != start:
        if (home(image), shorter) in known:
            return True
        start = shorter
    return False
