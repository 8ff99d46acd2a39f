"""Best rates of a device, by a clock that is known, and the least time that follows."""

import jax
import pytest

from lgjax.speed import peaks, times
from lgjax.speed.counts import Count
from lgjax.speed.peaks import PRODUCTS, SUM, SUMS, TRIES, Peaks, Rates


def test_floor_is_the_slower_of_computing_and_moving():
    rates = Peaks(flops=100.0, bytes=10.0, samples={})
    found = peaks.floor(Count(200.0, 50.0), rates)
    assert (found.compute, found.memory, found.seconds) == (2.0, 5.0, 5.0)
    assert peaks.floor(Count(800.0, 50.0), rates).seconds == 8.0


@pytest.fixture
def clock(monkeypatch):
    """Sets the seconds that every run takes."""

    def setting(seconds):
        def timed(run):
            jax.block_until_ready(run())
            return seconds

        monkeypatch.setattr(times, "seconds", timed)

    return setting


@pytest.mark.parametrize("devices", [1, 8])
def test_peak_rates_count_the_work_of_all_devices(clock, request, devices):
    clock(0.5)
    mesh = request.getfixturevalue(f"mesh{devices}")
    rates = Rates(mesh, "bfloat16", sizes=[16, 32], length=1003)
    rates.sample()
    found, rate = rates.peaks(), devices * PRODUCTS * 2 * 16**3 / 0.5
    assert found.flops == rate
    assert found.samples["bfloat16 matrix product 16"] == [rate] * TRIES
    assert set(found.samples) == {"bfloat16 matrix product 16", SUM}  # half a second is long: no larger matrices
    assert found.bytes == SUMS * 3 * 4 * 1003 / 0.5  # of the host
    of_device = peaks._sum(mesh, 1003)
    assert of_device.work == devices * SUMS * 3 * 4 * 1003
    for turn in (1, 2):  # a is the sum of before
        assert (of_device.run() == 1 + turn * SUMS).all()


def test_larger_matrices_are_tried_while_they_are_quick(clock, mesh1):
    clock(0.25)
    rates = Rates(mesh1, "float32", sizes=[16, 32], length=100)
    rates.sample()
    assert rates.peaks().flops == PRODUCTS * 2 * 32**3 / 0.25
    assert set(rates.samples) == {f"float32 matrix product {n}" for n in (16, 32)} | {SUM}


def test_the_best_run_of_all_turns_counts(clock, mesh1):
    clock(0.5)
    rates = Rates(mesh1, "float32", sizes=[16], length=100)
    for seconds in (0.5, 0.2, 0.4):
        clock(seconds)
        rates.sample()
    found = rates.peaks()
    assert len(found.samples[SUM]) == 3 * TRIES
    assert (found.flops, found.bytes) == (PRODUCTS * 2 * 16**3 / 0.2, SUMS * 3 * 4 * 100 / 0.2)


def test_what_is_timed_is_compiled_once(mesh1, caplog):
    with jax.log_compiles():
        rates = Rates(mesh1, "float32", sizes=[24], length=100)
        assert "XLA compilation" in caplog.text
        caplog.clear()
        rates.sample()
    assert caplog.text == ""
