"""Scans on their way through a runner, one or many, so that slices of several scans share a batch."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import jax
import numpy as np

from lgjax.methods import scan
from lgjax.methods.mirror import Seen
from lgjax.methods.runner import Pace, Runner, Traces
from lgjax.methods.scan import Answer, Plan, Restored
from lgjax.preparation.pipeline import Prepared

T = TypeVar("T")


class _Place(Generic[T]):
    """One item in the queue, and what is known of its answer so far."""

    def __init__(self, item: T, missing: int):
        self.item, self.missing = item, missing  # slices whose answer is missing
        self.parts: list[tuple[np.ndarray, Traces]] = []  # of batches, in order
        self.seconds = 0.0  # of the devices
        self.answer: Answer | None = None  # of a method without batches


class Queue(Generic[T]):
    """Items that come out in the order in which they went in, each with the answer to its plan.

    For methods of slices, a batch runs as soon as slices fill it, whichever scans they are from: only the last batch of
    all is padded. The bits of a slice depend on the slice alone (see `Runner`), so the answers are those of one scan at
    a time. No more than a batch of slices waits, and so no more scans than have slices in it, with the one behind them.
    """

    def __init__(self, runner: Runner):
        self._runner, self._pace = runner, Pace(None, None)
        self._places: deque[_Place[T]] = deque()
        self._waiting: list[np.ndarray] | None = None  # Y, mask, number and lambda of slices that no batch has had

    def __len__(self) -> int:
        """The items that are in the queue."""
        return len(self._places)

    def put(self, item: T, plan: Plan | None) -> Iterator[tuple[T, Answer | None]]:
        """Takes an item in, and yields those that come out.

        Args:
          item: anything.
          plan: of its restoration; None where there is none, as of a scan that cannot be read.
        """
        place = _Place(item, 0)
        self._places.append(place)
        if plan and self._runner.whole_volumes:
            place.answer = self._at_once(plan)
        elif plan:
            place.missing = len(plan.slices.number)
            self._append([*plan.slices, plan.strength])
            while self._count() >= self._runner.size:
                self._run()
                yield from self._done()  # at once: the scan is written while the next batch runs
        yield from self._done()

    def flush(self) -> Iterator[tuple[T, Answer | None]]:
        """Restores the slices that fill no batch, and yields the items that are left."""
        while self._count():
            self._run()
        yield from self._done()

    def _at_once(self, plan: Plan) -> Answer:
        """Restores the slices of a volume."""
        busy = self._runner.busy
        ((x, traces),) = self._runner(plan.slices, plan.strength, plan.known)
        return Answer(x, traces, self._runner.pace(), self._runner.busy - busy, self._runner.kernels)

    def _count(self) -> int:
        return 0 if self._waiting is None else len(self._waiting[0])

    def _append(self, part: list[np.ndarray]) -> None:
        """Lets slices wait behind those that do."""
        waiting = self._waiting or [a[:0] for a in part]
        self._waiting = [np.concatenate(pair) for pair in zip(waiting, part, strict=True)]

    def _run(self) -> None:
        """Restores the first batch of what waits, and gives the answers to their scans."""
        assert self._waiting
        busy = self._runner.busy
        found = x, _ = self._runner.batch(self._waiting)
        a_slice = (self._runner.busy - busy) / len(x)
        self._waiting = [a[len(x) :] for a in self._waiting]
        start = 0
        for place in self._places:
            part = slice(start, start + place.missing)
            start = min(part.stop, len(x))
            if len(x[part]):
                place.parts.append(jax.tree.map(lambda values, part=part: values[part], found))
                place.missing -= len(x[part])
                place.seconds += a_slice * len(x[part])

    def _done(self) -> Iterator[tuple[T, Answer | None]]:
        """Yields the first items, as far as nothing is missing of them."""
        while self._places and not self._places[0].missing:
            place = self._places.popleft()
            if place.parts:
                x, traces = jax.tree.map(lambda *parts: np.concatenate(parts), *place.parts)
                place.answer = Answer(x, traces, self._measured(), place.seconds, self._runner.kernels)
            yield place.item, place.answer

    def _measured(self) -> Pace:
        """Returns the pace of the batches since the last scan; of the same as the last one where it shared them."""
        if self._runner.timed or self._pace.batch_size is None:
            self._pace = self._runner.pace()
        return self._pace


def restore_scan(
    runner: Runner, subject: Prepared, strength: float, step: int = 1, seen: Seen | None = None
) -> Restored:
    """Restores every `step`-th slice of one subject with one lambda; arguments as in `scan.plan`.

    Raises:
      InputError: no slice is looked at, or the restoration diverged.
    """
    planned, queue = scan.plan(runner.method, runner.settings, subject, strength, step, seen), Queue[None](runner)
    ((_, answer),) = [*queue.put(None, planned), *queue.flush()]
    assert answer
    return scan.finish(planned, answer, runner.taken(answer.traces))
