"""Puts bugs into the code one at a time, and counts those that the tests catch.

    python benchmarks/mutations.py --output=benchmarks/mutations.json
    python benchmarks/mutations.py --output=F.json --only=calibration     # mutants whose file or bug says so

mutants.toml beside this script is the table: what the bug is, the file, its text before and after, and the tests that
must fail. Each bug is put into a temporary copy of the tree, never into the tree itself. The tests must pass there
without a bug; a bug that they let pass has survived. What is in the output is not done again while the bug's file and
its tests stay as they are. The exit code is 1 where a bug survived, 2 where the table does not fit the code.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lgjax.runtime import devices, files

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = pathlib.Path(__file__).with_name("mutants.toml")
COPIED = ("benchmarks", "configs", "docs", "launch", "lgjax", "tests", "*.md", "*.py", "*.toml", "*.yml")
OUTCOMES = {0: "SURVIVED", 1: "caught"}  # by pytest's exit code


class Mutant(NamedTuple):
    """One bug."""

    bug: str  # in words
    file: str
    old: str  # text that stands in the file once
    new: str
    tests: tuple[str, ...]  # of which at least one must fail

    @property
    def name(self) -> str:
        """What the output calls the bug."""
        return f"{self.file}: {self.bug}"


def read(table: pathlib.Path) -> list[Mutant]:
    """Reads the table."""
    rows = tomllib.loads(table.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def problems(mutants: list[Mutant], root: pathlib.Path) -> list[str]:
    """Lists what in the table does not fit the code, a line each."""
    found = []
    for mutant in mutants:
        source = root / mutant.file
        count = source.read_text(encoding="utf-8").count(mutant.old) if source.is_file() else 0
        if count != 1:
            found.append(f"{mutant.name}: its old text stands there {count} times")
        if mutant.old == mutant.new or not mutant.tests:
            found.append(f"{mutant.name}: changes nothing, or names no test")
        for test in mutant.tests:
            path, _, function = test.partition("[")[0].partition("::")
            text = (root / path).read_text(encoding="utf-8") if (root / path).is_file() else ""
            if f"def {function}(" not in text:
                found.append(f"{mutant.name}: there is no {test}")
    names = [mutant.name for mutant in mutants]
    return found + [f"{name}: listed twice" for name in sorted({name for name in names if names.count(name) > 1})]


def digest(mutant: Mutant, root: pathlib.Path) -> str:
    """Returns SHA-256 of a mutant, the file that it changes and the files of its tests."""
    paths = [mutant.file, *sorted({test.partition("::")[0] for test in mutant.tests})]
    return files.digest([*mutant, *((root / path).read_text(encoding="utf-8") for path in paths)])


def copy(target: pathlib.Path) -> None:
    """Copies what the tests need of the tree."""
    for path in (path for pattern in COPIED for path in ROOT.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, target)


def run(tests: Iterable[str], folder: pathlib.Path, timeout: float) -> tuple[str, str]:
    """Runs tests in a copy of the tree; returns the outcome and what pytest said last."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    # Bytecode knows its source by size and whole seconds, which a bug can share with the text before.
    quick = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {**os.environ, **quick, "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "TIMEOUT", f"longer than {timeout:g} s"
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    return OUTCOMES.get(done.returncode, "BROKEN"), lines[-1]


def try_out(mutant: Mutant, folder: pathlib.Path, timeout: float) -> dict[str, Any]:
    """Runs a mutant's tests on the copy with the bug, which is taken out again."""
    path = folder / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    began = time.perf_counter()
    try:
        outcome, said = run(mutant.tests, folder, timeout)
    finally:
        path.write_text(before, encoding="utf-8")
    return {
        "outcome": outcome,
        "said": said,
        "seconds": round(time.perf_counter() - began, 1),
        "tests": list(mutant.tests),
        "digest": digest(mutant, folder),
    }


def write(output: pathlib.Path, mutants: list[Mutant], results: dict[str, Any]) -> None:
    """Writes the record; bugs that are no longer in the table leave it."""
    kept = {mutant.name: results[mutant.name] for mutant in mutants if mutant.name in results}
    record = {
        "what": __doc__.splitlines()[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": devices.versions(),
        "cores": os.cpu_count(),
        "caught": sum(result["outcome"] == "caught" for result in kept.values()),
        "tried": len(kept),
        "mutants": kept,
    }
    files.atomic_write(output, json.dumps(record, indent=2) + "\n")


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="a part of the file's name or of the bug's description")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one bug")
    options = parser.parse_args()
    mutants = read(TABLE)
    if found := problems(mutants, ROOT):
        print("\n".join(found), file=sys.stderr)
        return 2
    results = json.loads(options.output.read_text())["mutants"] if options.output.exists() else {}
    chosen = [mutant for mutant in mutants if options.only in mutant.name]
    todo = [mutant for mutant in chosen if results.get(mutant.name, {}).get("digest") != digest(mutant, ROOT)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copy(folder)
        tests = sorted({test for mutant in todo for test in mutant.tests})
        outcome, said = run(tests, folder, options.timeout * len(tests)) if tests else ("SURVIVED", "")
        if outcome != "SURVIVED":
            print(f"without any bug, the tests do not pass: {said}", file=sys.stderr)
            return 2
        for mutant in todo:
            results[mutant.name] = try_out(mutant, folder, options.timeout)
            print(f"{results[mutant.name]['outcome']}: {mutant.name}", flush=True)
            write(options.output, mutants, results)
    missed = [mutant.name for mutant in chosen if results[mutant.name]["outcome"] != "caught"]
    print("\n".join([f"{len(chosen) - len(missed)} of {len(chosen)} caught", *missed]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
