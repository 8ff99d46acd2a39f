"""Files of one name: the same image twice, as X.nii beside X.nii.gz, or two images of which none can be chosen."""

import hashlib
import pathlib
from collections.abc import Sequence

from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans import nifti
from lgjax.scans.finding import folders

_CHUNK = 1 << 20  # bytes


def are_same(paths: Sequence[pathlib.Path]) -> bool:
    """Returns whether images hold the same bytes, unpacked; False where one of them cannot be read."""
    try:
        return len({_digest(path) for path in paths}) == 1
    except InputError:  # said when the scan is read
        return False


def beside(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists an image and others of its name, packed or not; the parts of a pair are one image."""
    stem, first = folders.stem(path), nifti.parts(path)[0]
    named = [path.with_name(stem + end) for end in (".nii", ".nii.gz", ".hdr", ".hdr.gz")]
    return [path, *(other for other in named if other not in (path, first) and other.is_file())]


def _digest(path: pathlib.Path) -> str:
    """Returns SHA-256 of an image's bytes, unpacked."""
    digest = hashlib.sha256()
    for part in nifti.parts(path):
        with files.faults(part), files.Stream(part) as stream:
            while content := stream.read(_CHUNK):
                digest.update(content)
    return digest.hexdigest()
