"""Scans that lgjax.preprocess wrote: what the sidecar beside such a scan says of it."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans.volume import Volume

NAME = "_desc-preproc_T2w.nii.gz"  # how lgjax.preprocess names a scan whose bias field it has seen to


class Preparation(NamedTuple):
    """What the sidecar of a prepared scan says."""

    input_sha256: str  # of the raw scan
    sha256: str  # of the prepared one
    bias_field: str  # canonical JSON of the settings of the bias field removed, "null" if none was
    warnings: tuple[str, ...]
    participant: str  # who was scanned; "" where that was not noted


def read_image(read: Callable[[pathlib.Path], Volume], path: pathlib.Path) -> Volume:
    """Reads a scan; a prepared one keeps the identity and the warnings of the scan that it was made from."""
    preparation = read_preparation(path)
    image = read(path)
    if preparation is None:
        return image
    if image.sha256 != preparation.sha256:
        raise InputError(path, "was changed since it was prepared", "Prepare the scan again with lgjax.preprocess")
    warnings = tuple(dict.fromkeys((*preparation.warnings, *image.warnings)))
    return dataclasses.replace(image, sha256=preparation.input_sha256, warnings=warnings)


def noted(path: pathlib.Path) -> dict[str, str]:
    """Returns what a prepared scan's sidecar says of its subject."""
    try:
        preparation = read_preparation(path)
    except InputError:  # said when the scan is read
        return {}
    return {"bias_field": preparation.bias_field, "person": preparation.participant} if preparation else {}


def read_preparation(path: pathlib.Path) -> Preparation | None:
    """Reads what lgjax.preprocess noted beside a scan; None where it did not make the scan.

    Raises:
      InputError: the sidecar is damaged.
    """
    sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    if not path.name.endswith(NAME) or not os.path.lexists(sidecar):
        return None
    remedy = "Prepare the scan again with lgjax.preprocess"
    with files.faults(sidecar):
        content = sidecar.read_bytes()
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(sidecar, f"is no JSON: {error}", remedy) from error
    if not isinstance(record, dict) or not {"InputSHA256", "SHA256"} & record.keys():
        return None  # another program's
    identity, digest = (record.get(name, "") for name in ("InputSHA256", "SHA256"))
    warnings = record.get("Warnings", [])
    if (
        not all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in (identity, digest))
        or not (isinstance(warnings, list) and all(isinstance(warning, str) for warning in warnings))
        or not isinstance(record.get("BiasField", ""), dict | None)
    ):
        raise InputError(sidecar, "is damaged: InputSHA256, SHA256, BiasField or Warnings is not as written", remedy)
    bias_field, person = json.dumps(record["BiasField"], sort_keys=True), record.get("Participant", "")
    return Preparation(identity, digest, bias_field, tuple(warnings), person if isinstance(person, str) else "")
