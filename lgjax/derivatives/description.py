"""What makes a folder a BIDS derivative: its description, its table of people, what BIDS has no rule for."""

import json
import pathlib
from collections.abc import Iterable

from lgjax import __version__
from lgjax.runtime import files
from lgjax.scans import names

_IGNORED = {  # by what the folder holds: patterns as in .gitignore
    "restorations": ("sub-*/figures", "/left_out.tsv", "/run.json"),
    "prepared scans": (
        "sub-*/figures",
        "*_desc-slices_*",
        "/index.json",
        "/left_out.tsv",
        "/preprocessing.json",
        "/qc.html",
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
    }
    files.atomic_write(folder / ".bidsignore", "".join(f"{pattern}\n" for pattern in _IGNORED[content]))
    files.atomic_write(folder / "dataset_description.json", json.dumps(description, indent=2) + "\n")


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
