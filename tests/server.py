"""Commands in processes forked from a server that has imported JAX once: three seconds sooner than typed ones.

A test of each command types the command too, since a command that is typed imports what it needs itself.
"""

import functools
import gc
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax

from lgjax.runtime import parallel

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "lgjax.batch.calibrated",
        "lgjax.batch.restorations",
        "lgjax.calibration.procedure",
        "lgjax.preparation.passes",
        "lgjax.report.quality",
        "lgjax.report.write",
        "lgjax.training.feeding",
        "lgjax.training.log",
    ]
)
ROOT = pathlib.Path(__file__).resolve().parents[1]
Before = Callable[[], None] | None


class Forked:
    """A running command, with those methods of `subprocess.Popen` that tests need.

    Args:
      words: the command and its arguments.
      log: file for what the command says on standard output, and on standard error unless `err` is another file.
      before: called in the process of the command, of a module.
      folder: where the command runs.
      devices: of the command.
      optimised: whether programs are compiled as users have them.
    """

    def __init__(
        self,
        words: list[str],
        log: pathlib.Path,
        before: Before = None,
        *,
        err: pathlib.Path | None = None,
        folder: pathlib.Path = ROOT,
        devices: int = 1,
        optimised: bool = True,
    ):
        count = "--xla_force_host_platform_device_count="
        flags = [flag for flag in os.environ["XLA_FLAGS"].split() if not flag.startswith(count)]
        environment = {**os.environ, "XLA_FLAGS": " ".join([*flags, f"{count}{devices}"])}
        self._words, self._said = words, (log, err or log)
        ready = functools.partial(_get_ready, environment, folder, optimised, before)
        self._process = SERVER.Process(target=_run, args=(words, str(log), str(err or log), ready))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; returns what the command said on standard output and on standard error."""
        if self.wait(timeout) is None:
            raise TimeoutError(f"{self._words} did not end in {timeout} s")
        # Bytes as they are: no carriage return becomes a new line.
        out, err = (path.read_bytes().decode() for path in self._said)
        return out, err

    @property
    def returncode(self) -> int | None:
        return self.poll()


def run(
    *words, before: Before = None, folder: pathlib.Path = ROOT, optimised: bool = False
) -> subprocess.CompletedProcess:
    """Runs a command to its end, as from a shell into files.

    Methods without networks take a third of the time with `optimised` programs, which are soon compiled.
    """
    told = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as place:
        out, err = (pathlib.Path(place, name) for name in ("out", "err"))
        process = Forked(told, out, before, err=err, folder=folder, optimised=optimised)
        said = process.communicate(900)
    return subprocess.CompletedProcess(told, process.returncode, *said)


def python(code: str, *arguments, folder: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    """Runs a program to its end."""
    return run("-c", code, *arguments, folder=folder)


def in_threads() -> None:
    """Has `preprocess` work in threads, which import nothing anew; called before the command."""
    parallel.processes = ThreadPoolExecutor


def in_forks() -> None:
    """Has `preprocess` work in processes of the server, which import nothing anew; called before the command."""
    multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # the server of this process runs
    parallel._Context = type(SERVER)
    parallel.stay_with_parent = functools.partial(_as_spawned, dict(os.environ), os.getcwd(), _logs)


def _as_spawned(environment: dict[str, str], folder: str, logs: list[str]) -> None:
    """Makes a process of the server like one that a command started."""
    _speak_to(*logs)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    parallel.stay_with_parent()


_logs: list[str] = []  # of the command that this process runs: standard output, standard error


def _speak_to(*logs: str) -> None:
    """Sends standard output and standard error to the ends of files."""
    for stream, path in enumerate(logs, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream)
        os.close(descriptor)


def _run(words: list[str], out: str, err: str, ready: Callable[[], None]) -> None:
    gc.freeze()  # what the server has imported is shared with the server, and no garbage
    gc.set_threshold(20_000, 50, 100)  # as in conftest.py; commands that are typed have Python's own
    for path in (out, err):
        pathlib.Path(path).write_bytes(b"")
    _logs[:] = out, err
    _speak_to(*_logs)
    name, *rest = words
    ready()
    if name == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [name, *rest]
        runpy.run_module(f"lgjax.{name}", run_name="__main__", alter_sys=True)


def _get_ready(environment: dict[str, str], folder: pathlib.Path, optimised: bool, before: Before) -> None:
    """Makes the process of a command like one that a shell started in a folder."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    jax.config.update("jax_disable_most_optimizations", not optimised)
    if before:
        before()
