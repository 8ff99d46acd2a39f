"""Data sets of nnU-Net and the Medical Segmentation Decathlon: imagesTr with labelsTr, imagesTs with labelsTs."""

import json
import pathlib
import re
from typing import NamedTuple

from lgjax.runtime.errors import UsageError

_FOLDERS = ("imagesTr", "imagesVal", "imagesTs")
_FILE = re.compile(r"(?P<case>.+?)(_(?P<channel>\d{4}))?\.nii(\.gz)?", re.IGNORECASE)
_T2 = re.compile(r"(^|[^a-z0-9])t2[ -]?w?(?![a-z0-9*])", re.IGNORECASE)
_NO_T2 = re.compile(r"flair|star|\*|map", re.IGNORECASE)
_MASK = re.compile(r"_(mask|bet)$", re.IGNORECASE)
_TABLE = "list the scans in a table (--input=table.tsv)"


class Case(NamedTuple):
    """One case of a data set."""

    name: str
    image: pathlib.Path  # its T2 channel
    looked_for: pathlib.Path  # where its reference belongs, without extension
    reference: pathlib.Path | None


def find(root: pathlib.Path) -> list[Case]:
    """Lists the cases of a data set; () where the folder is none.

    Args:
      root: the data set, or its folder of images or of labels.

    Raises:
      UsageError: nothing tells which of several channels is T2, or dataset.json says that none is.
    """
    if re.fullmatch(r"(images|labels)(Tr|Ts|Val)", root.resolve().name):
        folders = [root.resolve().parent / root.resolve().name.replace("labels", "images")]
        folders = [root] if folders[0] == root.resolve() else folders
    else:
        folders = [root / name for name in _FOLDERS]
    return [case for folder in folders if folder.is_dir() for case in _cases(folder)]


def _cases(folder: pathlib.Path) -> list[Case]:
    """Lists the cases of one folder of images."""
    matches = [(path, match) for path in sorted(folder.iterdir()) if (match := _FILE.fullmatch(path.name))]
    matches = [(path, match) for path, match in matches if not path.name.startswith(".")]
    channels = sorted({match["channel"] for _, match in matches if match["channel"]})
    if not matches:
        return []
    wanted = _channel(folder, channels)
    if channels and wanted not in channels:
        told = (
            f"{folder} has no file of the channel {wanted}, which dataset.json calls T2, but of {', '.join(channels)}"
        )
        raise UsageError(f"{told}. Add the T2 scans, or {_TABLE}.")
    parent = folder.parent if folder.name else pathlib.Path("..")  # of "."
    labels = parent / folder.absolute().name.replace("images", "labels")
    found = []
    for path, match in matches:
        if match["channel"] == wanted if channels else not _MASK.search(match["case"]):
            place = labels / match["case"]
            files = [place.with_name(place.name + end) for end in (".nii.gz", ".nii")]
            found.append(Case(match["case"], path, place, next(filter(pathlib.Path.is_file, files), None)))
    return found


def _channel(folder: pathlib.Path, channels: list[str]) -> str:
    """Returns the channel that is T2, as four digits."""
    path = folder.resolve().parent / "dataset.json"
    names = _names(path)
    if not names:
        if len(channels) > 1:
            told = f"{folder} has the channels {', '.join(channels)}, and no dataset.json says which of them is T2"
            raise UsageError(f"{told}. Add its channel_names, or {_TABLE}.")
        return "".join(channels)
    t2 = [f"{int(number):04d}" for number, name in names.items() if _T2.search(name) and not _NO_T2.search(name)]
    if len(t2) != 1:
        told = f"{path} names the channels {', '.join(names.values())}: {'several are' if t2 else 'none is'} T2"
        raise UsageError(f"{told}. Correct it, or {_TABLE}.")
    return t2[0]


def _names(path: pathlib.Path) -> dict[str, str]:
    """Returns the names of the channels by number, from dataset.json; {} where it does not tell."""
    try:
        content = json.loads(path.read_bytes())
        names = content.get("channel_names") or content.get("modality") or {}
        return {number: str(name) for number, name in names.items() if number.isdigit()}
    except (OSError, ValueError, AttributeError):
        return {}
