"""Runs a command whose flags are parsed: turns what it raises into one line and an exit code."""

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import flags
from absl import logging as absl_logging

from lgjax import __version__
from lgjax.runtime import devices, hosts, progress, signals
from lgjax.runtime.errors import EnvironmentFault, LgjaxError

_LOST = "Another host was lost. Run the same command on all of them again to go on."
_LARGER = "Free some memory, or use fewer workers or a larger machine, and run the same command again to go on."


def run(main: Callable[[Sequence[str]], int | None], words: Sequence[str] = ()) -> None:
    """Runs a command's main and exits with what it returns, or with the exit code of its fault.

    0 all done, 2 usage, 3 some inputs failed, 4 environment, 130 and 143 on signals.

    Args:
      main: of the command.
      words: the words of the command line that are no flags, from `early.begin`.
    """
    # Orbax reports every save, and with tracebacks what it raises anyway.
    absl_logging.set_verbosity(absl_logging.WARNING if _is_debugged() else absl_logging.FATAL)
    _show_log()
    # At once: an exception raised here is lost if it meets a callback of the runtime. Whatever is being written is
    # written aside first, so nothing is half done.
    signal.signal(signal.SIGTERM, signals.terminate)
    signal.signal(signal.SIGINT, signals.interrupt)
    signals.listen()
    sys.unraisablehook = signals.raise_again
    try:
        code = main(words) or 0
        hosts.part()
    except (KeyboardInterrupt, signals.Terminated) as end:
        if not end.args or isinstance(end, signals.Terminated):  # nothing is said yet
            os.write(2, signals.INTERRUPTED)
        code = 130 if isinstance(end, KeyboardInterrupt) else 143
    except Exception as error:
        known = _exit_code(error)
        if known is None or _is_debugged():
            traceback.print_exc()
        print(f"error: {_told(error)}", file=sys.stderr)
        code = 1 if known is None else known
    _leave(code)


def speaks() -> bool:
    """Returns whether this host is to speak before the hosts are joined; with --hosts=auto, none knows its place."""
    return not flags.FLAGS.host and flags.FLAGS.hosts != "auto"


def join() -> None:
    """Joins this process to the hosts that the command line names; to be called before `start`."""
    hosts.join(flags.FLAGS.coordinator, flags.FLAGS.hosts, flags.FLAGS.host)


def start(threads: int | None = devices.THREADS) -> jax.sharding.Mesh:
    """Chooses the device that --device names, says so, and returns a 1-D mesh over all devices; see `devices.start`."""
    mesh = devices.start(flags.FLAGS.device, threads)
    used = list(mesh.devices.flat)
    told = os.environ.get("JAX_PLATFORMS")
    why = f": JAX_PLATFORMS={told}" if told else ""
    note = f" (no accelerator in use{why})" if flags.FLAGS.device == "auto" and used[0].platform == "cpu" else ""
    if hosts.is_first_host():
        say(f"lgjax {__version__} on {devices.describe(used)}{note}")
    return mesh


@contextlib.contextmanager
def joined() -> Iterator[jax.sharding.Mesh]:
    """Joins the hosts that the command line names, of which the first one alone speaks in the `with` block.

    Yields:
      A 1-D mesh over the devices of this host.
    """
    join()
    mesh = devices.own(start())
    with hosts.one_voice():
        yield mesh


def say(text: str) -> None:
    """Prints a line of what is going on, above a progress bar; --quiet leaves the line out."""
    if not _is_quiet():
        progress.write(text)


def note(text: str) -> None:
    """Prints a line that a user should know of, with --quiet on standard error."""
    progress.write(text, sys.stderr if _is_quiet() else sys.stdout)


def _is_debugged() -> bool:
    return "debug" in flags.FLAGS and bool(flags.FLAGS["debug"].value)


def _is_quiet() -> bool:
    return "quiet" in flags.FLAGS and bool(flags.FLAGS["quiet"].value)


class _Lines(logging.Handler):
    """Prints what the rooms log as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        tell = note if record.levelno >= logging.WARNING else say
        tell(self.format(record))


def _show_log() -> None:
    """Lets the log of lgjax reach the user, and only that; shows no progress with --quiet."""
    progress.hide(_is_quiet())
    log = logging.getLogger("lgjax")
    log.handlers[:] = [_Lines()]
    log.setLevel(logging.INFO)
    log.propagate = False


def _leave(code: int) -> None:
    """Ends the process.

    Several hosts end at once, since JAX's farewell waits for all, and ends some with a fault. So does a command that a
    signal ends: Python would wait for a compilation in the background, and then crash.
    """
    if jax.distributed.is_initialized() or code in (130, 143):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _told(error: Exception) -> str:
    """Returns what a user is told of an error."""
    if isinstance(error, MemoryError) or devices.is_out_of_memory(error):
        reason = str(error).partition("\n")[0].rstrip(".")  # XLA lists its buffers below
        shared = f" {devices.SHARED}" if devices.is_out_of_memory(error) and jax.default_backend() == "gpu" else ""
        return f"out of memory{reason and ': '}{reason}. {_LARGER}{shared}"
    if devices.is_taken(error):
        return f"the GPU cannot be used ({str(error).partition(chr(10))[0]}). {devices.SHARED}"
    if _is_adrift(error):
        return f"the current folder is gone ({error}). Change to a folder that is there, and run the command again."
    return f"{error} {_LOST}" if hosts.is_lost(error) else str(error)


def _exit_code(error: Exception) -> int | None:
    """Returns the exit code of a fault that a user can mend; None for a bug."""
    if isinstance(error, LgjaxError):
        return error.exit_code
    if isinstance(error, MemoryError) or devices.lacks_memory(error) or hosts.is_lost(error) or _is_adrift(error):
        return EnvironmentFault.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentFault.exit_code
    return None


def _is_adrift(error: Exception) -> bool:
    """Returns whether a command failed for want of a current folder, which somebody removed."""
    try:
        return isinstance(error, FileNotFoundError) and not os.getcwd()
    except FileNotFoundError:
        return True
