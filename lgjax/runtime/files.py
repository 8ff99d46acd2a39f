"""Files on disk: all-or-nothing writing, reading that verifies and stays bounded, checksums."""

import contextlib
import glob
import gzip
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from isal import igzip, isal_zlib

from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError

_CHUNK = 1 << 20  # bytes
_MAX_PADDING = 1 << 20  # bytes of zeros tolerated after the content
_SHOWN = 60  # characters of a name in that of its temporary file
_MAX_DEFLATE_RATIO = 1032  # what deflate can reach
COPY_AGAIN = "Copy or download the file again"


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a whole file as `atomic_file` does.

    Args:
      path: the final name.
      data: the content; text is written as UTF-8.

    Raises:
      EnvironmentFault: disk full, no permission, read-only file system; the temporary file is gone.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for writing so that a reader sees all of it or none of it, whatever interrupts the writing.

    The bytes go to a temporary file in the same folder (made if absent), reach the disk, and then take the
    final name. A link of that name is replaced, never followed.

    Args:
      path: the final name.

    Raises:
      EnvironmentFault: disk full, no permission, read-only file system; the temporary file is gone.
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # a KeyboardInterrupt leaves no litter either
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Makes a folder so that a reader sees all of it or none of it: beside its place, where it goes last.

    Args:
      path: the final name, which nothing has yet.

    Raises:
      EnvironmentFault: the folder cannot be made or named; what was written is gone. What the `with` block raises,
        and that is more than writing, is raised as it is.
    """
    path = pathlib.Path(path)
    temporary = _beside(path)
    with refusals(path):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with refusals(path):
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def refusals(path: pathlib.Path) -> Iterator[None]:
    """Turns what a disk raises that refuses into an EnvironmentFault about a path, which is being written."""
    try:
        yield
    except OSError as error:
        remedy = "Make room, check the permissions, or choose another output folder"
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror or error}. {remedy}.") from error


def sweep(path: pathlib.Path) -> None:
    """Removes the temporary files that killed processes left of files whose names begin with that of a path.

    Nobody may be writing such files now. Of names too long to be told apart, the files stay.
    """
    if len(path.name) <= _SHOWN:
        for left in path.parent.glob(f".{glob.escape(path.name)}*.tmp"):
            left.unlink(missing_ok=True)


def _beside(path: pathlib.Path) -> pathlib.Path:
    """Returns a name in the same folder that nothing has."""
    return path.with_name(f".{path.name[:_SHOWN]}.{secrets.token_hex(6)}.tmp")


def cache_folder(name: str) -> pathlib.Path:
    """Returns the folder of this user for what can be made again: XDG_CACHE_HOME/lgjax/`name`.

    A user without a home folder gets one among the temporary files.
    """
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or _home_cache()) / "lgjax" / name


def _home_cache() -> pathlib.Path:
    try:
        return pathlib.Path.home() / ".cache"
    except RuntimeError:  # a container may run as a user that it does not know
        number = os.getuid() if hasattr(os, "getuid") else 0
        return pathlib.Path(tempfile.gettempdir()) / f"cache-{number}"


def check_contained(folder: pathlib.Path, place: pathlib.Path) -> None:
    """Raises InputError if links lead `place`, where a subject's files go, out of the output folder."""
    if not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(place, "leads out of the output folder by a link", "Remove it, or name another output folder")


def check_folder(folder: str | os.PathLike) -> None:
    """Raises UsageError where outputs are to go into a folder, and a file has its name."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{folder} is a file, and outputs go into a folder. Name another one.")


def check_regular(path: pathlib.Path) -> None:
    """Raises InputError for a folder, and for a pipe, whose opening would block."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise InputError(path, f"is {kind}", "Give the path of a file")


