"""The JSON file beside an image."""

import json
import pathlib
from typing import Any

from lgjax.scans.finding import folders


def read(image: pathlib.Path) -> dict[str, Any]:
    """Reads X.json beside X.nii.gz; {} where there is none that can be read, since a scan needs none."""
    if not image.name:  # the current folder, a series
        return {}
    path = image.with_name(f"{folders.stem(image)}.json")
    try:
        record = json.loads(path.read_bytes()) if path != image and path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
