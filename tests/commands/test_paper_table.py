"""docs/paper_table.md, as a user types it: every command of the page, and every file that it promises."""

import functools
import json
import re
import shlex

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from test_docs import blocks
from test_end_to_end import lgjax, ok, typed

from lgjax.scans import phantom

PAGE = (ROOT / "docs" / "paper_table.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The folder in which the page's commands were typed, one after the other, and what each said."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "scans").mkdir()
    for number in range(2):
        scan = phantom.make_subject(phantom.load_anatomies(None), 5, number, "glioma", slices=8, thickness=8.0)
        for name, data in (("", scan.image.data), ("_seg", scan.lesion)):
            image = nib.Nifti1Image(np.asarray(data, np.int16), scan.image.affine)
            nib.save(image, folder / "scans" / f"P{number + 1}{name}.nii.gz")
    lines = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert [line.split()[:2] for line in lines] == [["lgjax", door] for door in ("restore", "restore", "eval")]
    quick = functools.partial(lgjax, optimised=True)
    runs = zip((quick, quick, typed), lines, strict=True)
    return folder, [ok(run(*shlex.split(line)[1:], cwd=folder)) for run, line in runs]


def test_every_file_that_the_page_promises_is_there(commands):
    folder, _ = commands
    promised = re.findall(r"^\| `([\w./]+)` \|", PAGE, re.MULTILINE)
    assert len(promised) == 8
    for name in promised:
        assert (folder / name).stat().st_size > 100, name


def test_the_commands_say_what_the_page_says(commands):
    first, again, last = commands[1]
    assert "released with lgjax; thresholds from" in first.stdout.splitlines()[0]
    assert again.stdout == "0 restored, 2 finished before, 0 failed of 2 scans -> maps\n"
    assert "Report: evaluation/report.html" in last.stdout
    assert "achieved FPR" in PAGE


def test_table_and_methods_are_of_one_method(commands):
    folder, _ = commands
    runs = json.loads((folder / "maps" / "results.json").read_text())["Runs"]
    assert [(run["Restored"], run["FinishedBefore"], run["ExitCode"]) for run in runs] == [(2, 0, 0), (0, 2, 0)]
    method = runs[0]["Method"]
    assert f"the method `{method}`" in (folder / "maps" / "methods.md").read_text()
    assert re.search(rf"^\| {method} +\| 2 +\| \S", (folder / "evaluation" / "table.md").read_text(), re.MULTILINE)
    assert len((folder / "evaluation" / "subjects.tsv").read_text().splitlines()) >= 3
