"""Synthetic subjects kept on disk: each is made once, and later starts read it.

A subject lies in the `cache` under the digest of all that it is made from: seed, index, kind, heads and code. A file
holds about 0.2 MB: 150 MB for the 652 subjects of the paper.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np

from lgjax.runtime import files
from lgjax.scans.phantom import cache, heads
from lgjax.scans.phantom.anatomy import load_anatomies
from lgjax.scans.phantom.cache import code
from lgjax.scans.phantom.subject import make_subject
from lgjax.scans.volume import Scan, Volume


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


def get_subject(request: Request) -> Scan:
    """Reads a subject from the cache, or makes it and keeps it there; either way the same bits.

    Raises:
      InputError: the folder holds no label map, or one cannot be read.
    """
    content = cache.get(f"{digest(request)}.phantom", "subject", lambda: _encode(_make(request)))
    return _decode(content, f"phantom:{'healthy' if request.twin else request.kind}/{request.number}")


def _make(request: Request) -> Scan:
    thickness, gap = request.slab or (4.0, None)
    anatomies = load_anatomies(request.labels, request.split)
    who = anatomies, request.seed, request.number, request.kind
    return make_subject(*who, twin=request.twin, thickness=thickness, gap=gap)


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
