"""Faults of files whose names may tell who was scanned: what belongs to a DICOM series."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator

from lgjax.runtime.errors import InputError

FOUND = "the mask beside the series"
GIVEN = "the mask given for the series"
REFERENCE = "the reference of the series"
_OTHER = "a file beside it"


@contextlib.contextmanager
def unnamed(said: str, paths: Iterable[pathlib.Path]) -> Iterator[None]:
    """Turns an InputError into one that calls its file `said`, and quotes none of the paths, nor an end of one."""
    try:
        yield
    except InputError as fault:
        problem, remedy = fault.problem, fault.remedy
        for text in sorted({end for path in paths for end in _ends(path)}, key=len, reverse=True):
            problem, remedy = problem.replace(text, _OTHER), remedy.replace(text, _OTHER)
        raise InputError(said, problem, remedy) from fault


def _ends(path: pathlib.Path) -> Iterator[str]:
    """Yields a path, as it is and without the first of its folders."""
    for count in range(len(path.parts)):
        yield pathlib.PurePath(*path.parts[count:]).as_posix()
