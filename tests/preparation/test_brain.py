"""Where the brain is: given masks, stripped scans, heads with and without a tool to strip them."""

import pathlib
import sys

import images
import numpy as np
import pytest

from lgjax.preparation.brain import find_brain
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import nifti


@pytest.fixture(autouse=True)
def no_tools(monkeypatch):
    """Whatever this machine has installed."""
    monkeypatch.setenv("PATH", "")


def brain_mask(*arguments):
    return find_brain(*arguments).mask


def test_a_scan_with_its_skull_is_rejected():
    noise = np.random.default_rng(0).rayleigh(5, (20, 24, 16))
    with pytest.raises(InputError, match=r"skull.*--mask"):
        brain_mask(images.volume(images.head() + noise))
    big = images.volume(images.head(), images.affine((12, 12, 12)))  # a head of 4 litres, background cut to 0
    with pytest.raises(InputError, match="skull"):
        brain_mask(big)


def test_a_given_mask():
    data = images.head()
    image = images.volume(data + 50)
    brain = data > 0
    for inside in (1, 255):
        np.testing.assert_array_equal(brain_mask(image, images.volume(brain * inside)), brain)
    tiny = np.zeros(data.shape)
    tiny[10, 10, 8] = 1
    soft = brain * np.random.default_rng(0).uniform(0.1, 1, data.shape)
    faulty = {
        "empty": 0 * tiny,
        "tiny": tiny,
        "all": tiny * 0 + 1,
        "soft": soft,
        "negative": -1.0 * brain,
        "nan": brain * np.nan,
    }
    for mask in faulty.values():
        with pytest.raises(InputError):
            brain_mask(image, images.volume(mask))
    with pytest.raises(InputError, match="grid"):
        brain_mask(image, images.volume(brain[1:]))
    with pytest.raises(InputError, match="mm away"):
        brain_mask(image, images.volume(brain, images.affine(origin=(-10, -12, -7.9))))


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
class TestRealScans:
    def test_brats_brains(self):
        paths = sorted((images.REAL / "brats18").glob("*/*_t2.nii.gz"))
        assert len(paths) == 12
        for path in paths:
            image = nifti.read(path)
            brain = brain_mask(image)
            assert ((image.data > 0) ^ brain).sum() < 10  # specks of a few voxels
            assert 1000 < brain.sum() / 1000 < 2000

    def test_ms_brains(self):
        for path in sorted((images.REAL / "other").glob("ms_*/T2_*.nii.gz")):
            image = nifti.read(path)
            brain = brain_mask(image)
            assert ((image.data > 0) ^ brain).sum() < 20

    def test_a_head_is_rejected(self):
        with pytest.raises(InputError, match="skull"):
            brain_mask(nifti.read(images.REAL / "other" / "niivue_T2w" / "T2w.nii.gz"))


def a_head():
    """A scan with its skull, and its brain."""
    noise = np.random.default_rng(0).rayleigh(5, (20, 24, 16))
    return images.volume(images.head() + noise), images.head() > 0


def install(folder: pathlib.Path, monkeypatch, name: str, body: str) -> None:
    """Puts a tool on the PATH: a Python script that finds its arguments in `options`, by flag."""
    tool = folder / name
    options = "options = dict(zip(sys.argv[1::2], sys.argv[2::2])) if len(sys.argv) % 2 else {}"
    loads = "import pathlib, sys"
    tool.write_text(f"#!{sys.executable}\n{loads}\n{options}\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


SYNTHSTRIP = """
import nibabel, numpy
scan = nibabel.load(options["-i"])
mask = (scan.get_fdata() > 50).astype(numpy.uint8)
nibabel.save(nibabel.Nifti1Image(mask, scan.affine), options["-m"])
"""
HD_BET = """
import nibabel, numpy
words = sys.argv[1:]
assert "--save_bet_mask" in words and "--no_bet_image" in words
scan = nibabel.load(words[words.index("-i") + 1])
out = words[words.index("-o") + 1]
mask = (scan.get_fdata() > 50).astype(numpy.uint8)
nibabel.save(nibabel.Nifti1Image(mask, scan.affine), out.replace(".nii.gz", "_bet.nii.gz"))
"""


@pytest.mark.parametrize(("name", "body"), [("mri_synthstrip", SYNTHSTRIP), ("hd-bet", HD_BET)])
@pytest.mark.parametrize("asked", ["auto", "by name"])
def test_a_tool_on_the_path_strips_heads(tmp_path, monkeypatch, name, body, asked):
    install(tmp_path, monkeypatch, name, body)
    image, inside = a_head()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = find_brain(image, None, "auto" if asked == "auto" else name, scratch)
    assert found.origin == name
    assert (found.mask ^ inside).mean() < 0.02  # noise above 50 or head below it
    assert not list(scratch.iterdir())


def test_a_tool_is_not_called_where_it_is_not_needed(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "mri_synthstrip", "sys.exit(9)")
    image, inside = a_head()
    assert find_brain(image, images.volume(inside), "auto").origin == "given"
    assert find_brain(images.volume(images.head()), None, "auto").origin == "background"
    assert find_brain(image, images.volume(inside), "hd-bet").origin == "given"  # which is not there
    with pytest.raises(InputError, match="skull"):
        find_brain(image, None, "none")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('no licence')", "mri_synthstrip failed with exit code 1: no licence"),
        ("", "it said nothing"),
        (SYNTHSTRIP.replace("> 50", "> 1e9"), "brain of 0 ml"),
        (SYNTHSTRIP.replace("scan.affine)", "2 * scan.affine)"), "mm away"),
        ("pathlib.Path(options['-m']).write_bytes(b'no')", "holds no NIfTI header|is not|gzip"),
    ],
)
def test_a_tool_that_fails_fails_the_scan(tmp_path, monkeypatch, body, words):
    install(tmp_path, monkeypatch, "mri_synthstrip", body)
    with pytest.raises(InputError, match=words):
        find_brain(a_head()[0], None, "auto", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mri_synthstrip"]


def test_without_a_tool_the_message_says_what_to_do():
    with pytest.raises(InputError, match=r"skull.*X_mask.*hd-bet or mri_synthstrip"):
        find_brain(a_head()[0], None, "auto")
    with pytest.raises(UsageError, match=r"hd-bet is not on the PATH"):
        find_brain(a_head()[0], None, "hd-bet")
    with pytest.raises(UsageError, match="bet is no tool"):
        find_brain(a_head()[0], None, "bet")
