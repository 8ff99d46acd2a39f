"""Items that several processes share out among themselves by files in one folder; no server, no clock in common.

`workers` knows which processes live. A claim is a file in `claims/` that names its owner; its own name is a hash of the
item and a generation. The highest generation holds. A claim is made by creating the generation after the highest one,
which a file system grants to one process alone; the claim before must be none, or one whose owner is dead, and must
still be there afterwards. So nobody removes or renames what another process holds. Gray and Cheriton 1989 call such
claims leases.

A process that stood still for longer than it takes to count as dead may have been followed by another one. `confirm`
tells: a process follows itself, which fails where another one was first.
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import pathlib
import time
from collections.abc import Iterator

from lgjax.runtime import files, signals
from lgjax.runtime.alive import Worker
from lgjax.runtime.errors import UsageError
from lgjax.runtime.gone import if_there, insist, list_folder
from lgjax.runtime.waiting import Waiting
from lgjax.runtime.workers import EXPIRY, Workers

LOG = logging.getLogger(__name__)
FOLDER = ".lgjax"
_TURN = 0.02  # seconds between two looks at a lock that another process holds


@contextlib.contextmanager
def at_work(folder: pathlib.Path, task: str = "", label: str = "") -> Iterator["Claims"]:
    """Takes part in the work on a folder, for a block; a signal that ends the process lets its claims go too.

    Only for the main thread.

    Args:
      folder, task, label: see `Claims`.

    Raises:
      UsageError: another process works at another task in this folder.
      EnvironmentFault: the folder cannot be written.
    """
    with Claims(folder, task, label) as claims, signals.before_end(lambda _: claims.leave()):
        yield claims


class Claims:
    """The part that one process has in the work on a folder, for a `with` block; the package has it by `at_work`."""

    def __init__(self, folder: pathlib.Path, task: str = "", label: str = "", expiry: float = EXPIRY):
        """Prepares the part; nothing is written yet.

        Args:
          folder: that the work is for; the claims lie in `.lgjax` below it while the work lasts.
          task: digest of what is done to the items; only processes with the same one may work at a time.
          label: of the task, in words.
          expiry: seconds without a sign of life after which a process counts as dead; the same for all.
        """
        self._folder, self._root = folder, folder / FOLDER
        self._claims, self.workers = self._root / "claims", Workers(self._root / "workers", expiry)
        self.run = self.workers.me.run
        self._task, self._label = task, label
        self.is_first = True  # at the task, of the processes that are at work
        self._held: dict[str, int] = {}  # generations by key

    def __enter__(self) -> "Claims":
        """Begins the work.

        Raises:
          UsageError: another process works at another task in this folder.
          EnvironmentFault: the folder cannot be written.
        """
        with self._faults():
            self.workers.begin()
            try:
                with self.lock("task"):
                    self._check_task()
                    self.workers.tell(self._task, self._label)
            except BaseException:
                self.leave()
                raise
        return self

    def __exit__(self, *_) -> None:
        self.leave()

    def leave(self) -> None:
        """Ends the work: lets all claims go, and those of the dead; the last process removes the folder of claims."""
        with self.workers.guard:
            if self.workers.ended.is_set():
                return
            try:
                self._bury()
            except OSError as error:  # as on a full disk: the next process buries
                LOG.debug("claims are left: %s", error)
            with self._faults():
                self.workers.end()
                for key in list(self._held):  # who takes one then sees this process no more
                    self._let_go(key)
        for folder in (self._claims, self.workers.folder, self._root):
            with contextlib.suppress(OSError):  # others are at work
                folder.rmdir()

    def take(self, item: str) -> bool:
        """Claims an item; returns False where a living process, this one included, holds the item."""
        with self._faults():
            key = _key(item)
            top = self._top(key)
            before = self._owner(key, top)
            return not self._holds(key, top, before) and self._follow(key, top, before)

    def confirm(self, item: str) -> bool:
        """Returns whether this process still holds an item, and makes sure that nobody took it for dead until now."""
        with self._faults():
            key = _key(item)
            generation = self._held.get(key)
            return generation is not None and self._follow(key, generation, self.run)

    def holder(self, item: str) -> Worker | None:
        """Returns the process that holds an item; None where no living one does, or it is just taking the item."""
        with self._faults():
            key = _key(item)
            owner = self._owner(key, self._top(key))
            return self.workers.living(owner) if owner else None

    def release(self, item: str) -> None:
        """Lets an item go; one that is not held stays as it is."""
        with self._faults():
            self._let_go(_key(item))

    @contextlib.contextmanager
    def lock(self, name: str, patience: float = math.inf) -> Iterator[None]:
        """Waits until no other process is in a block of this name; a block may stand within itself.

        Raises:
          TimeoutError: that took longer than `patience` seconds.
        """
        with self._faults():
            key, until = _key(name), time.monotonic() + patience
            within = self._owner(key, self._top(key)) == self.run  # as where a signal comes within the block
        waiting = Waiting(self.holder)
        while not (within or self.take(name)):
            if time.monotonic() > until:
                raise TimeoutError(name)
            waiting.tell([name])
            time.sleep(_TURN)
        try:
            yield
        finally:
            if not within:
                self.release(name)

    def others(self) -> list[Worker]:
        """Lists the other processes that work in this folder now."""
        with self._faults():
            return self.workers.others()

    def is_at_work(self, run: str) -> bool:
        """Returns whether the process of a run works in this folder now."""
        with self._faults():
            return self.workers.living(run) is not None

    def _check_task(self) -> None:
        """Says who else works here; raises UsageError where that is another task."""
        others = [other for other in self.others() if other.task]
        self.is_first = not others
        for other in others:
            if other.task != self._task:
                raise UsageError(
                    f"{self._folder}: {other} is at work there on {other.label}, with other weights or settings. "
                    "Wait for its end, or name another output folder."
                )
            LOG.info("another process works in this folder too (%s): the scans are shared", other)

    def _follow(self, key: str, generation: int, before: str | None) -> bool:
        """Creates the generation of a claim after one that was seen; undoes that where the claim was let go since."""
        self._held.pop(key, None)
        path = self._claim(key, generation + 1)
        try:
            descriptor = insist(functools.partial(self._create, path))  # the last process may just remove the folder
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.run)
        except OSError:  # as on a full disk; a claim without a name would count until it expires
            path.unlink(missing_ok=True)
            raise
        if self._owner(key, generation) != before or self._top(key) != generation + 1:
            path.unlink(missing_ok=True)
            return False
        self._held[key] = generation + 1
        return True

    def _create(self, path: pathlib.Path) -> int:
        """Creates the file of a claim, and returns its descriptor; raises FileExistsError where another one did."""
        with contextlib.suppress(FileExistsError):  # of the folder; no folder of that name fails below
            self._claims.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)

    def _let_go(self, key: str) -> None:
        """Removes a claim that still holds, the first generation first: the highest one holds until all are gone."""
        top = self._held.pop(key, 0)
        if top and top == self._top(key) and self._owner(key, top) == self.run:  # nobody took this process for dead
            for generation in range(1, top + 1):
                with if_there():
                    self._claim(key, generation).unlink()

    def _bury(self) -> None:
        """Removes the files of processes that are dead, and the claims that these left."""
        for key in {path.name.partition(".")[0] for path in list_folder(self._claims)}:
            top = self._top(key)
            before = self._owner(key, top)
            if top and not self._holds(key, top, before) and self._follow(key, top, before):
                self._let_go(key)
        self.workers.bury()

    def _top(self, key: str) -> int:
        """Returns the highest generation of a claim; 0: nobody holds the item."""
        names = (path.name.partition(".") for path in list_folder(self._claims))
        return max((int(generation) for name, _, generation in names if name == key), default=0)

    def _owner(self, key: str, generation: int) -> str | None:
        """Returns the run that made a claim; "" where it is just being made, None where there is no such claim."""
        with if_there():
            return self._claim(key, generation).read_text()
        return None

    def _holds(self, key: str, generation: int, owner: str | None) -> bool:
        """Returns whether a claim is that of a living process."""
        if owner:
            return self.workers.living(owner) is not None
        return owner is not None and self.workers.read(self._claim(key, generation)) is not None

    def _claim(self, key: str, generation: int) -> pathlib.Path:
        return self._claims / f"{key}.{generation}"

    def _faults(self) -> contextlib.AbstractContextManager[None]:
        """Turns what the file system refuses into an EnvironmentFault."""
        return files.refusals(self._root)


def _key(item: str) -> str:
    """Returns what stands for an item in the names of its claims."""
    return hashlib.sha256(item.encode()).hexdigest()[:32]
