"""What makes a folder a BIDS derivative: its description, and the list of the files that BIDS has no rule for."""

import json
import pathlib

from lgjax import __version__
from lgjax.runtime import files

_IGNORED = {  # by what the folder holds: patterns as in .gitignore
    "restorations": ("figures/",),
    "prepared scans": (
        "figures/",
        "*_desc-slices_*",
        "/index.json",
        "/preprocessing.json",
        "/qc.html",
        "/settings.json",
        "/summary.tsv",
    ),
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
