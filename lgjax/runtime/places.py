"""What may be written about places of this machine: nothing that names its folders, its user or itself.

What is written may be shared: reports, sidecars, records. The terminal alone is told whole paths.
"""

import getpass
import os
import pathlib
import re
import shlex
import socket
from collections.abc import Iterable

_FOLDERS = re.compile(  # of a path from the root, the home folder, a drive or a folder above; names may hold spaces
    r"""(?<![\w./<~]) (?:~\w*|[A-Za-z]:|\.\.)? /(?!/) (?:[^/\n:"']*[^/\s:"']/)* (?=[^/\s])
    | (?<!\w) [A-Za-z]: \\ (?:[^\\\n:"']*\\)*""",
    re.VERBOSE,
)


def shown(path: str | os.PathLike) -> str:
    """Returns what may be written about a path that a user typed: all of it if it is relative, or its last name."""
    text = os.fspath(path)
    if is_elsewhere(text):
        text = os.path.basename(os.path.abspath(os.path.expanduser(text)))
    return _masked(told(text))


def is_elsewhere(path: str) -> bool:
    """Returns whether a path is more than a path within the working directory."""
    pure = pathlib.PurePath(path)
    return pure.is_absolute() or ".." in pure.parts or path.startswith("~")


def told(text: str) -> str:
    """Returns a message with the last name alone of each path that says where on this machine something lies."""
    return _FOLDERS.sub("", text)


def command(words: Iterable[str]) -> str:
    """Returns a command line for the record, with what may be written about the paths in it."""
    flags = (word.partition("=") for word in words)
    return shlex.join(name + mark + ",".join(map(shown, value.split(","))) for name, mark, value in flags)


def portable(path: str | os.PathLike, base: str | os.PathLike) -> str:
    """Returns a path as seen from the folder `base`, for a file in it; `resolved` finds the path again."""
    away = pathlib.PurePath(os.path.relpath(os.path.expanduser(path), base))
    return _masked(away.as_posix())


def resolved(text: str, base: str | os.PathLike) -> str:
    """Returns the absolute path of which `portable` wrote `text`."""
    names = {mask: name for name, mask in _masks().items()}
    parts = [names.get(part, part) for part in text.split("/")]
    return os.path.abspath(os.path.join(base, *parts))


def _masked(path: str) -> str:
    """Returns a path in which folders named after the user or the machine have a placeholder's name."""
    masks = _masks()
    return "/".join(masks.get(part, part) for part in path.split("/"))


def _masks() -> dict[str, str]:
    """Returns the names of the user, the home folder and the machine, each with what stands for it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container knows no user
        user = ""
    home = os.path.basename(os.path.expanduser("~").rstrip("/"))
    names = {socket.gethostname(): "{host}", home: "{home}", user: "{user}"}
    return {name: mask for name, mask in names.items() if name not in ("", "~")}
