"""Processes at work in one folder, which tell one another by files that they live; no server, no clock in common.

Each process has a file of its own, which the process touches while it lives. A process is dead when its file is gone or
is older than `EXPIRY`, as compared with a file that was touched just now on the same file system, or when its system
says so.
"""

import json
import logging
import os
import pathlib
import secrets
import socket
import threading

from lgjax.runtime import alive
from lgjax.runtime.alive import Worker
from lgjax.runtime.gone import if_there, insist, list_folder

LOG = logging.getLogger(__name__)
EXPIRY = 60.0  # seconds without a sign of life after which a process counts as dead
_BEATS = 12  # signs of life in that time


class Workers:
    """The processes at work in a folder, as one of them sees them."""

    def __init__(self, folder: pathlib.Path, expiry: float = EXPIRY):
        """Prepares the part of this process; nothing is written yet.

        Args:
          folder: for the files of the processes.
          expiry: seconds without a sign of life after which a process counts as dead; the same for all.
        """
        pid = os.getpid()
        self.me = Worker(secrets.token_hex(8), socket.gethostname(), pid, alive.began(pid), alive.system())
        self.folder, self.expiry = folder, expiry
        self.ended, self.guard = threading.Event(), threading.RLock()  # no sign of life comes while the guard is held

    def begin(self) -> None:
        """Writes the file of this process, and gives signs of life from now on."""
        self._present()
        threading.Thread(target=self._beat, daemon=True).start()

    def tell(self, task: str, label: str) -> None:
        """Tells the others what this process works at; see `Worker`."""
        self.me = self.me._replace(task=task, label=label)
        self._present()

    def end(self) -> None:
        """Removes the file of this process, which gives no sign of life any more."""
        with self.guard:
            self.ended.set()
            self.file(self.me.run).unlink(missing_ok=True)

    def others(self) -> list[Worker]:
        """Lists the other processes that are at work now."""
        runs = {path.stem for path in list_folder(self.folder)} - {self.me.run}
        found = (self.living(run) for run in sorted(runs))
        return [worker for worker in found if worker]

    def living(self, run: str) -> Worker | None:
        """Returns the process of a run; None where it is dead."""
        if run == self.me.run:
            return self.me
        text = self.read(self.file(run))
        try:
            worker = Worker(**json.loads(text or ""))
        except (ValueError, TypeError):  # it is gone; or half written
            return None
        ended = worker.system and worker.system == self.me.system and alive.is_dead(worker.pid, worker.began)
        return None if ended else worker

    def bury(self) -> None:
        """Removes the files of processes that are dead."""
        for path in list_folder(self.folder):
            if not self.living(path.name):
                path.unlink(missing_ok=True)

    def read(self, path: pathlib.Path) -> str | None:
        """Reads a file on the file system of the folder; None where the file has expired, or is gone."""
        now = self._now()
        with if_there(), open(path) as file:  # a network file system asks the server for the time at the opening
            return file.read() if now - os.fstat(file.fileno()).st_mtime <= self.expiry else None
        return None

    def file(self, run: str) -> pathlib.Path:
        """Returns the file of the process of a run."""
        return self.folder / run

    def _now(self) -> float:
        """Touches the file of this process, and returns the time by the clock of the file system."""
        path = self.file(self.me.run)
        with self.guard:
            with if_there():
                os.utime(path)
                return path.stat().st_mtime
            self._present()  # this process stood still, and another one took it for dead
            return path.stat().st_mtime

    def _present(self) -> None:
        """Writes the file of this process, all of it or none."""
        path = self.file(self.me.run)
        temporary = path.with_suffix(".tmp")

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.me._asdict()))
            os.replace(temporary, path)

        insist(write)  # the last process may just be removing the folder

    def _beat(self) -> None:
        """Gives signs of life until the end."""
        while not self.ended.wait(self.expiry / _BEATS):
            with self.guard:
                if self.ended.is_set():
                    return
                try:
                    self._now()
                except OSError as error:  # the next claim meets and tells it
                    LOG.debug("no sign of life: %s", error)
