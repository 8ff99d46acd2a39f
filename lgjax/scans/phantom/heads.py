"""The label maps that synthetic heads come from, and the split that draws each of them.

A head is named by the SHA-256 of its file: a new name moves no head, and two copies of one map are one head, which two
splits cannot share by accident. With fewer than three heads every split draws all of them.
"""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from lgjax.runtime import files
from lgjax.runtime.errors import InputError

FEWEST = 3  # heads that can be told apart by split
HELD_OUT = 8  # one head in so many, at least one, is the test split's, and as many are calibration's


def find(labels: str) -> dict[str, Path]:
    """Finds the label maps of a folder (*.nii, *.nii.gz, *.mgz, in subfolders too), by SHA-256.

    Raises:
      InputError: the folder is missing, holds no label map, or one cannot be read.
    """
    folder = Path(labels)
    paths = sorted(f for f in folder.rglob("*") if f.name.endswith((".nii", ".nii.gz", ".mgz")))
    if not paths:
        raise InputError(folder, "holds no label map", "Name a folder of *.nii, *.nii.gz or *.mgz label maps")
    return {_sha256(path): path for path in paths}


def _sha256(path: Path) -> str:
    with files.faults(path):
        return _sha256_of(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, _changed: int) -> str:
    """Hashes a file once, since every subject asks; a file that is written anew is hashed anew."""
    return files.sha256(path)


def of_split(heads: Iterable[str], split: str) -> list[str]:
    """Returns the heads that a split draws, in an order that depends on the heads alone.

    Test and calibration take the heads whose hashes with the split's name are smallest; training takes the rest. A new
    head therefore moves few of the others. `dev` shares the heads of calibration, never those of test.

    Args:
      heads: names, all different.
      split: train, calibration, dev or test.
    """
    left = sorted(heads)
    if len(left) < FEWEST:
        return left
    size, taken = max(1, len(left) // HELD_OUT), {}
    for name in ("test", "calibration"):
        taken[name] = sorted(left, key=functools.partial(_rank, name))[:size]
        left = [head for head in left if head not in taken[name]]
    return sorted({**taken, "train": left, "dev": taken["calibration"]}[split])


def _rank(split: str, head: str) -> str:
    return hashlib.sha256(f"{split} {head}".encode()).hexdigest()


def describe(labels: str | None) -> str:
    """Tells which heads training draws, and what figures on other synthetic brains therefore do not measure.

    Args:
      labels: the folder of label maps; None: the MNI152 templates.
    """
    names = [""] if labels is None else list(find(labels))
    if len(names) < FEWEST:
        some = {1: "one head", 2: "two heads"}[len(names)]
        return f"made from {some} that all splits share, so synthetic figures do not measure unseen anatomy"
    train, calibration, test = (len(of_split(names, split)) for split in ("train", "calibration", "test"))
    return f"made from {train} of {len(names)} heads; calibration has {calibration} others, test {test}"
