"""What every command does before anything heavy is imported: Ctrl-C, --help, flags, words, bounds of the config."""

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from lgjax.runtime import files, signals, streams
from lgjax.runtime.errors import LgjaxError

if TYPE_CHECKING:
    from lgjax.cli.bids_app import Options

T = TypeVar("T")


def begin(command: str) -> list[str]:
    """Answers --help, or parses and checks the command line; a mistake ends with one line and exit code 2.

    Args:
      command: one of `commands.COMMANDS`.

    Returns:
      The words of the command line that are no flags.
    """
    _get_ready()
    from lgjax.cli import parse  # after the signals

    return _parsed(lambda: parse.parse(command, sys.argv))


def begin_bids() -> "Options":
    """Does the same for the BIDS-App, and returns its arguments."""
    _get_ready()
    from lgjax.cli import bids_app

    return _parsed(lambda: bids_app.parse_arguments(sys.argv[1:]))


def _get_ready() -> None:
    """Ends at once on signals, and bears what may be missing around a command: a terminal, a home folder."""
    signal.signal(signal.SIGINT, lambda *_: _end(130, signals.INTERRUPTED))
    signal.signal(signal.SIGTERM, lambda *_: _end(143))  # whatever is being written is written aside first
    streams.forgive()
    if os.path.expanduser("~") == "~":  # no home folder: matplotlib would complain in the first line
        os.environ.setdefault("MPLCONFIGDIR", str(files.cache_folder("matplotlib")))


def _parsed(parse: Callable[[], T]) -> T:
    """Parses the command line; a mistake ends the process with one line."""
    try:
        return parse()
    except LgjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _end(code: int, said: bytes = b"") -> None:
    if said:
        os.write(2, said)
    os._exit(code)