def sha256(*paths: str | os.PathLike) -> str:
    """Returns the hex SHA-256 digest of the bytes of one file, or of several one after the other.

    Raises:
      OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        check_regular(pathlib.Path(path))
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def digest(value: Any) -> str:
    """Returns the hex SHA-256 digest of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Stream:
    """The bytes of one file, unpacked if it is gzip, read once and forwards in bounded pieces.

    Attributes:
      start: the first 512 bytes on disk, to tell what kind of file it is.
      compressed: whether it is gzip, judged by these.
      position: how many (unpacked) bytes have been read.
    """

    def __init__(self, path: pathlib.Path):
        check_regular(path)
        self._path = path
        self._file = open(path, "rb")  # noqa: SIM115, closed by close()
        self._size = os.fstat(self._file.fileno()).st_size
        self.start = self._file.read(512)
        self.compressed = self.start.startswith(b"\x1f\x8b")
        self.position = 0
        self._file.seek(0)
        self._bytes = igzip.IGzipFile(fileobj=self._file, mode="rb") if self.compressed else self._file

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, n: int) -> bytes:
        """Returns n bytes, fewer only at the end of the file.

        Raises:
          EOFError: the gzip stream is cut off.
          BadGzipFile: something else follows it.
        """
        try:
            content = self._bytes.read(n)
        except EOFError:  # a few bytes behind the end are a header cut short to ISA-L, and no header to Python's gzip
            with gzip.open(self._path) as file:
                while file.read(_CHUNK):
                    pass
            raise
        self.position += len(content)
        return content

    def expect(self, n: int) -> None:
        """Raises EOFError if the file is too small to hold n more bytes, before memory is taken."""
        if self.position + n > self._size * (_MAX_DEFLATE_RATIO if self.compressed else 1):
            raise EOFError(f"{n} bytes of content are declared, the file has {self._size}")

    def fill(self, view: memoryview) -> None:
        """Fills `view`, a contiguous view of bytes."""
        for start in range(0, len(view), _CHUNK):
            piece = view[start : start + _CHUNK]
            content = self.read(len(piece))
            if len(content) < len(piece):
                raise EOFError(f"it ends after {self.position} bytes")
            piece[:] = content

    def skip(self, n: int) -> None:
        """Passes over n bytes."""
        while n > 0:
            content = self.read(min(n, _CHUNK))
            if not content:
                raise EOFError(f"it ends after {self.position} bytes")
            n -= len(content)

    def finish(self) -> None:
        """Reads to the end, which verifies the gzip checksum; nothing but some zeros may follow.

        Raises:
          InputError: there is more.
        """
        padding = 0
        while content := self.read(_CHUNK):
            padding += len(content)
            if padding > _MAX_PADDING or content.strip(b"\0"):
                raise InputError(self._path, "has data after its declared content", COPY_AGAIN)


@contextlib.contextmanager
def faults(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever reading can raise into an InputError about `path`."""
    try:
        yield
    except EOFError as error:
        raise InputError(path, f"is truncated: {error}".rstrip("."), COPY_AGAIN) from error
    except gzip.BadGzipFile as error:
        # The magic of the first member is known to be right, so this one is said of what follows it.
        trailing = "Not a gzipped file" in str(error)
        problem = "has data after the end of its gzip stream" if trailing else f"is damaged: {error}"
        raise InputError(path, problem, COPY_AGAIN) from error
    except isal_zlib.error as error:  # type: ignore[misc]  # a class, though the stubs call it an exception
        raise InputError(path, f"is damaged: {error}", COPY_AGAIN) from error
    except FileNotFoundError as error:
        if path.is_symlink():
            problem, remedy = "is a link to a file that is not there", "Fetch the content, or mend the link"
            if ".git/annex/" in os.readlink(path).replace("\\", "/"):
                problem = "is a git-annex link, and the content is not there"
                remedy = "Fetch the content with `datalad get` or `git annex get`"
        else:
            problem = "does not exist" if not path.exists() else f"lacks {error.filename}"
            remedy = "Check the path"
        raise InputError(path, problem, remedy) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(path, f"cannot be read: {reason}", "Check the path and permissions") from error


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes the new name itself survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
