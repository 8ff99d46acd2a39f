"""What every command does before anything heavy is imported: Ctrl-C, --help, flags, words, bounds of the config."""

import os
import signal
import sys

from lgjax.runtime import files, signals, streams
from lgjax.runtime.errors import LgjaxError


def begin(command: str) -> list[str]:
    """Answers --help, or parses and checks the command line; a mistake ends with one line and exit code 2.

    Args:
      command: one of `commands.COMMANDS`.

    Returns:
      The words of the command line that are no flags.
    """
    signal.signal(signal.SIGINT, lambda *_: _end(130, signals.INTERRUPTED))
    signal.signal(signal.SIGTERM, lambda *_: _end(143))  # whatever is being written is written aside first
    streams.forgive()
    if os.path.expanduser("~") == "~":  # no home folder: matplotlib would complain in the first line
        os.environ.setdefault("MPLCONFIGDIR", str(files.cache_folder("matplotlib")))
    from lgjax.cli import parse  # after the signals

    try:
        return parse.parse(command, sys.argv)
    except LgjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _end(code: int, said: bytes = b"") -> None:
    if said:
        os.write(2, said)
    os._exit(code)
