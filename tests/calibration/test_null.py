"""Conformal p-values and their strata, against exact counts and distances."""

import itertools
import json
from fractions import Fraction

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from lgjax.calibration import null, strata
from lgjax.workdir import calibrations
from lgjax.workdir.recorded import SHIPPED

FEW = settings(max_examples=60, deadline=None)
TIED = st.lists(st.integers(-3, 6), min_size=1, max_size=200)


def exact(healthy, score) -> Fraction:
    """(1 + #{healthy scores >= s}) / (n + 1), by counting."""
    return Fraction(1 + sum(bool(value >= score) for value in healthy), len(healthy) + 1)


def learned(values, ratio: float = null.RATIO) -> null.Null:
    """The null of scores of one cell, as JSON keeps it."""
    scores = np.array(values, np.float32)
    found = null.learn("positive", [scores], [np.zeros(len(scores), np.uint8)], ratio)
    return null.Null(**json.loads(json.dumps(found._asdict())))


def looked_up(known: null.Null, scores) -> np.ndarray:
    return null.pvalues(known, np.array(scores, np.float32), np.zeros(len(scores), np.uint8))


@FEW
@given(TIED, st.sampled_from([1.0, 1.1, 2.0]))
def test_a_pvalue_is_never_below_the_exact_one_and_at_most_the_ratio_above(values, ratio):
    asked = np.concatenate([np.arange(-4, 8), np.arange(-4, 8) + 0.5])
    for score, p in zip(asked, looked_up(learned(values, ratio), asked), strict=True):
        true = exact(values, score)
        assert true <= Fraction(float(p)) <= true * Fraction(ratio) * (1 + Fraction(1, 10**6))


def test_the_bound_holds_far_into_the_tail_of_many_voxels():
    rng = np.random.default_rng(0)
    values = np.round(rng.exponential(size=20_000), 3).astype(np.float32)
    asked = np.concatenate([values[::40], np.linspace(0, 15, 200, dtype=np.float32)])
    found = looked_up(learned(values), asked).astype(np.float64)
    true = (1 + (values[None] >= asked[:, None]).sum(axis=1)) / (len(values) + 1)
    assert (found >= true).all()
    assert (found <= true * null.RATIO * (1 + 1e-6)).all()
    assert found.min() == pytest.approx(1 / 20_001)
    deep = true * 20_001 < 9.5
    assert deep.sum() > 50
    np.testing.assert_allclose(found[deep], true[deep], rtol=1e-6)  # exact where counts are small


@FEW
@given(TIED, st.lists(st.floats(-5, 9, width=32), min_size=2, max_size=40))
def test_pvalues_fall_with_the_score(values, asked):
    found = looked_up(learned(values), sorted(asked))
    assert (np.diff(found) <= 0).all()
    assert ((found > 0) & (found <= 1)).all()


@FEW
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_of_exchangeable_scores_at_most_a_share_alpha_has_a_pvalue_of_alpha(values):
    """Exactly, for any bag of scores: each is judged by all the others."""
    found = [float(looked_up(learned(values[:i] + values[i + 1 :]), [value])[0]) for i, value in enumerate(values)]
    for alpha in {0.01, 0.05, 0.2, *found}:
        assert sum(p <= alpha for p in found) <= alpha * len(values) * (1 + 1e-6)


@pytest.mark.parametrize("values", [[0.0] * 50, [2.5], [0.0] * 49 + [1.0]])
def test_constant_and_lonely_scores(values):
    found = looked_up(learned(values), [0, 1, 3])
    np.testing.assert_allclose(found, [float(exact(values, score)) for score in (0, 1, 3)], rtol=1e-6)


def test_float32_is_rounded_up():
    values = np.random.default_rng(0).random(1000)
    found = null.rounded_up(values)
    assert found.dtype == np.float32
    assert (found.astype(np.float64) >= values).all()
    np.testing.assert_allclose(found, values, rtol=2e-7)


