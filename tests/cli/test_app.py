"""What a command prints, with and without --quiet; and what its log does."""

import logging
import pathlib
import sys

import pytest
from absl import flags

from lgjax.cli import app, commands
from lgjax.runtime import progress


@pytest.fixture
def spoken(monkeypatch, capsys):
    """A function that runs a command that says all kinds of things; returns what it prints where, and its exit code."""
    for handler in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logging.getLogger("lgjax"), handler, getattr(logging.getLogger("lgjax"), handler))
    monkeypatch.setattr(progress, "_hidden", False)
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    monkeypatch.setattr(app.signals, "listen", lambda: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def main(words):
        app.say("input: a folder")
        log = logging.getLogger("lgjax.scans")
        log.info("calibrated")
        log.warning("sub-a: its plane fits nothing")
        list(progress.track(range(2), "restoring", 2, "scan"))
        print("2 restored")
        app.note("left out: b")
        raise app.EnvironmentFault("the disk is full")

    def speak(*words):
        values = flags.FlagValues()
        commands.define_common(values)
        values(["lgjax", *words])
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(logging.getLogger("lgjax"), "handlers", [])
        with pytest.raises(SystemExit) as end:
            app.run(main)
        told = capsys.readouterr()
        return told.out.splitlines(), told.err.splitlines(), end.value.code

    return speak


def test_a_command_tells_what_goes_on(spoken):
    out, err, code = spoken()
    told = ["input: a folder", "calibrated", "sub-a: its plane fits nothing", "2 restored", "left out: b"]
    assert (out, code) == (told, 4)
    assert err[0].startswith("restoring: 2 of 2 scans")
    assert err[1:] == ["error: the disk is full"]


def test_quiet_leaves_the_last_line_and_what_is_wrong(spoken):
    wrong = ["sub-a: its plane fits nothing", "left out: b", "error: the disk is full"]
    assert spoken("--quiet") == (["2 restored"], wrong, 4)


def test_a_current_folder_that_is_gone_is_told_without_a_traceback(spoken, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(app, "say", lambda _: pathlib.Path("x").resolve())
    (tmp_path / "here").rmdir()
    _, err, code = spoken()
    assert code == 4
    (told,) = err
    assert told.startswith("error: the current folder is gone")


def test_a_file_that_a_bug_looks_for_is_a_bug(spoken, monkeypatch):
    monkeypatch.setattr(app, "say", lambda _: pathlib.Path("no such file").read_text())
    _, err, code = spoken()
    assert (code, err[0]) == (1, "Traceback (most recent call last):")


def test_every_command_can_be_quiet():
    for command in commands.COMMANDS.values():
        values = flags.FlagValues()
        commands.define_common(values)
        command.define(values)
        assert "quiet" in values
