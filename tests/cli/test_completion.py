"""Shell completion: what bash offers for a line, and that the scripts know every command and flag."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from absl import flags

from lgjax import __main__
from lgjax.cli import completion, configs, parse
from lgjax.methods import names

RUN = """
COMP_LINE={line}; COMP_POINT={point}; COMP_WORDS=({words}); COMP_CWORD={number}
_lgjax 2>&1
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "lgjax"
    path.write_text(completion.bash())
    return path


def offered(script, line: str, cwd=None, behind: str = "") -> list[str]:
    """What bash offers where the cursor stands behind `line`; words are broken at = and : as bash does."""
    words = [part for word in line.split(" ") for part in re.findall(r"[=:]+|[^=:]+", word) or [""]]
    filled = RUN.format(
        line=shlex.quote(line + behind), point=len(line), words=shlex.join(words), number=len(words) - 1
    )
    command = ["bash", "-c", f"source {shlex.quote(str(script))}\n{filled}"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("lgjax resto", ["restore"]),
        ("lgjax ben", ["bench"]),
        ("lgjax completion ", ["bash", "zsh"]),
        ("lgjax info -", ["--json"]),
        ("lgjax restore --layo", ["--layout="]),
        ("lgjax restore --nodeb", ["--nodebug"]),
        ("lgjax restore --layout=b", ["bids", "brats"]),
        ("lgjax restore --layout b", ["bids", "brats"]),
        ("lgjax restore --device=", ["auto", "cpu", "gpu", "tpu"]),
        ("lgjax train --config=va", ["vae"]),
        ("lgjax train --config.train.ste", ["--config.train.steps=", "--config.train.steps_per_dispatch="]),
        ("lgjax train --config.train.steps=", []),
        ("lgjax restore --method=gm", [name for name in names.available() if name.startswith("gm")]),
        ("lgjax restore --method=gmm,mirror_tv", ["gmm,mirror_tv3d"]),
        ("lgjax eval --predictions=m", ["maps"]),
        ("lgjax restore sc", ["scan.nii.gz"]),
        ("lgjax restore --input=maps/su", ["maps/sub-01"]),
        ("lgjax restore --input maps/su", ["maps/sub-01"]),
        ("lgjax restore --input=a:b/o", ["b/one"]),  # bash replaces what stands behind the colon
        ("lgjax train sc", []),
        ("lgjax bids maps --participant-l", ["--participant-label"]),
        ("lgjax bids --device g", ["gpu"]),
        ("lgjax bids ma", ["maps"]),
    ],
)
def test_bash_offers(script, tmp_path, line, found):
    for folder in ("maps/sub-01", "a:b/one"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scan.nii.gz").touch()
    assert sorted(offered(script, line, tmp_path)) == sorted(found)


def test_what_stands_behind_the_cursor_changes_nothing(script):
    assert offered(script, "lgjax restore --layout=ix", behind="zzz --debug") == ["ixi"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_scripts_know_every_command_and_flag(shell):
    text = getattr(completion, shell)()
    assert {*__main__.COMMANDS, "completion", "info"} == {*completion.table(), *completion.OTHERS}
    values = flags.FlagValues()
    parse.parse("eval", ["eval"], values)
    absl = set(flags.FlagValues())
    assert len(set(values) - absl) > 10
    for word in (f"--{name}" for name in set(values) - absl):
        assert re.search(rf"{re.escape(word)}\b", text), word
    for word in (*configs.names(), *names.available()):
        assert re.search(rf"\b{word}\b", text), word


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_shell_can_read_its_script(tmp_path, shell):
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    (tmp_path / "lgjax").write_text(getattr(completion, shell)())
    read = subprocess.run([shell, "-n", tmp_path / "lgjax"], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


def test_zsh_is_told_what_a_flag_is_for_and_takes():
    said = completion.zsh()
    assert r"'--layout=[Layout of an input folder]:value:(auto bids " in said
    assert "'--mask=[Brain mask of a single scan]:value:_files'" in said
    assert "'--debug[Show tracebacks]'" in said
    assert r"'--coordinator=[Where the first of several hosts listens, HOST\:PORT]:value: '" in said


@pytest.mark.parametrize("words", [[], ["fish"], ["bash", "zsh"]])
def test_a_shell_must_be_named(words, capsys):
    assert completion.main(words) == 2
    assert capsys.readouterr() == ("", "error: name one shell: lgjax completion bash|zsh\n")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_completion_has_help_too(word, capsys):
    assert completion.main([word]) == 0
    said = capsys.readouterr()
    assert "Usage: lgjax completion bash|zsh\n" in said.out
    assert all(f"\n  {shell} " in said.out for shell in completion.SHELLS)
    assert not said.err


def test_the_command_prints_the_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lgjax", "completion", "bash"])
    monkeypatch.delitem(sys.modules, "lgjax.cli.completion", raising=False)  # runpy warns of a second import
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert not end.value.code
    assert capsys.readouterr().out == completion.bash()
