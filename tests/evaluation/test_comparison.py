"""Paired comparison: closed cases, SciPy, and areas by scikit-learn without each subject."""

import dataclasses

import measured
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from lgjax.evaluation import compare, intervals, tally
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


def compared(results, name: str, **changes):
    return compare.compare(results, name, measured.settings(**changes))


def test_identical_methods_do_not_differ():
    found = compared([method("a", values(0)), method("b", values(0))], "a")
    (row,) = found.rows
    assert found.tests == 3
    for entry in row.entries:
        assert entry == Difference(0.0, (0.0, 0.0), False, 1.0, 1.0, False)


def test_a_constant_shift_is_found_exactly():
    shifted = {name: value + 0.125 for name, value in values(0).items()}
    for reference, sign in (("a", 1), ("b", -1)):
        (row,) = compared([method("a", values(0)), method("b", shifted)], reference).rows
        entry = row.dice["0.01"]
        assert entry.difference == pytest.approx(sign * 0.125, abs=1e-12)
        assert entry.ci95 == pytest.approx([sign * 0.125] * 2, abs=1e-12)
        assert entry.excludes_zero
        assert entry.certain


def test_the_difference_of_mean_dice_is_the_paired_t_test_of_scipy():
    first, second = values(1, 30), values(2, 30)
    (row,) = compared([method("a", first), method("b", second)], "b").rows
    theirs = stats.ttest_rel(list(first.values()), list(second.values()))
    assert row.dice["0.01"].p == pytest.approx(theirs.pvalue)
    assert row.dice["0.01"].ci95 == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_differences_of_areas_are_the_paired_jackknife_by_scikit_learn():
    rng = np.random.default_rng(3)
    made: dict[str, dict] = {"a": {}, "b": {}}
    for index in range(7):
        lesion = rng.random(900) < 0.06
        for name, lift in (("a", 2.0), ("b", 1.0)):
            scores = rng.normal(size=900) + (lift + 0.1 * index) * lesion
            made[name][f"sub-{index}"] = ((np.round(4 * scores) / 4).astype(np.float32), lesion)  # one bin a score
    (row,) = compared([method(name, dict.fromkeys(made[name], 0.5), made[name]) for name in made], "b").rows
    for entry, area in ((row.auc, roc_auc_score), (row.auprc, average_precision_score)):
        differences = []
        for left_out in (None, *made["a"]):
            kept = [[item for key, item in made[name].items() if key != left_out] for name in made]
            both = [[np.concatenate(parts) for parts in zip(*subjects, strict=True)] for subjects in kept]
            differences.append(np.subtract(*(area(lesion, scores) for scores, lesion in both)))
        pseudo = 7 * differences[0] - 6 * np.array(differences[1:])  # Tukey's: their standard error is the jackknife's
        reach = stats.t.ppf(0.975, 6) * stats.sem(pseudo)
        assert entry.difference == pytest.approx(differences[0])
        assert entry.ci95 == pytest.approx((differences[0] - reach, differences[0] + reach))
        assert entry.p == pytest.approx(2 * stats.t.sf(abs(differences[0]) / stats.sem(pseudo), 6))
    assert row.auc.certain


def test_many_comparisons_are_corrected_together():
    """Holm (1979): the k-th smallest of m p-values is held against error / (m + 1 - k), up to the first that fails."""
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.9, 0.6]) == [1.0, 1.0]
    assert intervals.holm([]) == []
    others = [method(str(seed), values(seed)) for seed in range(1, 9)]
    for kind, steps in (("far", (0.15, 0.2)), ("near", (-0.02, 0.2))):  # t is 24 and 2.7
        others.append(method(kind, {name: value - steps[i % 2] for i, (name, value) in enumerate(values(0).items())}))
    results = [method("a", values(0)), *others]
    found = compared(results, "a")
    assert found.tests == 30
    assert (found.family_error, found.reference) == (0.05, "a")
    tests = sorted((entry.p, entry.certain) for row in found.rows for entry in row.entries)
    passed = [p <= 0.05 / (30 - place) for place, (p, _) in enumerate(tests)]
    assert [certain for _, certain in tests] == [all(passed[: place + 1]) for place in range(30)]
    assert any(certain for _, certain in tests)
    assert any(entry.excludes_zero and not entry.certain for row in found.rows for entry in row.entries)
    strict = compared(results, "a", family_error=1e-15)
    assert not any(entry.certain for row in strict.rows for entry in row.entries)


