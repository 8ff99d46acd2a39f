"""The table of bugs fits the code, and benchmarks/mutations.py tells the caught from the survivors."""

import json
import sys

import pytest
from conftest import ROOT

from benchmarks import mutations

CAUGHT = """
[[mutant]]
bug = "three times"
file = "a.py"
old = "2 * x"
new = "3 * x"
tests = ["test_a.py::test_double"]
"""
SURVIVOR = CAUGHT.replace("three times", "squared").replace("3 * x", "x * x")
BROKEN = CAUGHT.replace("three times", "no Python").replace("3 * x", "3 * ")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree with one function and its test, in place of lgjax."""
    (tmp_path / "a.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "test_a.py").write_text("from a import double\n\n\ndef test_double():\n    assert double(2) == 4\n")
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    monkeypatch.setattr(mutations, "TABLE", tmp_path / "mutants.toml")
    monkeypatch.setattr(sys, "argv", ["mutations.py", f"--output={tmp_path / 'out.json'}"])
    return tmp_path


def test_the_table_fits_the_code():
    mutants = mutations.read(ROOT / "benchmarks" / "mutants.toml")
    assert len(mutants) >= 40
    assert mutations.problems(mutants, ROOT) == []


def test_bugs_are_caught_or_survive_and_are_not_tried_again(tree, monkeypatch, capsys):
    (tree / "mutants.toml").write_text(CAUGHT + SURVIVOR + BROKEN)
    assert mutations.main() == 1
    assert capsys.readouterr().out.endswith("1 of 3 caught\na.py: squared\na.py: no Python\n")
    record = json.loads((tree / "out.json").read_text())
    outcomes = {name: result["outcome"] for name, result in record["mutants"].items()}
    assert outcomes == {"a.py: three times": "caught", "a.py: squared": "SURVIVED", "a.py: no Python": "BROKEN"}
    assert (tree / "a.py").read_text() == "def double(x):\n    return 2 * x\n"
    monkeypatch.setattr(mutations, "run", None)  # nothing is left to run
    assert mutations.main() == 1


def test_tests_that_fail_without_a_bug_catch_nothing(tree, capsys):
    (tree / "mutants.toml").write_text(CAUGHT)
    (tree / "test_a.py").write_text("def test_double():\n    assert False\n")
    assert mutations.main() == 2
    assert "without any bug" in capsys.readouterr().err


def test_a_table_that_does_not_fit_is_told(tree, capsys):
    (tree / "mutants.toml").write_text(CAUGHT.replace("2 * x", "4 * x").replace("test_double", "test_half") + CAUGHT)
    assert mutations.main() == 2
    told = capsys.readouterr().err
    assert "its old text stands there 0 times" in told
    assert "there is no test_a.py::test_half" in told
    assert "listed twice" in told
