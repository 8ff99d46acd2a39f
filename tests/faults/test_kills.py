"""Fault 31 and 32: SIGKILL while restore and preprocess write; the same command again comes to the same end.

Training is killed in tests/training/test_streaming.py, preparation in tests/commands/test_preparation.py too. All three
are killed 20 times by benchmarks/kills.py, whose functions are used here.
"""

import itertools

import forked
import pytest
import server
from server import Forked

from benchmarks import kills

COMMANDS = {
    "restore": ["restore", "--method=mirror_tv3d"],
    "preprocess": ["preprocess", "--config=data:smoke", "--config.bias_field.iterations=10", "--config.workers=1"],
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return forked.heads(tmp_path_factory.mktemp("kills"), 2)


@pytest.mark.parametrize(("command", "count"), [("restore", 2), ("preprocess", 1)])
def test_killed_at_any_moment_it_comes_to_the_same_end(command, count, scans, tmp_path):
    numbers = itertools.count()

    def start(words):
        return Forked(words, tmp_path / f"{next(numbers)}.log", server.in_forks)

    def words(folder):
        return [*COMMANDS[command], f"--input={scans}", f"--output={folder}"]

    found = kills.trial(start, words, kills.of_files, itertools.cycle((0.4, 0.1)), count, tmp_path)
    assert found["files"] > 20
    assert len(found["kills"]) == count
    assert found["unequal"] == {}


def test_what_is_not_the_same_is_seen(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub-1").mkdir(parents=True)
        (tmp_path / name / "sub-1" / "map.nii").write_bytes(name.encode())
        (tmp_path / name / "sub-1" / ".map.nii.0.tmp").write_bytes(name.encode())
    (tmp_path / "b" / "more").write_text("")
    found = (kills.of_files(tmp_path / name) for name in ("a", "b"))
    assert kills.differences(*found) == ["more", "sub-1/map.nii"]
