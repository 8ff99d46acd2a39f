"""Tallies against scikit-learn on all voxels: exact below the limit, inside the stated bound above it."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lgjax.evaluation import metrics, tally


def volumes(count: int, voxels: int, seed: int = 0, signed: bool = True):
    """Returns scores and lesions of made-up subjects: some ties, some zeros, all distinct otherwise."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        lesion = rng.random(voxels) < 0.04
        scores = rng.normal(size=voxels) + 1.2 * lesion
        scores = scores if signed else np.maximum(scores, 0)
        scores[: voxels // 10] = scores[: voxels // 10].round(1)
        made.append((scores.astype(np.float32), lesion))
    return made


def together(made):
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


@pytest.mark.parametrize("signed", [True, False])
def test_merged_tallies_equal_scikit_learn_below_the_limit(signed):
    made = volumes(6, 4000, signed=signed)
    merged = tally.merge([tally.count(*item) for item in made])
    scores, labels = together(made)
    assert merged.shift == 0
    assert tally.resolution(merged) == (0, 0)
    ranking = tally.ranking(merged)
    assert metrics.auc(ranking) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.auprc(ranking) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("limit", [512, 1500, 6000])
@pytest.mark.parametrize("signed", [True, False])
def test_beyond_the_limit_the_error_stays_inside_the_bound(limit, signed):
    made = volumes(8, 3000, seed=limit, signed=signed)
    merged = tally.merge([tally.count(*item) for item in made], limit)
    scores, labels = together(made)
    assert merged.shift > 0
    assert merged.first.size <= limit
    assert merged.counts.sum() == scores.size
    ranking = tally.ranking(merged)
    area, precision = tally.resolution(merged)
    assert 0 < area < 0.2
    assert abs(metrics.auc(ranking) - roc_auc_score(labels, scores)) <= area
    assert abs(metrics.auprc(ranking) - average_precision_score(labels, scores)) <= precision
    # Whatever threshold is left is exact: the counts at and above it are those of the voxels.
    for row in range(0, ranking.thresholds.size, 97):
        assert ranking.predicted[row] == (scores >= ranking.thresholds[row]).sum()
        assert ranking.true_positives[row] == labels[scores >= ranking.thresholds[row]].sum()


@hypothesis.given(
    st.lists(st.tuples(st.floats(-9, 9, width=32), st.booleans()), min_size=2, max_size=40).filter(
        lambda pairs: len({label for _, label in pairs}) == 2
    ),
    st.integers(0, 23),
)
@hypothesis.settings(deadline=None, max_examples=150)
def test_the_bound_holds_for_any_scores(pairs, shift):
    scores, labels = np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs])
    coarse = tally.coarsen(tally.count(scores, labels), shift)
    area, precision = tally.resolution(coarse)
    ranking = tally.ranking(coarse)
    if metrics.auc(ranking) is not None:
        assert abs(metrics.auc(ranking) - roc_auc_score(labels, scores)) <= area + 1e-12
        assert abs(metrics.auprc(ranking) - average_precision_score(labels, scores)) <= precision + 1e-12


def test_rows_never_exceed_the_limit_however_many_volumes_come():
    limit, pooled, total = 4096, None, 0
    for seed in range(100):
        scores, lesion = volumes(1, 3000, seed=seed)[0]
        pooled = tally.merge([item for item in (pooled, tally.count(scores, lesion)) if item is not None], limit)
        total += scores.size
        assert pooled.first.size <= limit
        assert sum(part.nbytes for part in pooled[:3]) <= 24 * limit
        assert pooled.counts.sum() == total


def test_the_order_of_merging_changes_nothing():
    tallies = [tally.count(*item) for item in volumes(5, 2000)]
    at_once = tally.merge(tallies, 700)
    pairs = tally.merge([tally.merge(tallies[3:], 700), tally.merge(tallies[:3], 700)], 700)
    assert at_once.shift == pairs.shift
    for first, second in zip(at_once[:3], pairs[:3], strict=True):
        np.testing.assert_array_equal(first, second)


def test_keys_keep_the_order_of_floats():
    tiny, large = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    values = np.array([-large, -2.5, -tiny, 0, tiny, 1e-3, 1, np.nextafter(np.float32(1), 2), large], np.float32)
    assert (np.diff(tally.keys(values).astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(tally.scores(tally.keys(values)), values)
    assert tally.keys(np.array([-0.0]))[0] == tally.keys(np.array([0.0]))[0]
    # The extremes survive the coarsest rounding there is.
    coarse = tally.merge([tally.count(np.linspace(-1, 1, 3000) * large, np.arange(3000) % 2 == 0)], 512)
    assert np.isfinite(tally.ranking(coarse).thresholds).all()


def test_true_ties_cost_nothing():
    # Half of all voxels score exactly 0: one row, however coarse, and no error from it.
    scores = np.array([0] * 50 + [1, 2, 3, 4], np.float32)
    lesion = np.arange(54) % 3 == 0
    assert tally.resolution(tally.coarsen(tally.count(scores, lesion), 20)) == (0, 0)


def test_a_stack_has_every_bin_highest_first():
    first = tally.coarsen(tally.count(np.array([1, 3, 3.0]), np.array([False, True, False])), 16)
    second = tally.coarsen(tally.count(np.array([2, -1.0]), np.array([True, False])), 16)
    expected = [[[1, 0, 1, 0], [1, 0, 0, 0]], [[0, 0, 0, 1], [0, 1, 0, 0]]]  # scores 3, 2, 1, -1
    np.testing.assert_array_equal(tally.stack([first, second]), expected)