def test_each_stratum_is_its_own_null():
    rng = np.random.default_rng(0)
    size = 2 * strata.LEAST
    cells = np.repeat(np.array([0, 3, 15], np.uint8), size)
    scores = (rng.random(len(cells)) + np.repeat([0, 10, 20], size)).astype(np.float32)
    found = null.learn("positive", [scores[:100], scores[100:]], [cells[:100], cells[100:]])
    assert (np.array(found.voxels) == size).all()
    for cell, low in ((0, 0), (3, 10), (15, 20)):
        p = null.pvalues(found, np.array([low + 0.5], np.float32), np.array([cell], np.uint8))
        true = exact(scores[cells == cell], np.float32(low + 0.5))
        assert true <= float(p[0]) <= 1.1 * true


def ball(shape, zooms) -> np.ndarray:
    """An ellipsoid off the middle."""
    axes = np.meshgrid(*[(np.arange(n) - 0.4 * n) * zoom for n, zoom in zip(shape, zooms, strict=True)], indexing="ij")
    return sum((axis / radius) ** 2 for axis, radius in zip(axes, (28, 34, 25), strict=True)) < 1


@pytest.mark.parametrize(("zooms", "wrong"), [((2.0, 2.5, 3.0), 0.0), ((1.0, 0.9, 4.0), 3.0)])
def test_cells_by_distance_and_height(zooms, wrong):
    """Against the nearest voxel outside, by a tree; on fine grids, depth is measured on every second voxel."""
    brain = np.pad(ball([round(80 / zoom) for zoom in zooms], zooms), 1)
    holed = brain.copy()
    holed[tuple(n // 2 for n in brain.shape)] = False  # a hole is no edge
    found = strata.cells(holed, np.diag([-zooms[0], -zooms[1], zooms[2], 1.0]))
    at, outside = np.argwhere(brain) * zooms, np.argwhere(~brain) * zooms
    depth = cKDTree(outside).query(at)[0]
    levels = np.argwhere(brain)[:, 2]
    share = (levels - levels.min() + 0.5) / (np.ptp(levels) + 1)
    near, high = found[brain] % 4, found[brain] // 4
    np.testing.assert_array_equal(high, np.digitize(share, strata.HEIGHTS))
    assert (np.digitize(depth - wrong, strata.DEPTHS) <= near).all()
    assert (near <= np.digitize(depth + wrong, strata.DEPTHS)).all()
    assert set(near) == {0, 1, 2, 3}


def test_cells_do_not_depend_on_the_order_of_axes():
    brain, affine = ball((40, 30, 18), (1.5, 2.0, 3.0)), np.diag([1.5, 2.0, 3.0, 1.0])
    expected = strata.cells(brain, affine)
    image = nib.Nifti1Image(brain.astype(np.uint8), affine)
    for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        turn = np.stack([axes, flips], axis=1)
        turned = image.as_reoriented(turn)
        found = strata.cells(np.asarray(turned.dataobj) > 0, turned.affine)
        np.testing.assert_array_equal(found, nib.orientations.apply_orientation(expected, turn))


def test_the_brain_ends_where_the_image_ends():
    cells = strata.cells(np.ones((9, 9, 9), bool), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert cells[0, 0, 0] == 0
    assert cells[4, 4, 4] == 2 * 4 + 2  # ten mm from every side, half way up
    assert strata.cells(np.ones((1, 1, 1), bool), np.eye(4)).tolist() == [[[8]]]


@FEW
@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(1, 60))
def test_strata_hold_enough_voxels_and_share_out_all_cells(counts, least):
    counts = np.array(counts)
    found = strata.strata(counts, least)
    assert set(found.ravel()) == set(range(found.max() + 1))
    for number in range(found.max() + 1):
        rows, columns = np.nonzero(found == number)
        assert len(rows) == len(set(rows)) * len(set(columns))  # a box of neighbours
        assert np.ptp(rows) + 1 == len(set(rows))
        assert np.ptp(columns) + 1 == len(set(columns))
        assert counts[found == number].sum() >= least or found.max() == 0


def test_cells_with_enough_voxels_stay_apart():
    assert strata.strata(np.full((2, 3), 10), 10).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert strata.strata(np.array([[10, 3], [10, 10]]), 10).tolist() == [[0, 0], [1, 2]]


def test_what_is_shipped_is_small():
    for path in (SHIPPED / "calibration").glob("*.json"):
        known = null.Null(**calibrations.read(SHIPPED, path.stem).null)
        assert path.stat().st_size < 100_000
        assert len(known.voxels) == 16
        assert min(known.voxels) >= strata.LEAST
