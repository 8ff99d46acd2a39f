"""The scans that a command line names, the first line that tells of them, and what is remembered for `eval`."""

import json
import os
import pathlib
import time

import images
import pytest
from absl import flags

from lgjax import restore
from lgjax.cli import commands, configs, opening, scans
from lgjax.derivatives import runs
from lgjax.methods import names as methods
from lgjax.runtime.errors import InputError, UsageError

HEAD = images.head()


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Sets the flags of restore, in a folder with scans."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/one.nii.gz", "a/two.nii.gz", "b/three.nii.gz", "b/one.nii.gz", "c d, e/four.nii"):
        images.save(tmp_path / name, HEAD)

    def type_(*words: str) -> list[str]:
        values = flags.FlagValues()
        commands.COMMANDS["restore"].define(values)
        monkeypatch.setattr(flags, "FLAGS", values)
        return scans.inputs_of_flags(values(["restore", *words])[1:])

    return type_


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a/one.nii.gz"], ["sub-one"]),
        (["a/one.nii.gz", "a/two.nii.gz", "b/three.nii.gz"], ["sub-one", "sub-three", "sub-two"]),
        (["--input", "a/one.nii.gz", "a/two.nii.gz"], ["sub-one", "sub-two"]),
        (["a", "b/three.nii.gz"], ["sub-one", "sub-two", "sub-three"]),
        (["c d, e/four.nii"], ["sub-four"]),
        (["--input=c d, e"], ["sub-four"]),
        (["--input=a/*.nii.gz"], ["sub-one", "sub-two"]),  # a pattern that the shell has left alone
        (["--input=*/t*.nii.gz"], ["sub-three", "sub-two"]),
        (["a/one.nii.gz", "b/one.nii.gz"], ["sub-a", "sub-b"]),  # as their folders are called
        (["a/one.nii.gz", "a/one.nii.gz"], ["sub-one"]),
        (["phantom:test:1:", "a/one.nii.gz"], None),
    ],
)
def test_one_scan_or_many(typed, words, found):
    names = typed(*words)
    if found is None:
        assert names == words
    else:
        assert [one.identifier for one in scans.scans_of_flags(names).found] == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b"], "a and b hold scans that would both be sub-one"),
        (["--mask=m.nii", "a/one.nii.gz", "a/two.nii.gz"], "--mask goes with a single scan, and 2 are given"),
        (["a/nothing.nii.gz"], "a/nothing.nii.gz does not exist"),
        (["a/x*.nii.gz"], "does not exist"),
    ],
)
def test_scans_that_cannot_be_told_apart_or_found_are_refused(typed, words, said):
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        scans.scans_of_flags(typed(*words))


@pytest.mark.parametrize(
    ("output", "names"), [("a", ["a"]), ("a", ["b", "a/one.nii.gz"]), ("./b/../a/", ["a"]), (".", ["x.nii"])]
)
def test_results_never_go_among_the_scans(typed, output, names):
    pathlib.Path("x.nii").write_text("")
    with pytest.raises(UsageError, match="is the folder of the scans"):
        scans.check_output(pathlib.Path(output), names)
    scans.check_output(pathlib.Path("a/derivatives"), names)


def test_results_never_go_where_a_file_is(typed):
    pathlib.Path("x.nii").write_text("mine")
    with pytest.raises(UsageError, match=r"x\.nii is a file"):
        scans.check_output(pathlib.Path("x.nii"), ["a"])


def recorded(monkeypatch, source: str, *words: str):
    """The flags of restore, and the config of a model that was trained on `source`."""
    config = configs.load("vae:smoke")
    config.data.source = source
    values = flags.FlagValues()
    commands.COMMANDS["restore"].define(values)
    monkeypatch.setattr(flags, "FLAGS", values)
    values(["restore", *words])
    return config


