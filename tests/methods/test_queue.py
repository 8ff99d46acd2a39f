"""Scans whose slices share batches: the bits are those of one scan at a time, the order that in which they came."""

import jax
import numpy as np
import pytest

from lgjax import models
from lgjax.methods import names, queue, scan
from lgjax.methods import runner as runners
from lgjax.methods.runner import Pace
from lgjax.preparation.slices import Slices
from lgjax.restoration.loop import Trace


def plan(slices, chosen, strength=1.0):
    """The plan of a scan that has some of the slices."""
    part = Slices(*(values[chosen] for values in slices))
    count = len(part.number)
    return scan.Plan(None, part, np.ones(count, bool), np.full(count, strength, np.float32), None, None)


def through(runner, plans):
    """What comes out of a queue, item by item."""
    line = queue.Queue(runner)
    found = [out for number, one in enumerate(plans) for out in line.put(number, one)]
    return [*found, *line.flush()]


def test_slices_of_several_scans_share_batches_and_keep_their_bits(config, params, mesh1, slices, monkeypatch):
    monkeypatch.setitem(runners.MICRO_BATCH, "cpu", 4)
    model = models.from_config(config, config.restore.precision)
    runner = runners.Runner(names.parse("vae_lg_neural_tv"), runners.from_config(config), model, params, mesh1)
    parts = [[0, 1, 2, 3, 4], [6], [5, 2], [0], [6, 5, 4, 3, 2, 1, 0], [1, 3]]
    plans = [plan(slices, part, 0.5 + number) for number, part in enumerate(parts)]
    alone = [list(runner(one.slices, one.strength)) for one in plans]
    runner.timed, runner.busy = [], 0.0
    found = through(runner, plans)
    assert [number for number, _ in found] == list(range(len(parts)))
    for (_, answer), expected, part in zip(found, alone, parts, strict=True):
        assert len(answer.x) == len(part)
        x, traces = jax.tree.map(lambda *batches: np.concatenate(batches), *expected)
        np.testing.assert_array_equal(answer.x, x)
        jax.tree.map(np.testing.assert_array_equal, answer.traces, traces)
        assert answer.pace.batch_size == runner.size
        assert answer.pace.seconds_per_iteration > 0
    assert runner.busy > 0


class Counting:
    """A runner that restores a slice to its number and lambda, and notes how many slices each batch has."""

    whole_volumes, size, kernels = False, 8, "lgjax"

    def __init__(self):
        self.batches, self.timed, self.busy = [], [], 0.0

    def batch(self, part):
        y, _, number, strength = (values[: self.size] for values in part)
        self.batches.append(len(y))
        self.timed.append(len(y))
        self.busy += len(y) / 4
        x = np.broadcast_to((number + 1000 * strength).reshape(-1, 1, 1, 1), y.shape)
        return x, Trace(*(np.repeat(number[:, None], 3, axis=1) for _ in range(3)))

    def pace(self):
        self.timed = []
        return Pace(self.size, float(len(self.batches)))


def scans(*counts):
    """Plans of scans with so many slices each; None: a scan without a plan."""
    first, found = 0, []
    for count in counts:
        if count is None:
            found.append(None)
            continue
        numbers = np.arange(first, first + count, dtype=np.int32)
        y = np.zeros((count, 2, 2, 1), np.float32)
        found.append(plan(Slices(y, y, numbers), slice(None), 1.0 + len(found)))
        first += count
    return found


@pytest.mark.parametrize(
    "counts", [(3, 3, 3), (8,), (20, 1), (1,) * 9, (5, None, 5, None), (None,), (16, None, 1), (7, 1, 7, 1)]
)
def test_only_the_last_batch_of_all_is_not_full_and_everyone_gets_their_own(counts):
    runner, plans = Counting(), scans(*counts)
    found = through(runner, plans)
    total = sum(count or 0 for count in counts)
    assert runner.batches == [8] * (total // 8) + [total % 8] * (total % 8 > 0)
    assert [number for number, _ in found] == list(range(len(counts)))
    for (_, answer), one in zip(found, plans, strict=True):
        if one is None:
            assert answer is None
            continue
        np.testing.assert_array_equal(answer.x[:, 0, 0, 0], one.slices.number + 1000 * one.strength)
        np.testing.assert_array_equal(answer.traces.change[:, 0], one.slices.number)
        assert answer.pace.seconds_per_iteration >= 1
        assert answer.seconds == pytest.approx(len(answer.x) / 4)  # its share of the batches


def test_no_more_scans_wait_than_have_slices_in_a_batch():
    """So memory is bounded: a scan whose last slice is restored comes out at once."""
    runner, waiting = Counting(), []
    line = queue.Queue(runner)
    for number, one in enumerate(scans(*np.random.default_rng(0).integers(1, 12, 200).tolist())):
        list(line.put(number, one))
        waiting.append(len(line))
        assert line._count() < runner.size
    assert max(waiting) <= runner.size
    assert np.mean(waiting) < 2


def test_a_scan_without_a_plan_waits_for_those_before_it_alone():
    line, (first, second) = queue.Queue(Counting()), scans(5, 3)
    assert list(line.put("a", first)) == []
    assert list(line.put("broken", None)) == []
    assert [name for name, _ in line.put("b", second)] == ["a", "broken", "b"]
    assert [name for name, _ in line.put("broken", None)] == ["broken"]
    assert list(line.flush()) == []


def test_a_scan_comes_out_as_soon_as_its_last_slice_is_restored():
    """So its writing goes on while the next one is restored, and its pace is that of its own batches."""
    runner, (first, second) = Counting(), scans(9, 40)
    line = queue.Queue(runner)
    assert list(line.put("a", first)) == []
    out = line.put("b", second)
    name, answer = next(out)
    assert (name, runner.batches, answer.pace.seconds_per_iteration) == ("a", [8, 8], 2)
    assert list(out) == []
    (rest,) = line.flush()
    assert (rest[0], runner.batches) == ("b", [8, 8, 8, 8, 8, 8, 1])


class Whole(Counting):
    """A runner that restores a whole volume to its strength, at once."""

    whole_volumes = True

    def __call__(self, slices, strength, known):
        self.batches.append(len(slices.number))
        self.busy += 2.0
        yield slices.y + strength[0], None


def test_methods_of_volumes_take_one_scan_at_a_time():
    runner = Whole()
    (_, first), (_, none), (_, last) = through(runner, scans(3, None, 40))
    assert runner.batches == [3, 40]
    assert none is None
    assert [(len(one.x), one.x.max(), one.traces, one.seconds) for one in (first, last)] == [
        (3, 1.0, None, 2.0),
        (40, 3.0, None, 2.0),
    ]


def test_a_smaller_batch_after_an_out_of_memory_error_loses_no_slice():
    runner = Counting()

    def batch(part):
        runner.size = 3  # as after a halved micro-batch
        return Counting.batch(runner, part)

    runner.batch = batch
    found = through(runner, plans := scans(6, 6, 2))
    assert runner.batches == [3, 3, 3, 3, 2]
    for (_, answer), one in zip(found, plans, strict=True):
        np.testing.assert_array_equal(answer.x[:, 0, 0, 0], one.slices.number + 1000 * one.strength)
