"""Files that other processes remove, perhaps those of other hosts."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

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
