"""Files and folders that other processes remove, perhaps those of other hosts."""

import contextlib
import errno
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
TRIES, _PAUSE = 20, 0.05  # s
GONE = (errno.ENOENT, errno.ESTALE)  # the latter is how NFS says that another host has removed an open file


@contextlib.contextmanager
def if_there() -> Iterator[None]:
    """Ends a block early where a file that the block needs is gone."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


def list_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists a folder; [] where it is not there."""
    with if_there():
        return list(folder.iterdir())
    return []


def insist(make: Callable[[], T]) -> T:
    """Makes what needs a folder that another process may just be removing; after `TRIES` the last error stands.

    Raises:
      OSError: what `make` raises at last, as where a file system says for good that a folder is gone.
    """
    for _ in range(TRIES - 1):
        with if_there():
            return make()
        time.sleep(_PAUSE)
    return make()
