"""Paired comparison: closed cases, SciPy, and slow resampling."""

import dataclasses

import measured
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from lgjax.evaluation import bootstrap, compare, tally
from lgjax.evaluation.measure import Case, Result
from lgjax.evaluation.records import Difference


def method(name: str, dice: dict, scores: dict | None = None) -> Result:
    """Returns a method with a Dice at 1 % and, where given, (scores, lesion) of every subject."""
    rng = np.random.default_rng(0)
    scores = scores or {key: (rng.random(50), np.arange(50) % 9 == 0) for key in dice}
    same = {"input_sha256": "1f", "brain_voxels": 50, "lesion_voxels": 6}
    rows = [measured.row(key, dice={"0.01": value}, fpr={"0.01": 0.0}, **same) for key, value in dice.items()]
    cases = [Case(row, tally.count(*scores[row.participant_id])) for row in rows]
    return measured.result(name, cases, {"0.01": 2.0})


def values(seed: int, count: int = 12) -> dict[str, float]:
    return {f"sub-{index}": value for index, value in enumerate(np.random.default_rng(seed).random(count))}


def test_identical_methods_do_not_differ():
    found = compare.compare([method("a", values(0)), method("b", values(0))], "a")
    (row,) = found.rows
    for entry in (row.auc, row.auprc, row.dice["0.01"]):
        assert entry == Difference(0.0, (0.0, 0.0), False)


def test_a_constant_shift_is_found_exactly():
    shifted = {name: value + 0.125 for name, value in values(0).items()}
    (row,) = compare.compare([method("a", values(0)), method("b", shifted)], "b").rows
    entry = row.dice["0.01"]
    assert entry.difference == pytest.approx(0.125, abs=1e-12)
    assert entry.ci95 == pytest.approx((0.125, 0.125), abs=1e-12)
    assert entry.excludes_zero
    (row,) = compare.compare([method("a", values(0)), method("b", shifted)], "a").rows
    assert row.dice["0.01"].ci95 == pytest.approx((-0.125, -0.125), abs=1e-12)
    assert row.dice["0.01"].excludes_zero


def test_the_interval_of_mean_dice_is_that_of_scipy():
    first, second = values(1, 30), values(2, 30)
    (row,) = compare.compare([method("a", first), method("b", second)], "a", n=10_000).rows
    pair = [np.array(list(item.values())) for item in (first, second)]
    theirs = stats.bootstrap(
        pair,
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert row.dice["0.01"].ci95 == pytest.approx(tuple(theirs), abs=0.01)  # Monte Carlo, width about 0.3


def test_pooled_differences_equal_sorting_every_resample():
    rng = np.random.default_rng(3)
    made: dict[str, dict] = {"a": {}, "b": {}}
    for index in range(5):
        lesion = rng.random(900) < 0.06
        for name, lift in (("a", 2.0), ("b", 1.0)):
            made[name][f"sub-{index}"] = ((rng.normal(size=900) + lift * lesion).astype(np.float32), lesion)
    results = [method(name, dict.fromkeys(made[name], 0.5), made[name]) for name in made]
    (row,) = compare.compare(results, "a", n=50, seed=4).rows
    slow = []
    for draw in bootstrap.weights(5, 50, 4):
        pair = []
        for subjects in made.values():
            chosen = [item for item, count in zip(subjects.values(), draw, strict=True) for _ in range(int(count))]
            scores, lesion = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
            pair.append((roc_auc_score(lesion, scores), average_precision_score(lesion, scores)))
        slow.append(np.subtract(*pair))
    expected = np.percentile(slow, [2.5, 97.5], axis=0).T
    np.testing.assert_allclose([row.auc.ci95, row.auprc.ci95], expected, atol=6e-3)
    assert row.auc.excludes_zero
    assert row.auc.difference > 0


def test_only_subjects_that_both_have_are_compared():
    first, second = values(0), values(1)
    del first["sub-0"], second["sub-1"]
    second["sub-2"] = None  # healthy for one: no Dice
    (row,) = compare.compare([method("a", first), method("b", second)], "a").rows
    common = [name for name in first if second.get(name) is not None]
    assert row.n_subjects == 10
    expected = np.mean([first[name] - second[name] for name in common])
    assert row.dice["0.01"].difference == pytest.approx(expected)


@pytest.mark.parametrize("key", ["input_sha256", "brain_voxels", "lesion_voxels"])
def test_subjects_of_whom_other_voxels_were_judged_are_left_out(key):
    first, second = method("a", values(0)), method("b", values(1))
    second.rows[3] = dataclasses.replace(second.rows[3], **{key: 7})
    (row,) = compare.compare([first, second], "a").rows
    assert row.n_subjects == 11


def test_what_cannot_be_compared_is_null_with_a_reason():
    alone = {"sub-0": 0.5}
    (row,) = compare.compare([method("a", alone), method("b", alone)], "a").rows
    assert row.dice["0.01"].ci95 is None
    assert "fewer than two" in row.auc.reason
    (row,) = compare.compare([method("a", alone), method("b", {"sub-1": 0.5})], "a").rows
    assert (row.n_subjects, row.auc.difference) == (0, None)
    assert "no subject" in row.dice["0.01"].reason
    healthy = {name: (np.arange(4.0), np.zeros(4, bool)) for name in ("sub-0", "sub-1")}
    nothing = dict.fromkeys(healthy)
    (row,) = compare.compare([method("a", nothing, healthy), method("b", nothing, healthy)], "a").rows
    assert row.auprc.difference is None
    assert row.auprc.reason
