"""Synthetic subjects kept on disk, and the heads that each split draws."""

import dataclasses
import logging
import os
import pathlib

import numpy as np
import pytest

from lgjax.preparation import cohort
from lgjax.preparation.cohort import Source
from lgjax.runtime.errors import InputError
from lgjax.scans import phantom, sources
from lgjax.scans.phantom import anatomy, cache, heads, kept
from lgjax.scans.phantom.kept import Request
from lgjax.scans.volume import Scan, Volume

REQUEST = Request(None, "test", 3, 7, "glioma")


def made(anatomies, seed, index, kind, **_) -> Scan:
    """A scan of whole numbers, in Fortran's order, which the cache need not keep."""
    rng = np.random.default_rng([seed, index, len(kind)])
    image = np.asfortranarray(rng.integers(0, 32768, (5, 6, 4)).astype(np.float32))
    masks = rng.uniform(size=(2, *image.shape)) < 0.3
    return Scan(Volume(image, np.diag([1.5, 1.5, 112 / 23, 1]), None, "", ""), image > 0, *masks)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty cache, and subjects that are made in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "make_subject", made)
    monkeypatch.setattr(kept, "load_anatomies", lambda labels, split: None)
    return tmp_path / "lgjax" / "phantoms"


def forbid(monkeypatch) -> None:
    """From here on, a subject that is made again is a fault."""
    monkeypatch.delattr(kept, "make_subject")


def equal(found: Scan, expected: Scan) -> None:
    np.testing.assert_array_equal(found.image.data, expected.image.data)
    np.testing.assert_array_equal(found.image.affine, expected.image.affine)
    for part in ("brain", "lesion", "displaced"):
        assert getattr(found, part).dtype == bool
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


def test_the_second_start_reads_what_the_first_made(folder, monkeypatch):
    first = phantom.get_subject(REQUEST)
    equal(first, made(None, 3, 7, "glioma"))
    forbid(monkeypatch)
    second = phantom.get_subject(REQUEST)
    equal(second, first)
    assert second.image == dataclasses.replace(first.image, data=second.image.data, affine=second.image.affine)
    assert second.image.data.flags.c_contiguous == first.image.data.flags.c_contiguous
    assert second.image.source == "phantom:glioma/7"
    assert [path.suffix for path in folder.iterdir()] == [".phantom"]  # nothing half written stays


@pytest.mark.parametrize("place", [0, 31, 32, -1, "cut", "empty"])
def test_a_damaged_file_is_made_again_and_it_is_said(folder, caplog, monkeypatch, place):
    first = phantom.get_subject(REQUEST)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if isinstance(place, int):
        content[place] ^= 1
    path.write_bytes({"cut": content[:-5], "empty": b""}.get(place, content))
    with caplog.at_level(logging.WARNING):
        equal(phantom.get_subject(REQUEST), first)
    assert "is damaged: the subject is made again" in caplog.text
    forbid(monkeypatch)
    equal(phantom.get_subject(REQUEST), first)  # mended


def test_without_a_folder_that_can_be_written_subjects_are_made_anew(folder, caplog):
    folder.parent.mkdir()
    folder.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            equal(phantom.get_subject(REQUEST), made(None, 3, 7, "glioma"))
    assert caplog.text.count("made anew at each start") == 1


def test_the_head_of_the_templates_is_kept_too(tmp_path, monkeypatch, caplog):
    """To the bit and in its order in memory; a damaged file, and one of other code, is made again."""
    rng, calls = np.random.default_rng(0), []
    maps = np.moveaxis(rng.integers(0, 256, (5, 6, 4, 8), np.uint8), -1, 0)
    head = anatomy.Anatomy(maps, rng.normal(size=(4, 4)), 71.3)

    def load() -> None:
        anatomy._mni.cache_clear()  # as at a start
        (found,) = phantom.load_anatomies(None)
        assert (found.maps == maps).all()
        assert (found.maps.strides, found.maps.dtype) == (maps.strides, maps.dtype)
        assert (found.affine == head.affine).all()
        assert (found.top, type(found.top)) == (71.3, float)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(anatomy, "_from_templates", lambda: calls.append(1) or head)
        load()
        load()
        assert len(calls) == 1
        (path,) = (tmp_path / "lgjax" / "phantoms").iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        load()
        assert "is damaged: the head is made again" in caplog.text
        patch.setattr(cache, "code", lambda: "another version")
        load()
        assert len(calls) == 3
    anatomy._mni.cache_clear()