def test_synthetic_patients_come_unasked_only_after_a_bare_training_and_loudly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert restore.named([], recorded(monkeypatch, "phantom"), False) == ["phantom:test"]
    assert capsys.readouterr().out.startswith("NO INPUT WAS GIVEN: these are SYNTHETIC test patients")
    assert restore.named(["x.nii"], recorded(monkeypatch, "phantom"), False) == ["x.nii"]
    for source, *words in (("HEALTHY", "--method=gmm"), ("phantom", "--workdir=runs/mine"), ("phantom_study",)):
        with pytest.raises(UsageError, match=r"nothing to restore.*lgjax restore scan\.nii\.gz.*--input=FOLDER"):
            restore.named([], recorded(monkeypatch, source, *words), False)
    with pytest.raises(UsageError, match="nothing to restore"):  # a newcomer's bare command
        restore.named([], recorded(monkeypatch, "phantom"), True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (5, "just now"),
        (61, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7201, "2 hours ago"),
        (3 * 86400 + 9, "3 days ago"),
        (400 * 86400, "400 days ago"),
    ],
)
def test_the_first_line_tells_the_age_of_the_model(tmp_path, seconds, said):
    (tmp_path / "checkpoints" / "300").mkdir(parents=True)
    then = time.time() - seconds
    os.utime(tmp_path / "checkpoints" / "300", (then, then))
    assert opening.model(tmp_path, given=True) == f"model: {tmp_path}, trained {said}"
    assert (
        "of those in runs/ calibrated, or else trained, last (--workdir names another, --model=released the one that"
        in opening.model(tmp_path, given=False)
    )


def test_the_first_line_tells_how_many_scans_of_what(tmp_path):
    assert opening.scans(["a b"], 1) == "input: a b (1 scan)"
    assert opening.scans(["a", "b", "c"], 3) == "input: a, b, c (3 scans)"
    assert opening.scans([f"{n}.nii" for n in range(9)], 9) == "input: 0.nii and 8 more (9 scans)"
    assert opening.age(tmp_path) == "not trained yet"
    assert opening.cohort("phantom", 3) == "input: synthetic brains, phantom (3 scans)"
    assert opening.cohort("phantom_study", 3) == "input: phantom_study (3 scans)"


@pytest.mark.parametrize("name", ["scans", "my scans, all", "phantom:test:2", "../elsewhere", "deep/er/scans"])
def test_the_input_of_a_restoration_is_found_again(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    runs.write(pathlib.Path("out/vae"), [name])
    runs.write(pathlib.Path("out/vae"), [name])  # again, to go on
    whole = name if name.startswith("phantom") else os.path.abspath(name)
    assert runs.read(pathlib.Path("out/vae")) == [whole]
    text = (tmp_path / "out" / "vae" / "run.json").read_text()
    assert str(tmp_path) not in text
    monkeypatch.chdir(tmp_path / "out")
    assert runs.read(pathlib.Path("vae")) == [whole]


def test_several_inputs_are_all_noted(tmp_path):
    for name in ("a", "b"):
        runs.write(tmp_path / "out", [str(tmp_path / name)])
    assert runs.read(tmp_path / "out") == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert runs.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Inputs": 3}', '{"Inputs": [3]}', "{}"])
def test_a_damaged_record_of_a_run_is_told(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json.*--labels"):
        runs.read(tmp_path)
    assert json.dumps(text)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("intensty", "intensity"),
        ("vae_lg_neural", "vae_lg_neural_tv"),
        ("vae_lg_neural_l2", "vae_lg_neural_l1"),
        ("VAE_elbo_tv", "vae_elbo_tv"),
        ("gmmm", "gmm"),
        ("dae_reconstructions", "dae_reconstruction"),
    ],
)
def test_a_mistyped_method_is_told_with_the_one_that_was_meant(name, meant):
    with pytest.raises(UsageError, match=rf"there is no method '{name}'. Did you mean {meant}\? Choose among"):
        methods.parse(name)


def test_what_needs_no_model_says_where_its_thresholds_are_from(tmp_path):
    assert opening.untrained(tmp_path, None) == f"no model: {tmp_path}"
    assert opening.untrained(tmp_path, 1, "mine") == f"no model: {tmp_path}, thresholds from 1 healthy scan of mine"
    assert opening.untrained(tmp_path, 16).endswith("thresholds from 16 synthetic healthy brains, shipped")
