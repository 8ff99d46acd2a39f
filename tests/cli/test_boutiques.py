"""The Boutiques descriptor: valid to Boutiques' own tool, whose command lines the BIDS-App understands."""

import json
import pathlib
import shlex

import pytest
from absl import flags
from boutiques import bosh
from conftest import ROOT

from lgjax.cli import bids_app, boutiques

COMMITTED = ROOT / "docs" / "boutiques.json"


@pytest.fixture
def descriptor(tmp_path):
    path = tmp_path / "boutiques.json"
    path.write_text(boutiques.describe())
    return path


def test_the_committed_descriptor_is_that_of_the_parser():
    """Write it again with `lgjax bids --boutiques > docs/boutiques.json`."""
    assert COMMITTED.read_text() == boutiques.describe()


def test_bosh_finds_it_valid_and_would_refuse_another(descriptor):
    bosh(["validate", str(descriptor)])
    about = json.loads(descriptor.read_text())
    about["inputs"][0]["type"] = "Folder"
    descriptor.write_text(json.dumps(about))
    with pytest.raises(Exception, match="Folder"):
        bosh(["validate", str(descriptor)])


def test_a_command_that_bosh_makes_means_what_was_asked(descriptor, tmp_path):
    (tmp_path / "filter.json").write_text("{}")
    asked = {
        "bids_dir": str(tmp_path),
        "output_dir": "out put",
        "analysis_level": "participant",
        "participant_label": ["sub-01", "02"],
        "session_label": ["a"],
        "bids_filter_file": str(tmp_path / "filter.json"),
        "skip_bids_validation": True,
        "method": "mirror_tv3d",
        "device": "cpu",
        "work_dir": "work",
        "viewer": True,
        "quiet": True,
    }
    invocation = tmp_path / "invocation.json"
    invocation.write_text(json.dumps(asked))
    made = bosh(["exec", "simulate", str(descriptor), "-i", str(invocation)]).shell_command
    start, *words = shlex.split(made.removeprefix("lgjax "))
    assert start == "bids"
    values = flags.FlagValues()
    assert bids_app.parse_arguments(words, values) == bids_app.Options(
        tmp_path,
        pathlib.Path("out put"),
        "participant",
        ("01", "02"),
        ("a",),
        tmp_path / "filter.json",
        pathlib.Path("work"),
        True,
    )
    assert (values.method, values.device) == (["mirror_tv3d"], "cpu")
    assert (values.viewer, values.quiet, values.debug) == (True, True, False)


@pytest.mark.parametrize("ending", [["--boutiques"], ["--version"], ["-h"], ["raw", "--help"]])
def test_what_is_only_asked_is_answered(ending, capsys):
    with pytest.raises(SystemExit) as end:
        bids_app.parse_arguments(ending, flags.FlagValues())
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert {"--boutiques": boutiques.describe(), "--version": "lgjax 0.1.0\n"}.get(ending[-1], told) == told
    assert "esearch use only" in told or ending == ["--version"]