def test_all_that_a_subject_is_made_from_names_it(tmp_path, monkeypatch):
    digests = [
        phantom.digest(REQUEST._replace(**change))
        for change in ({}, {"seed": 4}, {"number": 8}, {"kind": "ms"}, {"slab": (1.0, 0.0)})
    ]
    maps(tmp_path, 3)
    digests.append(phantom.digest(REQUEST._replace(labels=str(tmp_path))))
    digests.append(phantom.digest(REQUEST._replace(labels=str(tmp_path), split="train")))
    for path in tmp_path.iterdir():
        path.write_text(f"another {path}")
    digests.append(phantom.digest(REQUEST._replace(labels=str(tmp_path))))
    monkeypatch.setattr(kept, "code", lambda: "another version")
    digests.append(phantom.digest(REQUEST))
    assert len(set(digests)) == len(digests)


def maps(folder: pathlib.Path, count: int, first: int = 0) -> list[pathlib.Path]:
    """Files that differ, as label maps do."""
    paths = [folder / f"{number:03}.nii.gz" for number in range(first, first + count)]
    for number, path in enumerate(paths, first):
        path.write_text(f"map {number}")
    return paths


SPLITS = ("train", "calibration", "test")


@pytest.mark.parametrize("count", [3, 4, 7, 16, 40])
def test_no_head_is_in_two_splits_and_none_is_empty(count):
    names = [f"head {number}" for number in range(count)]
    found = {split: heads.of_split(names, split) for split in (*SPLITS, "dev")}
    assert sorted(name for split in SPLITS for name in found[split]) == sorted(names)
    assert [len(found[split]) for split in SPLITS[1:]] == [max(1, count // 8)] * 2
    assert found["dev"] == found["calibration"]
    assert all(heads.of_split(names[::-1], split) == found[split] for split in found)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_heads_are_shared_and_it_is_said(tmp_path, count):
    paths = maps(tmp_path, count)
    digests = sorted(heads.find(str(tmp_path)))
    assert len(digests) == len(paths)
    assert all(heads.of_split(digests, split) == digests for split in (*SPLITS, "dev"))
    for labels in [str(tmp_path)] + [None] * (count == 1):
        text = heads.describe(labels)
        assert {1: "one head", 2: "two heads"}[count] in text
        assert "do not measure unseen anatomy" in text


def test_a_new_head_moves_few_of_the_others():
    """At most one out of each small split and one into each."""
    moved = []
    for count in range(3, 60):
        before, after = ([f"head {number}" for number in range(n)] for n in (count, count + 1))
        where = [{n: split for split in SPLITS for n in heads.of_split(names, split)} for names in (before, after)]
        moved.append(sum(where[0][name] != where[1][name] for name in before))
    assert max(moved) <= 4
    assert np.mean(moved) < 1.5


def test_heads_are_known_by_their_content(tmp_path):
    paths = maps(tmp_path, 16)
    before = heads.find(str(tmp_path))
    assert len(before) == 16
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "another name.nii").write_bytes(paths[3].read_bytes())
    paths[5].rename(tmp_path / "zzz.mgz")
    assert heads.find(str(tmp_path)).keys() == before.keys()
    source = Source(f"phantom:{tmp_path}", 2, 1)
    assert cohort.describe(source).endswith("made from 12 of 16 heads; calibration has 2 others, test 2")
    assert cohort.describe(Source("folder", 2, 1)) == "folder"


def test_a_link_to_nothing_is_named(tmp_path):
    os.symlink(tmp_path / "absent", tmp_path / "head.nii")
    with pytest.raises(InputError, match=r"head\.nii: is a link"):
        sources.find(f"phantom:train:1:{tmp_path}")
