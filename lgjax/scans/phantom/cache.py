"""What synthetic subjects are made of takes seconds to make: made once, kept on disk, and read by later starts.

A file lies in XDG_CACHE_HOME/lgjax/phantoms under a digest of all that its content is made from, the code of this
package and the libraries whose numbers it depends on included. A file holds the SHA-256 of its content and that
content. The folder may be deleted at any time.
"""

import functools
import hashlib
import importlib.metadata
import importlib.resources
import logging
import pathlib
from collections.abc import Callable

from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault

LOG = logging.getLogger(__name__)
LIBRARIES = ("numpy", "scipy", "nilearn", "nibabel")


@functools.cache
def code() -> str:
    """Returns SHA-256 of the code that makes subjects, and of the versions of the libraries below it."""
    found = hashlib.sha256(repr([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    sources = importlib.resources.files(__package__).iterdir()
    for source in sorted((s for s in sources if s.name.endswith(".py")), key=lambda s: s.name):
        found.update(source.read_bytes())
    return found.hexdigest()


def get(name: str, noun: str, make: Callable[[], bytes]) -> bytes:
    """Reads a content from the cache, or makes it and keeps it there.

    Args:
      name: of the file, which holds the digest of all that the content is made from.
      noun: what messages call it, such as "subject".
      make: returns the content.
    """
    path = files.cache_folder("phantoms") / name
    content = _read(path, noun)
    if content is None:
        content = make()
        _write(path, content)
    return content


def _read(path: pathlib.Path, noun: str) -> bytes | None:
    """Reads what `_write` wrote; None where that is missing or damaged."""
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        LOG.warning("%s cannot be read (%s): the %s is made again", path, error, noun)
        return None
    if written[:32] == hashlib.sha256(written[32:]).digest():
        return written[32:]
    LOG.warning("%s is damaged: the %s is made again", path, noun)
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
