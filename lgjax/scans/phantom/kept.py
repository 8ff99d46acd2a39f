"""Synthetic subjects kept on disk: each is made once, and later starts read it.

A subject lies in XDG_CACHE_HOME/lgjax/phantoms under the digest of all that it is made from: seed, index, kind, heads,
the code of this package and the libraries whose numbers it depends on. A file holds the SHA-256 of its content and that
content, about 0.2 MB: 150 MB for the 652 subjects of the paper. The folder may be deleted at any time.
"""

import functools
import hashlib
import importlib.metadata
import importlib.resources
import io
import logging
import pathlib
from typing import NamedTuple

import numpy as np

from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault
from lgjax.scans.phantom import heads
from lgjax.scans.phantom.anatomy import load_anatomies
from lgjax.scans.phantom.subject import make_subject
from lgjax.scans.volume import Scan, Volume

LOG = logging.getLogger(__name__)
LIBRARIES = ("numpy", "scipy", "nilearn", "nibabel")


class Request(NamedTuple):
    """One synthetic subject."""

    labels: str | None  # a folder of label maps; None: the MNI152 templates
    split: str  # whose heads are drawn
    seed: int
    number: int
    kind: str  # as in make_subject
    slab: tuple[float, float] | None = None  # mm, thickness of slices and gap between them; None: 24 slices of 4 mm
    twin: bool = False  # the healthy brain that a patient was made from


def digest(request: Request) -> str:
    """Returns SHA-256 of all that a subject is made from; a folder's name and place do not count, its maps do.

    Raises:
      InputError: the folder holds no label map, or one cannot be read.
    """
    maps = request.labels and heads.of_split(heads.find(request.labels), request.split)
    return files.digest([code(), maps, *request[2:]])


@functools.cache
def code() -> str:
    """Returns SHA-256 of the code that makes subjects, and of the versions of the libraries below it."""
    found = hashlib.sha256(repr([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    sources = importlib.resources.files(__package__).iterdir()
    for source in sorted((s for s in sources if s.name.endswith(".py")), key=lambda s: s.name):
        found.update(source.read_bytes())
    return found.hexdigest()


def get_subject(request: Request) -> Scan:
    """Reads a subject from the cache, or makes it and keeps it there; either way the same bits.

    Raises:
      InputError: the folder holds no label map, or one cannot be read.
    """
    path = files.cache_folder("phantoms") / f"{digest(request)}.phantom"
    content = _read(path)
    if content is None:
        content = _encode(_make(request))
        _write(path, content)
    return _decode(content, f"phantom:{'healthy' if request.twin else request.kind}/{request.number}")


def _make(request: Request) -> Scan:
    thickness, gap = request.slab or (4.0, None)
    anatomies = load_anatomies(request.labels, request.split)
    who = anatomies, request.seed, request.number, request.kind
    return make_subject(*who, twin=request.twin, thickness=thickness, gap=gap)


def _read(path: pathlib.Path) -> bytes | None:
    """Reads what `_write` wrote; None where that is missing or damaged."""
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        LOG.warning("%s cannot be read (%s): the subject is made again", path, error)
        return None
    if written[:32] == hashlib.sha256(written[32:]).digest():
        return written[32:]
    LOG.warning("%s is damaged: the subject is made again", path)
    return None


def _write(path: pathlib.Path, content: bytes) -> None:
    """Writes all of a file or nothing; a cache that cannot be written costs time only."""
    try:
        files.atomic_write(path, hashlib.sha256(content).digest() + content)
    except EnvironmentFault as error:
        _warn_once(str(path.parent), str(error))


@functools.cache
def _warn_once(folder: str, problem: str) -> None:
    LOG.warning("synthetic subjects are made anew at each start, since %s cannot be written: %s", folder, problem)


def _encode(scan: Scan) -> bytes:
    """Packs a subject: whole numbers up to 32767, of which those above 0 are the brain, and bits for the masks."""
    assert scan.lesion is not None
    assert scan.displaced is not None
    stream = io.BytesIO()
    masks = np.packbits(np.stack([scan.lesion, scan.displaced]))
    np.savez_compressed(stream, image=scan.image.data.astype(np.uint16), masks=masks, affine=scan.image.affine)
    return stream.getvalue()


def _decode(content: bytes, source: str) -> Scan:
    """Inverts `_encode`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        image, affine, masks = arrays["image"].astype(np.float32), arrays["affine"], arrays["masks"]
    lesion, displaced = np.unpackbits(masks, count=2 * image.size).reshape(2, *image.shape).astype(bool)
    volume = Volume(image, affine, None, hashlib.sha256(image.tobytes()).hexdigest(), source)
    return Scan(volume, image > 0, lesion, displaced)
