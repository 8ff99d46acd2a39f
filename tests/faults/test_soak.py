"""Two processes, one of them killed and started again, restore a cohort of good and bad files as one process does."""

import itertools

import pytest
from server import Forked

from benchmarks import soak
from benchmarks.soak import Ended, Sample


def test_a_cohort_survives_a_kill(tmp_path):
    numbers = itertools.count()

    def start(words):
        return Forked(words, tmp_path / f"{next(numbers)}.log")

    found = soak.soak(start, tmp_path, 8, 1, seed=0)
    assert found["files"] > 100
    assert (found["bad"], found["kinds_of_bad"]) == (2, 2)
    assert found["unequal"] == []
    assert found["misjudged"] == {"whole": [], "shared": []}
    assert found["undisturbed"]["exit_codes"] == [3]
    codes = found["disturbed"]["exit_codes"]
    assert len(codes) > 2
    assert set(codes) <= {-9, 3}
    assert codes[-1] == 3
    assert min(found["disturbed"]["peak_megabytes"].values()) > 100


def test_what_should_not_be_is_seen(tmp_path):
    kinds = soak.soak_scans.write(tmp_path / "cohort", 8)
    scan = next(name for name, kind in kinds.items() if kind in soak.soak_scans.BAD)
    good = next(name for name, kind in kinds.items() if kind in soak.soak_scans.GOOD)
    (tmp_path / good / "anat").mkdir(parents=True)
    (tmp_path / good / "anat" / f"{good}_space-orig_desc-anomaly_T2w.nii.gz").touch()
    entries = {good: '{"Outcome": "restored"}', scan: '{"Outcome": "failed", "Message": "is truncated"}'}

    def wrong(expected=None, **changed):
        scans = ", ".join(f'"{name}": {entry}' for name, entry in {**entries, **changed}.items())
        (tmp_path / "results.json").write_text(f'{{"Runs": [], "Scans": {{{scans}}}}}')
        return soak.misjudged(tmp_path, expected or {name: kinds[name] for name in entries})

    assert wrong() == []
    assert wrong(**{scan: '{"Outcome": "restored"}'}) == [f"{scan}: {kinds[scan]}"]
    assert wrong(**{scan: '{"Outcome": "failed", "Message": "is a picture"}'}) == [f"{scan}: {kinds[scan]}"]
    assert wrong(**{good: '{"Outcome": "failed", "Message": "no"}'}) == [f"{good}: {kinds[good]}"]
    assert wrong(expected={scan: kinds[scan]}) == [good]
    (tmp_path / good / "anat" / f"{good}_space-orig_desc-anomaly_T2w.nii.gz").unlink()
    assert wrong() == [f"{good}: {kinds[good]}"]


def test_memory_that_grows_is_seen():
    flat = [Sample(0, scans, 500.0 + 300 * (scans < 10)) for scans in range(100)]  # a start that takes more
    leak = [Sample(1, scans, 500.0 + 0.2 * scans) for scans in range(100)]
    short = [Sample(2, scans, 500.0) for scans in range(95, 100)]
    found = soak.told(Ended(1.0, [3, 3, -9], flat + leak + short, 0), warm=10)
    assert found["megabytes_per_100_scans"] == pytest.approx({0: 0.0, 1: 20.0}, abs=0.01)
    assert found["peak_megabytes"] == {0: 800, 1: 520, 2: 500}
    assert soak.profile(leak[:99]) == {9 * part: pytest.approx(500.8 + 1.8 * part) for part in range(11)}