def test_only_subjects_that_both_have_are_compared():
    first, second = values(0), values(1)
    del first["sub-0"], second["sub-1"]
    second["sub-2"] = None  # healthy for one: no Dice
    (row,) = compared([method("a", first), method("b", second)], "b").rows
    common = [name for name in first if second.get(name) is not None]
    assert row.n_subjects == 10
    expected = np.mean([first[name] - second[name] for name in common])
    assert row.dice["0.01"].difference == pytest.approx(expected)


@pytest.mark.parametrize("key", ["input_sha256", "brain_voxels", "lesion_voxels", "displaced_voxels"])
def test_subjects_of_whom_other_voxels_were_judged_are_left_out(key):
    first, second = method("a", values(0)), method("b", values(1))
    second.rows[3] = dataclasses.replace(second.rows[3], **{key: 7})
    (row,) = compared([first, second], "a").rows
    assert row.n_subjects == 11


def test_what_cannot_be_compared_is_null_with_a_reason():
    five = values(0, 5)
    found = compared([method("a", five), method("b", five)], "a")
    assert found.tests == 0
    for entry in found.rows[0].entries:
        assert entry == Difference(0.0, None, None, reason="fewer than 6 subjects")
    (row,) = compared([method("a", five), method("b", five)], "a", least_subjects=5).rows
    assert row.auc.ci95 is not None
    alone = {"sub-0": 0.5}
    (row,) = compared([method("a", alone), method("b", {"sub-1": 0.5})], "a").rows
    assert (row.n_subjects, row.auc.difference) == (0, None)
    assert "no subject" in row.dice["0.01"].reason
    healthy = {name: (np.arange(4.0), np.zeros(4, bool)) for name in ("sub-0", "sub-1")}
    nothing = dict.fromkeys(healthy)
    (row,) = compared([method("a", nothing, healthy), method("b", nothing, healthy)], "a").rows
    assert row.auprc.difference is None
    assert row.auprc.reason


def of_kinds(name: str, lifts: dict[str, float]) -> tuple[Result, list]:
    """Returns a method with eight subjects of every kind, whose lesions it lifts by so much, and their scores."""
    rng, cases = np.random.default_rng(5), []
    for kind, lift in lifts.items():
        for index in range(8):
            lesion = (rng.random(600) < 0.1) & (kind != "healthy")
            scores = (np.round(4 * (rng.normal(size=600) + lift * lesion)) / 4).astype(np.float32)
            volumes = {"brain_voxels": 600, "lesion_voxels": int(lesion.sum()), "input_sha256": f"{kind}{index}"}
            row = measured.row(f"sub-{kind}{index}", kind=kind, dice={"0.01": 0.5}, fpr={"0.01": 0.0}, **volumes)
            cases.append((Case(row, tally.count(scores, lesion)), scores, lesion))
    return measured.result(name, [case for case, *_ in cases], {"0.01": 2.0}), cases


def test_each_kind_of_lesion_is_compared_by_itself_and_corrected_with_the_other_kinds():
    """The second method is better on one kind alone; scikit-learn's areas of the subjects of that kind."""
    (first, ours), (second, theirs) = (
        of_kinds("a", {"glioma": 2.0, "healthy": 0.0, "midline": 0.3}),
        of_kinds("b", {"glioma": 2.0, "healthy": 0.0, "midline": 2.0}),
    )
    found = compared([first, second], "a")
    (row,) = found.rows
    assert (row.method, found.tests, found.kind_tests) == ("b", 3, 2)  # healthy brains have no area
    assert list(row.auprc_by_kind) == ["glioma", "midline"]
    for kind, entry in row.auprc_by_kind.items():
        areas = []
        for cases in (theirs, ours):
            parts = [(lesion, scores) for case, scores, lesion in cases if case.row.kind == kind]
            areas.append(average_precision_score(*(np.concatenate(part) for part in zip(*parts, strict=True))))
        assert entry.difference == pytest.approx(areas[0] - areas[1])
    assert row.auprc_by_kind["midline"].certain
    assert not row.auprc_by_kind["glioma"].certain
    assert row.auprc_by_kind["glioma"].difference == 0
    p_values = [entry.p for entry in row.auprc_by_kind.values()]
    assert [entry.p_holm for entry in row.auprc_by_kind.values()] == pytest.approx(intervals.holm(p_values))
    alike = compared([method("a", values(0)), method("b", values(1))], "a")
    assert (alike.rows[0].auprc_by_kind, alike.kind_tests) == ({}, 0)
