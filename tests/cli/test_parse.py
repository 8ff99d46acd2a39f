"""Command lines as they are typed: words, typos, help; nothing is imported for them that computes."""

import json
import os
import re
import subprocess
import sys

import pytest
from absl import flags
from conftest import ROOT

from lgjax import __main__
from lgjax.cli import commands, configs, helping, parse
from lgjax.runtime.errors import LgjaxError, UsageError
from lgjax.workdir import bounds, experiment


def parsed(command: str, *words: str) -> tuple[list[str], flags.FlagValues]:
    """The words that are left, and the flags."""
    values = flags.FlagValues()
    return parse.parse(command, [command, *words], values), values


def refusal(command: str, *words: str) -> str:
    """What is said of a command line that is wrong: one line, exit code 2."""
    with pytest.raises(UsageError) as caught:
        parsed(command, *words)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, config, trained_into):
    """Another folder than the clone's, with a trained model in runs/."""
    monkeypatch.chdir(tmp_path)
    trained_into(config, tmp_path / "runs" / "mine")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["scan.nii.gz"], ["scan.nii.gz"]),
        (["a.nii.gz", "b.nii", "c.hdr"], ["a.nii.gz", "b.nii", "c.hdr"]),
        (["--input", "d/a.nii.gz", "d/b.nii.gz"], ["d/b.nii.gz"]),  # --input d/*.nii.gz, expanded by the shell
        (["a scan, of Jane.nii.gz", "--method=intensity"], ["a scan, of Jane.nii.gz"]),
        (["--device=cpu", "folder", "--debug"], ["folder"]),
        (["--", "-odd-.nii.gz"], ["-odd-.nii.gz"]),
        (["phantom:test:1"], ["phantom:test:1"]),
    ],
)
def test_words_are_scans_for_restore(elsewhere, words, left):
    assert parsed("restore", *words)[0] == left


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("preprocess", "HEALTHY", "--input=HEALTHY"),
        ("preprocess", "a b,c", "--input=a b,c"),
        ("train", "vae:smoke", "--config=vae:smoke"),
        ("train", "configs/dae.py", "--config=configs/dae.py"),
        ("train", "runs/mine", "--config.data.source=runs/mine"),
        ("train", "runs/new", "--workdir=runs/new"),
        ("calibrate", "runs/mine", "--workdir=runs/mine"),
        ("calibrate", "intensity", "--method=intensity"),
        ("eval", "runs/mine/restored", "--predictions=runs/mine/restored"),
        ("bench", "bench:smoke", "--config=bench:smoke"),
        ("train", "smoke", "--config=vae:smoke"),
        ("preprocess", "smoke", "--config=data:smoke"),
    ],
)
def test_any_other_word_is_refused_before_anything_runs(elsewhere, command, word, meant):
    assert refusal(command, word).endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("command", "words", "meant"),
    [
        ("preprocess", ["--input=d/a.nii", "d/b.nii"], "their folder, --input=d"),
        ("preprocess", ["--input", "d e/a.nii", "d e/b.nii", "d e/c.nii"], "their folder, --input=d e"),
        ("eval", ["--predictions=D1", "D2"], "--predictions=D1,D2"),
        ("calibrate", ["--method=gmm", "intensity"], "--method=gmm,intensity"),
        ("train", ["--config=vae", "smoke"], "--config=vae:smoke"),
    ],
)
def test_words_that_belong_to_a_flag_before_them(elsewhere, command, words, meant):
    assert refusal(command, *words).endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("input=scan.nii.gz", "--input=scan.nii.gz"),
        ("\u2014input=scan.nii.gz", "--input=scan.nii.gz"),  # as a word processor writes it
        ("\u2013-output=D", "--output=D"),
        ("config.restore.iterations=3", "--config.restore.iterations=3"),
        ("method=intensity", "--method=intensity"),
        ("\u2212debug", "--debug"),
    ],
)
def test_a_flag_without_its_dashes_is_no_scan(elsewhere, word, meant):
    assert f"Did you mean {meant}?" in refusal("restore", word)
    (elsewhere / word).write_text("")
    assert parsed("restore", word)[0] == [word]  # but a file of that name is one


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("restore", ["--input=a.nii", "--input=b.nii"], "--input is given twice"),
        ("eval", ["--labels=a", "--labels", "b"], "--labels is given twice"),
        ("restore", ["--input="], "--input=: expected a path"),
        ("train", ["--workdir="], "--workdir=: expected a path"),
        ("restore", ["--workdir"], "--workdir lacks its value"),
        ("restore", [""], "is empty"),
        ("train", ["--config"], "--config lacks its value"),
    ],
)
def test_what_would_silently_mean_something_else_is_refused(elsewhere, command, words, said):
    assert said in refusal(command, *words)


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("restore", "--inptu=a", "--input"),
        ("restore", "--ouptut=a", "--output"),
        ("restore", "--methods=gmm", "--method"),
        ("restore", "--max-voxels=9", "--max_voxels"),
        ("restore", "--Input=a", "--input"),
        ("restore", "--gpu", "--device=gpu"),
        ("restore", "-o=D", "--output"),
        ("restore", "--iterations=9", "--config.restore.iterations"),
        ("eval", "--prediction=a", "--predictions"),
        ("eval", "--input=a", "--predictions"),
        ("train", "--input=a", "--config.data.source"),
        ("train", "--batch_size=9", "--config.train.batch_size"),
        ("train", "--lr=1", "--config.train.learning_rate"),
        ("calibrate", "--worrkdir=a", "--workdir"),
        ("train", "--cofig=vae", "--config"),
        ("preprocess", "--recipes=a", "--recipe"),
        ("bench", "--outputs=a", "--output"),
    ],
)
def test_a_mistyped_flag_is_told_with_the_one_that_was_meant(elsewhere, command, word, meant):
    assert refusal(command, word) == f"there is no flag --{word.lstrip('-').partition('=')[0]}. Did you mean {meant}?"


