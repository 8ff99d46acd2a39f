"""SHA256SUMS of a folder: what `sha256sum -c` checks, and what is checked before a released model is used."""

import pathlib
import re

from lgjax.runtime import files
from lgjax.runtime.errors import InputError

NAME = "SHA256SUMS"
READ = ("model.safetensors", "*.json", "calibration/*")  # what is read of a folder, and so must be listed
AGAIN = "Copy the whole model again"


def write(folder: pathlib.Path) -> None:
    """Writes the digests of all files of a folder, in the format of coreutils."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{files.sha256(folder / name)}  {name}\n" for name in found if name != NAME]
    files.atomic_write(folder / NAME, "".join(lines))


def verify(folder: pathlib.Path) -> None:
    """Checks every file of a folder that `write` has listed.

    Raises:
      InputError: a file is damaged, missing or not listed, or the list itself is damaged.
    """
    listed = read(folder)
    for name, digest in listed.items():
        path = folder / name
        if not path.exists():
            raise InputError(path, f"is not there, and {NAME} lists it", AGAIN)
        with files.faults(path):
            if files.sha256(path) != digest:
                raise InputError(path, f"is damaged: its SHA-256 is not that of {NAME}", AGAIN)
    for path in (path for pattern in READ for path in folder.glob(pattern)):
        if path.relative_to(folder).as_posix() not in listed:
            raise InputError(path, f"is not listed in {NAME}", "Remove it, or copy the whole model again")


def names(folder: pathlib.Path, name: str) -> bool:
    """Returns whether a folder's list, sound or not, names a file."""
    try:
        return f"  {name}\n".encode() in (folder / NAME).read_bytes()
    except OSError:
        return False


def read(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digests of a folder's files by their names, as listed.

    Raises:
      InputError: there is no list, or it is damaged.
    """
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise InputError(path, "is not there: nothing tells whether the model is whole", AGAIN) from None
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", AGAIN) from error
    found = [re.fullmatch(r"([0-9a-f]{64})  (\w[\w./ -]*)", line) for line in lines[:-1]]
    if lines[-1] or not all(found):
        raise InputError(path, "is damaged: a line is no SHA-256 with a name", AGAIN)
    listed = {match[2]: match[1] for match in found if match}
    if any(".." in pathlib.PurePosixPath(name).parts for name in listed):
        raise InputError(path, "lists a file outside of the model", AGAIN)
    return listed
