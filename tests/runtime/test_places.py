"""What is written about places of this machine names none of its folders, and neither its user nor itself."""

import getpass
import socket

import hypothesis
import hypothesis.strategies as st
import pytest

from lgjax.runtime import places


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setenv("LOGNAME", "janedoe")
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setattr(socket, "gethostname", lambda: "ward7")
    assert getpass.getuser() == "janedoe"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("prepared/mine", "prepared/mine"),
        ("/home/janedoe/scans", "scans"),
        ("/home/janedoe", "{user}"),
        ("~", "{home}"),
        ("/home/jane", "{home}"),
        ("~/scans/", "scans"),
        ("../shared/data/brats18", "brats18"),
        ("scans/janedoe/ward7/x", "scans/{user}/{host}/x"),
        ("phantom:test:6", "phantom:test:6"),
        ("phantom@5+1:test:6:/home/janedoe/heads", "phantom@5+1:test:6:heads"),
        ("a b/c d", "a b/c d"),
    ],
)
def test_a_typed_path(typed, expected):
    assert places.shown(typed) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane doe/my data/x.nii.gz: is empty. Copy it.", "x.nii.gz: is empty. Copy it."),
        ("lies 3 mm away from /data/a.nii: shape", "lies 3 mm away from a.nii: shape"),
        ("has two scans: /d/one.nii and /d/two.nii", "has two scans: one.nii and two.nii"),
        ("('/d/x/one.nii', \"/d/two.nii\")", "('one.nii', \"two.nii\")"),
        ("~/x/y.nii is gone", "y.nii is gone"),
        ("../../jane/x.nii is gone", "x.nii is gone"),
        (r"C:\Users\Jane Doe\x.nii: is gone", "x.nii: is gone"),
        ("C:/Users/Jane/x.nii is gone", "x.nii is gone"),
        ("Save it as text and/or convert 1 / 2 of bids:raw:sub-1/anat/x.nii", None),
        ("coordinator:/home/jane/x", "coordinator:x"),
        ("see https://example.org/a/b", None),
        ("sub-1/anat/x.nii: 0.5/mm", None),
    ],
)
def test_a_message(text, expected):
    assert places.told(text) == (text if expected is None else expected)


def test_a_command():
    words = [
        "python",
        "-m",
        "lgjax.eval",
        "--predictions=/home/janedoe/a,/data/b c",
        "--labels=phantom:test",
        "--paper",
    ]
    expected = "python -m lgjax.eval '--predictions=a,b c' --labels=phantom:test --paper"
    assert places.command(words) == expected


@pytest.mark.parametrize(
    ("path", "base", "written"),
    [
        ("/home/janedoe/prepared/mine", "/home/janedoe/runs/vae", "../../prepared/mine"),
        ("/home/janedoe/prepared", "/scratch/runs/vae", "../../../home/{user}/prepared"),
        ("/ward7/janedoe/p", "/w", "../{host}/{user}/p"),
        ("/w/p", "/w", "p"),
        ("/home/jane/p", "/w", "../home/{home}/p"),
    ],
)
def test_a_path_that_is_needed_again(path, base, written):
    assert places.portable(path, base) == written
    assert places.resolved(written, base) == path


part = st.text(st.characters(blacklist_characters="/\\\n:\"'\x00", blacklist_categories=("Cs", "Z", "C")), min_size=1)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.lists(part.filter(lambda name: not set(name) <= {"."}), min_size=1, max_size=5))
def test_no_folder_is_left(parts):
    path = "/" + "/".join(parts)
    assert places.told(f"cannot read {path}") == f"cannot read {parts[-1]}"


def test_a_container_without_users(monkeypatch):
    def nobody():
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert places.shown("a/janedoe/ward7") == "a/janedoe/{host}"
    assert places.resolved("../a", "/b") == "/a"
    monkeypatch.delenv("HOME")
    assert places.shown("a/janedoe/ward7") == "a/janedoe/{host}"