def test_a_mistyped_flag_is_told_before_a_model_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Did you mean --input?" in refusal("restore", "--inptu=a")
    assert "nothing is trained" in refusal("calibrate")
    assert "lists the flags" in refusal("restore", "--xyzzy")


@pytest.mark.parametrize(
    "given", [[], ["--config=vae:smoke"], ["--config", "vae"], ["--config=configs/vae.py:authors"]]
)
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--config.train.stpes=9", "Did you mean --config.train.steps?"),
        ("--config.trian.steps=9", "Did you mean --config.train.steps?"),
        ("--config.steps=9", "Did you mean --config.train.steps?"),
        ("--config.learning_rat=9", "Did you mean --config."),
        ("--config.train=9", "Give one of its values: --config.train.batch_size, "),
        ("--config.train.xyzzy=9", "Choose among train.batch_size, "),
        ("--noconfig.train.steps", "is no switch"),
    ],
)
def test_a_mistyped_value_of_the_config_is_told_in_another_folder_too(tmp_path, monkeypatch, given, word, said):
    monkeypatch.chdir(tmp_path)
    assert said in refusal("train", *given, word)
    assert said in refusal("train", word, *given)  # in any order


def test_a_mistyped_value_of_a_recorded_config_is_told(elsewhere):
    assert "Did you mean --config.restore.score?" in refusal("restore", "--config.restore.scores=a")
    assert "Did you mean --config.restore.score?" in refusal(
        "calibrate", "--workdir=runs/mine", "--config.restore.scroe=a"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vae.py:bogus", "there is no variant 'bogus'. Choose among paper, smoke, authors, smoke_authors."),
        ("configs/vae.py:smok", "Choose among paper, smoke, authors, smoke_authors."),
        ("dae:authors", "Choose among paper, smoke."),
        ("vea", "there is no config of that name. Did you mean vae?"),
        ("vae:", ""),
        ("xyzzy:smoke", "Choose among aae, anogan, bench, dae, data, detection, eval, gmvae, restorer, vae"),
        ("configs/dea.py", "does not exist. Did you mean dae?"),
        ("data", "no config for training. Take one such as --config=vae."),
        ("own.py", "cannot be run as a config (SyntaxError"),
        ("plain.py:smoke", "has no variants"),
        ("wrong.py", "returns no ConfigDict"),
        (".", "there is no config of that name"),
    ],
)
def test_a_config_that_does_not_exist_is_told_with_the_choices(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def get_config(:\n")
    (tmp_path / "plain.py").write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {'model': 1}\n")
    if said:
        assert said in refusal("train", f"--config={name}")
    else:
        assert parsed("train", f"--config={name}")[1].config.name == "vae"


def test_a_colon_may_stand_in_the_path_of_a_config(tmp_path):
    text = (ROOT / "configs" / "vae.py").read_text()
    for folder in ("C:", "a:b", "with space, comma"):
        path = tmp_path / folder / "mine.py"
        path.parent.mkdir()
        path.write_text(text)
        assert parsed("train", f"--config={path}:smoke")[1].config.name == "vae_smoke"
        assert parsed("train", f"--config={path}")[1].config.name == "vae"


def test_the_place_of_the_installation_may_have_a_colon(tmp_path, monkeypatch):
    place = tmp_path / "C:" / "lgjax" / "configs"
    place.parent.mkdir(parents=True)
    place.symlink_to(ROOT / "configs")
    monkeypatch.setattr(configs, "PLACES", (place,))
    monkeypatch.chdir(tmp_path)
    assert parsed("train", "--config=vae:smoke", "--config.seed=5")[1].config.seed == 5
    assert parsed("train", "--config=configs/vae.py:smoke")[1].config.name == "vae_smoke"


@pytest.mark.parametrize("name", ["input", "output", "workdir", "mask"])
def test_the_home_folder_is_meant_by_a_tilde(elsewhere, monkeypatch, name):
    monkeypatch.setenv("HOME", str(elsewhere))
    experiment.record(configs.load("vae:smoke"), elsewhere / "x")
    assert parsed("restore", f"--{name}=~/x")[1][name].value == str(elsewhere / "x")
    assert parsed("restore", f"--{name}", "~/x")[1][name].value == str(elsewhere / "x")


@pytest.mark.parametrize(("command", "name"), [("preprocess", "recipe"), ("eval", "labels"), ("eval", "predictions")])
def test_other_paths_know_the_home_folder_too(monkeypatch, tmp_path, command, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed(command, f"--{name}=~/x")[1][name].value == str(tmp_path / "x")
    (tmp_path / "own.py").write_text((ROOT / "configs" / "vae.py").read_text())
    assert parsed("train", "--config=~/own.py:smoke")[1].config.name == "vae_smoke"
    for source in ("{}/healthy", "phantom:{}/maps", "phantom@5+1:{}/maps"):
        given = f"--config.data.source={source.format('~')}"
        assert parsed("train", given)[1].config.data.source == source.format(tmp_path)
    assert parsed("train", "--config.data.source=a~b")[1].config.data.source == "a~b"


def helped(capsys, command: str, *words: str) -> str:
    """What a command says that is asked for help."""
    with pytest.raises(SystemExit) as end:
        parse.parse(command, [command, *words], flags.FlagValues())
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_has_all_flags_on_a_screen_and_full_help_all_values(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # nothing is trained here
    short, said = (helped(capsys, command, "--nonsense", word) for word in ("--help", "--helpfull"))
    assert helped(capsys, command, "-h") == helped(capsys, command, "help") == short
    assert helped(capsys, command, "--help", "--helpfull") == said
    values = flags.FlagValues()
    commands.define_common(values)
    commands.COMMANDS[command].define(values)
    screen, _, rest = said.partition("Config values")
    assert short.startswith(screen.rstrip())
    assert short.rstrip().splitlines()[-1].startswith("--helpfull ")
    assert len(short.splitlines()) <= 40
    assert max(map(len, said.splitlines())) <= 120
    for name in (*values, "config"):
        assert re.search(rf"^  --(\[no\])?{name} +\S", screen, re.MULTILINE) or name in flags.FlagValues(), name
    shown = re.findall(r"^  ([a-z][\w.]*)=\S*(.*)$", rest, re.MULTILINE)
    assert shown
    assert {path for path, _ in shown} <= {
        path for path, _ in bounds.leaves(configs.load(commands.COMMANDS[command].config or "vae"))
    }


@pytest.mark.parametrize("name", configs.names())
def test_every_value_of_a_config_has_a_comment_for_help(name):
    remarks = helping.comments(name)
    paths = [path for path, _ in bounds.leaves(configs.load(name)) if not path.startswith("experiments.")]
    assert [path for path in paths if not remarks.get(path)] == []


def test_help_and_typos_import_nothing_that_computes():
    """In one process: the doors' command lines are parsed without JAX, NumPy or nibabel."""
    code = (
        "import sys; from absl import flags; from lgjax.cli import commands, helping, parse\n"
        "for name in commands.COMMANDS:\n"
        "    values = flags.FlagValues(); commands.COMMANDS[name].define(values)\n"
        "    assert helping.text(name, values, list(values), full=True)\n"
        "parse.parse('train', ['train', '--config=vae:smoke', '--config.seed=3'], flags.FlagValues())\n"
        "print({'jax', 'numpy', 'nibabel', 'flax'} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize(
    ("command", "word", "said"),
    [
        ("restore", "--device=gpuu", "--device=gpuu: value should be one of <auto|cpu|gpu|tpu>."),
        ("restore", "--volume=x", "--volume=x: expected a whole number."),
        ("restore", "--volume=-1", "--volume=-1: "),
        ("restore", "--layout=bidz", "--layout=bidz: value should be one of"),
        ("restore", "--debug=maybe", "--debug=maybe: "),
        ("restore", "--max_voxels=0", "--max_voxels=0: "),
    ],
)
def test_a_wrong_value_of_a_flag_is_one_line(elsewhere, command, word, said):
    assert said in refusal(command, word)


def test_a_damaged_record_is_told_with_its_path(elsewhere):
    (elsewhere / "runs" / "mine" / "config.json").write_text('{"gmm": {}, "train": 3}')
    with pytest.raises(LgjaxError, match=r"runs/mine/config\.json"):
        parsed("restore", "scan.nii.gz")


def test_a_work_directory_that_does_not_exist_is_told_with_those_that_do(elsewhere):
    assert refusal("restore", "--workdir=runs/mien", "scan.nii").endswith("does not exist. Give one of runs/mine.")
    assert "holds no config.json" in refusal("restore", "--workdir=runs", "scan.nii")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_info_has_help_too(word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lgjax", "info", word])
    __main__.main()
    said = capsys.readouterr()
    assert "Usage: lgjax info [--json]\n  --json " in said.out
    assert not said.err


def test_info_says_why_there_are_no_devices(monkeypatch):
    """As where another process holds the memory of the GPU: who looks for the cause asks `info` first."""
    words = [sys.executable, "-m", "lgjax", "info", "--json"]
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense"}
    said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["devices"] == []
    assert "nonsense" in found["problem"]
    monkeypatch.setattr(__main__, "devices", lambda: ([], found["problem"]))
    assert f"devices: none ({found['problem']})" in __main__.information(as_json=False).splitlines()


@pytest.mark.parametrize("words", [["info", "--jsn"], ["info", "scan.nii.gz"], ["restor"], ["--verison"]])
def test_the_list_of_commands_takes_no_word_that_it_does_not_know(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lgjax", *words])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 2
    assert words[-1] in capsys.readouterr().err
