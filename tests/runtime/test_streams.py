"""Where a command prints: any encoding, a reader that has gone, a log file in place of a terminal, no home folder."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT

from lgjax.runtime import counting, files, progress

WORK = """
import os, pathlib, sys
from lgjax.runtime import streams
streams.forgive()
for number in range(2000):
    print(f"{number} \\u00b1 \\u2192 \\u65e5\\u672c \\udce9 {'x' * 60}")
    print("and", file=sys.stderr)
pathlib.Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-8:strict"])
def test_any_encoding_takes_any_text(tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", WORK, tmp_path / "mark"], env=environment, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mark").read_text() == "done"
    assert b"1999 " in result.stdout
    assert b"\\udce9" in result.stdout


@pytest.mark.parametrize("unbuffered", [(), ("-u",)])
@pytest.mark.parametrize("redirected", ["", "2>&1"])
def test_a_reader_who_has_seen_enough_does_not_end_the_work(tmp_path, unbuffered, redirected):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)
    (tmp_path / "work.py").write_text(WORK)
    command = f"{sys.executable} {' '.join(unbuffered)} work.py mark {redirected} | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, (tmp_path / "mark").read_text()) == (0, "done")
    assert "Error" not in result.stderr


def test_a_closed_standard_output_does_not_end_the_work(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "work.py").write_text(WORK)
    command = f"{sys.executable} work.py mark >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "mark").read_text() == "done"


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_a_minute_and_the_last(clock, capsys):
    for _ in progress.track(range(300), "training", 300, "step"):
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert [re.match(r"training: (\d+) of 300 steps", line)[1] for line in lines] == [
        "60",
        "120",
        "180",
        "240",
        "300",
        "300",
    ]
    assert lines[0].endswith("in 0:01:00, 0:04:00 left")


@pytest.mark.parametrize("seconds", [0.01, 59.0, 61.0, 3700.0])
def test_progress_that_is_counted_by_hand(clock, capsys, seconds):
    with progress.track(None, "lambda", 0, "slice") as bar:
        bar.total += 8
        bar.set_postfix_str("loss 2.0")
        clock[0] += seconds
        bar.update(8)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + (seconds >= 60)
    assert lines[-1].startswith("lambda: 8 of 8 slices in ")
    assert lines[-1].endswith("loss 2.0")


def test_progress_says_nothing_where_nothing_was_done(clock, capsys):
    with progress.track(None, "training", 5, "step", 5):
        pass
    assert not list(progress.track([], "scans", 0, "scan"))
    assert capsys.readouterr().err == ""


def test_progress_of_work_that_fails_is_told_too(clock, capsys):
    def work():
        yield from range(4)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(progress.track(work(), "scans", 9, "scan"))
    assert capsys.readouterr().err.startswith("scans: 4 of 9 scans")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress.track(range(3), "scans", 3, "scan")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_a_terminal_that_cannot_move_back_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert list(progress.track(range(3), "scans", 3, "scan")) == [0, 1, 2]
    said = capsys.readouterr().err
    assert said.startswith("scans: 3 of 3 scans")
    assert "\r" not in said


@pytest.mark.parametrize("terminal", [False, True])
def test_hidden_progress_says_nothing(clock, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(progress, "_hidden", False)
    progress.hide(True)
    for _ in progress.track(range(3), "scans", 3, "scan"):
        clock[0] += 100
    assert capsys.readouterr().err == ""


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def lost():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", lost)
    place = files.cache_folder("xla")
    assert place.parts[-2:] == ("lgjax", "xla")
    assert place.is_absolute()


@pytest.mark.parametrize(("count", "said"), [(0, "0 scans"), (1, "1 scan"), (2, "2 scans"), (21, "21 scans")])
def test_numbers_of_things(count, said):
    assert counting.counted(count, "scan") == said


EARLY = "import os, signal, sys; sys.argv = {words}; from lgjax.cli import early; early.begin({command!r}); {then}"


@pytest.mark.parametrize("command", ["train", "preprocess", "eval"])
def test_ctrl_c_during_the_imports_is_one_line_at_once(command):
    then = "os.kill(os.getpid(), signal.SIGINT); import jax; print('not reached')"
    code = EARLY.format(words=[command], command=command, then=then)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stdout == ""
    assert result.stderr == "\ninterrupted; run the same command again to go on\n"


POOL = """
import os, pathlib, signal, sys, threading, time
from lgjax.cli import app
from lgjax.runtime import parallel

def slow(number):
    pathlib.Path(f"{number}.at_work").touch()
    time.sleep(3600)

def press():
    time.sleep(0.05)
    while len([*pathlib.Path().glob("*.at_work")]) < int(sys.argv[1]):
        time.sleep(0.01)
    os.killpg(os.getpgid(0), signal.SIGINT)

def main(words):
    with parallel.processes(2) as pool:
        threading.Thread(target=press).start()
        list(parallel.ahead(slow, range(4), 2, pool))

if __name__ == "__main__":
    app.run(main)
"""


@pytest.mark.parametrize("at_work", [0, 2])
def test_ctrl_c_ends_worker_processes_without_a_traceback(tmp_path, at_work):
    """At once, both while they start and while they work; the terminal sends it to all of them."""
    (tmp_path / "work.py").write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "work.py", str(at_work)],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode in (130, -signal.SIGINT)
    assert said == "\ninterrupted; run the same command again to go on\n"
