"""What makes a folder a BIDS derivative: its description, its table of people, what BIDS has no rule for."""

import json
import pathlib
import urllib.parse
from collections.abc import Iterable
from typing import Any

from lgjax import __version__
from lgjax.derivatives import runs
from lgjax.runtime import files, places
from lgjax.scans import names, sources

_IGNORED = {  # by what the folder holds: patterns as in .gitignore
    "restorations": (
        "sub-*/figures",
        "/.lgjax",
        "/citations.bib",
        "/dicom",
        "/group_T2w.*",
        "/left_out.tsv",
        "/methods.md",
        "/results.json",
        "/run.json",
        "/viewer",
    ),
    "prepared scans": (
        "sub-*/figures",
        "*_desc-slices_*",
        "/.lgjax",
        "/index.json",
        "/left_out.tsv",
        "/preprocessing.json",
        "/qc.html",
        "/run.json",
        "/settings.json",
        "/summary.tsv",
    ),
}
_LEVELS = {
    "train": "the networks learn from them",
    "calibration": "lambda and thresholds come from them",
    "test": "they are for evaluation",
}
_COLUMNS = {  # of participants.tsv, beside the identifier
    "split": {"Description": "What the scans are for", "Levels": _LEVELS},
    "lesion_kind": {"Description": "Kind of lesion as the raw data set states it; healthy: no lesion"},
}


def describe(folder: pathlib.Path, content: str) -> None:
    """Writes dataset_description.json and .bidsignore.

    Args:
      folder: the data set.
      content: restorations or prepared scans.
    """
    description = {
        "Name": f"lgjax {content} (research use only)",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "lgjax", "Version": __version__}],
        **_links(folder),
    }
    files.atomic_write(folder / ".bidsignore", "".join(f"{pattern}\n" for pattern in _IGNORED[content]))
    files.atomic_write(folder / "dataset_description.json", json.dumps(description, indent=2) + "\n")


def _links(folder: pathlib.Path) -> dict[str, Any]:
    """Returns where `raw` of BIDS URIs lies as seen from a folder; nothing where the inputs lie in several places.

    Nothing either where the way there names the user or the machine.
    """
    inputs = [pathlib.Path(name) for name in runs.read(folder) if not sources.is_phantom(name)]
    roots = {path if path.is_dir() else path.parent for path in inputs}
    link = places.portable(roots.pop(), folder) if len(roots) == 1 else "{"
    return {} if "{" in link else {"DatasetLinks": {"raw": urllib.parse.quote(link)}}


def write_participants(folder: pathlib.Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Writes participants.tsv, a line for each subject of BIDS however many scans there are, and participants.json.

    Args:
      folder: the data set.
      rows: identifier, split and kind of lesion of each scan; "" where it is unknown.
    """
    people: dict[str, tuple[str, ...]] = {}
    for identifier, *values in rows:
        cells = [" ".join(value.split()) or "n/a" for value in values]
        people.setdefault(names.subject(identifier), tuple(cells))
    lines = ["\t".join(["participant_id", *_COLUMNS]), *("\t".join([name, *cells]) for name, cells in people.items())]
    files.atomic_write(folder / "participants.json", json.dumps(_COLUMNS, indent=2) + "\n")
    files.atomic_write(folder / "participants.tsv", "".join(f"{line}\n" for line in lines))
