"""Prepared slices: read from disk as they were written, in the order of training, by threads, processes and hosts."""

import multiprocessing
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest
from absl import flags
from conftest import until
from prepared import COUNTS, make, order, source

from lgjax.runtime.errors import EnvironmentFault, InputError
from lgjax.training import store


@pytest.fixture
def stored(tmp_path):
    """Thirty training slices of four subjects."""
    return source(tmp_path, make(tmp_path))


def written(folder: pathlib.Path, identifiers=COUNTS) -> tuple[np.ndarray, np.ndarray]:
    """All training slices, read by NumPy alone."""
    paths = [[folder / i / "anat" / f"{i}_desc-slices_{part}.npy" for i in identifiers] for part in ("T2w", "mask")]
    return tuple(np.concatenate([np.load(path) for path in part])[..., None].astype(np.float32) for part in paths)


def equal(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == np.float32
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def test_rows_are_the_training_slices_in_order(stored, tmp_path):
    y, mask = written(tmp_path)
    assert len(stored) == len(y) == 30
    assert stored.nbytes == y.nbytes + mask.nbytes
    equal(stored.everything(), (y, mask))
    rows = np.array([29, 0, 3, 4, 12, 13, 14, 14, 7])
    equal(stored.read(rows), (y[rows], mask[rows]))
    equal(store.InMemory(y, mask).read(rows), (y[rows], mask[rows]))
    assert not (y == 99).any()
    equal(pickle.loads(pickle.dumps(stored)).read(rows), (y[rows], mask[rows]))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count open files in")
def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "OPEN_SUBJECTS", 3)
    counts = {f"sub-{i:02}": 2 for i in range(1, 21)}
    stored = source(tmp_path, make(tmp_path, counts))
    before = len(os.listdir("/proc/self/fd"))
    for rows in (np.arange(40), np.arange(40)[::-1]):
        stored.read(rows)
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 3


def path_of(folder, name="T2w") -> pathlib.Path:
    return folder / "sub-2" / "anat" / f"sub-2_desc-slices_{name}.npy"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["T2w", "mask"])
def test_changed_bytes_are_found_before_training(stored, tmp_path, name):
    stored.verify(2)
    flip(path_of(tmp_path, name))
    with pytest.raises(InputError, match=rf"sub-2_desc-slices_{name}\.npy.*SHA-256.*repare it again"):
        stored.verify(2)


DAMAGE = {
    "shape": (lambda path: np.save(path, np.zeros((9, 16, 8), np.float32)), r"\(9, 16, 8\), expected .*\(9, 16, 16\)"),
    "number": (lambda path: np.save(path, np.zeros((8, 16, 16), np.float32)), r"\(8, 16, 16\)"),
    "dtype": (lambda path: np.save(path, np.zeros((9, 16, 16), np.float64)), "float64"),
    "pickle": (lambda path: np.save(path, np.array([print], object), allow_pickle=True), "no array of slices"),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "no array of slices"),
    "empty": (lambda path: path.write_bytes(b""), "(?i)no array|truncated"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "no array of slices"),
    "absent": (pathlib.Path.unlink, "does not exist"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_is_not_what_the_index_says(stored, tmp_path, kind):
    damage, message = DAMAGE[kind]
    damage(path_of(tmp_path))
    for read in (lambda: stored.read(np.array([0, 5])), lambda: stored.verify(1)):
        with pytest.raises(InputError, match=r"sub-2_desc-slices_T2w\.npy"):
            read()
    with pytest.raises(InputError, match=message):
        stored.read(np.array([5]))
    assert stored.read(np.array([0])) is not None  # of another subject


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_hosts_are_the_batch(count):
    rows = np.random.default_rng(0).permutation(64)
    parts = [store.part(rows, index, count) for index in range(count)]
    assert {len(part) for part in parts} == {64 // count}
    np.testing.assert_array_equal(np.concatenate(parts), rows)


@pytest.fixture
def parsed():
    """Flags as in a binary: Grain's processes read some."""
    before = flags.FLAGS.is_parsed()
    flags.FLAGS.mark_as_parsed()
    yield
    if not before:
        flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(("threads", "processes", "count"), [(1, 0, 1), (3, 0, 2), (2, 0, 4), (1, 2, 1)])
def test_stream(stored, tmp_path, parsed, threads, processes, count):
    """The batches from any step on, whole and in order, whoever reads them."""
    y, mask = written(tmp_path)
    streams = [store.stream(stored, order, range(3, 25), (i, count), threads, processes) for i in range(count)]
    batches = [list(stream) for stream in streams]
    assert {len(found) for found in batches} == {22}
    for step, parts in enumerate(zip(*batches, strict=True), 3):
        rows = order(step)
        equal([np.concatenate(part) for part in zip(*parts, strict=True)], (y[rows], mask[rows]))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_fault_while_streaming_names_the_file_and_ends_what_reads(stored, tmp_path, parsed, processes):
    path_of(tmp_path).unlink()
    stream = store.stream(stored, lambda step: np.array([step]), range(30), (0, 1), 1, processes)
    with pytest.raises(InputError, match=r"sub-2_desc-slices_T2w\.npy: does not exist") as caught:
        list(stream)
    assert caught.value.path == str(path_of(tmp_path))
    until(lambda: not multiprocessing.active_children())


def test_closing_a_stream_ends_its_processes(stored, parsed):
    stream = store.stream(stored, order, range(10_000), (0, 1), 1, 1)
    next(stream)
    assert multiprocessing.active_children()
    stream.close()
    assert not multiprocessing.active_children()


def test_without_grain(stored, monkeypatch):
    """What is in memory needs none."""
    monkeypatch.setitem(sys.modules, "grain", None)
    y, mask = stored.everything()
    held = store.stream(store.InMemory(y, mask), order, range(3, 5), (1, 2), 1)
    for step, found in zip((3, 4), held, strict=True):
        equal(found, (y[order(step)[4:]], mask[order(step)[4:]]))
    with pytest.raises(EnvironmentFault, match=r"pip install grain.*resident=always"):
        next(store.stream(stored, order, range(2), (0, 1), 1))
