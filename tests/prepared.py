"""A small prepared data set that tests read and train from."""

import pathlib

import numpy as np

from lgjax.preparation import dataset, recipe
from lgjax.preparation.dataset import Entry, Index
from lgjax.preparation.slices import BACKGROUND, Grid, Slices
from lgjax.training import store

GRID = Grid(16, 16, 3.0)
COUNTS = {"sub-1": 4, "sub-2": 9, "sub-3": 1, "sub-4": 16}  # training slices


def make(folder: pathlib.Path, counts=COUNTS, grid=GRID) -> Index:
    """Writes a prepared data set of random brains; one more subject is for calibration, and all its pixels are 99."""
    rng = np.random.default_rng(5)
    entries = []
    for identifier, n in {"sub-0": 3, **counts}.items():
        mask = rng.random((n, grid.height, grid.width, 1)) < 0.6
        y = np.where(mask, rng.normal(size=mask.shape), BACKGROUND)
        split = "train" if identifier in counts else "calibration"
        y = y if split == "train" else np.full_like(y, 99)
        written = Slices(y.astype(np.float32), mask.astype(np.float32), np.arange(5, n + 5, dtype=np.int32))
        found = dataset.write_slices(folder, identifier, written, b"", {})
        fractions = tuple(found["MaskFraction"])
        hashes = f"raw {identifier}", found["SHA256"], found["MaskSHA256"]
        entries.append(Entry(identifier, split, *hashes, tuple(found["Slices"]), fractions, np.eye(4).tolist()))
    index = Index(recipe.Recipe(grid, None, None, "auto"), tuple(entries))
    dataset.write_index(folder, index)
    return index


def source(folder: pathlib.Path, index: Index) -> store.OnDisk:
    return store.OnDisk(folder, [entry for entry in index.subjects if entry.split == "train"], index.recipe.grid)


def order(step: int) -> np.ndarray:
    """Eight rows of thirty; here, since processes that read by it import the file that it stands in."""
    return np.random.default_rng(step).integers(0, 30, 8)
