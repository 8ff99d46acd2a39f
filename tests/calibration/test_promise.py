"""Promised volumes of false positives: what conformal risk control promises, for bags of scans and in simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgjax.calibration import components, promise
from lgjax.calibration.promise import CAP, Healthy
from lgjax.derivatives import lesions

FEW = settings(max_examples=60, deadline=None)
SCANS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=14)
ML = 0.5  # of a voxel


def loss(scores, threshold: float, cap: float) -> float:
    """min(volume above the threshold, cap) of one scan, by counting."""
    return min(ML * sum(bool(score > threshold) for score in scores), cap)


def healthy(scans) -> Healthy:
    return Healthy([np.array(scan, np.float32) for scan in scans], [ML] * len(scans))


@FEW
@given(SCANS, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1.0, 3.0, 8.0]))
def test_the_threshold_is_the_smallest_that_keeps_the_promise(scans, volume, cap):
    def bound(t: float) -> float:
        return (sum(loss(scan, t, cap) for scan in scans) + cap) / (len(scans) + 1)

    found = healthy(scans).threshold(volume, cap)
    if found is None:
        assert bound(np.inf) > volume  # no threshold does
        return
    assert bound(found) <= volume
    smaller = [score for scan in scans for score in scan if score < found]
    assert not smaller or bound(max(smaller)) > volume
    assert healthy(scans).mean(found, cap) == pytest.approx(np.mean([loss(scan, found, cap) for scan in scans]))


@FEW
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=2, max_size=14),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([1.0, 3.0, 8.0]),
)
def test_exchangeable_scans_lose_no_more_than_the_promise(scans, volume, cap):
    """Exactly, for any bag of scans: each in turn is the new one."""
    losses = []
    for i, new in enumerate(scans):
        threshold = healthy(scans[:i] + scans[i + 1 :]).threshold(volume, cap)
        if threshold is None:
            return
        losses.append(loss(new, threshold, cap))
    assert np.mean(losses) <= volume + 1e-9


def test_in_simulation_the_promise_holds_and_is_not_idle():
    """Scans that differ as real ones do; the theorem's lower bound is V - 2 B / (n + 1)."""
    rng, n, volume = np.random.default_rng(0), 19, 1.0
    cap, losses, without = CAP * volume, [], []
    for _ in range(600):
        scans = rng.exponential(size=(n + 1, 60)) * rng.lognormal(0, 0.7, (n + 1, 1))
        known, new = healthy(scans[:n]), scans[n].astype(np.float32)
        losses.append(loss(new, known.threshold(volume, cap), cap))
        without.append(known.mean(known.threshold(volume, cap), cap))
    error = np.std(losses) / np.sqrt(len(losses))
    assert volume - 2 * cap / (n + 1) - 3 * error <= np.mean(losses) <= volume + 3 * error
    assert np.mean(without) < np.mean(losses)  # calibration scans flatter


@pytest.mark.parametrize(("scans", "possible"), [(1, False), (8, False), (9, True), (16, True)])
def test_few_scans_promise_nothing(scans, possible):
    rng = np.random.default_rng(0)
    scores = [rng.random(500).astype(np.float32) for _ in range(scans)]
    found = promise.learn("positive", scores, [0.1] * scans, promise.volume_names((5.0, 0.3, 1.0)))
    assert list(found.thresholds) == list(found.means) == ["0.3", "1", "5"]
    assert found.caps == {"0.3": pytest.approx(3), "1": 10, "5": 50}
    assert all((threshold is not None) == possible for threshold in found.thresholds.values())
    if scans == 9:  # nothing may be above
        assert found.thresholds == dict.fromkeys(found.caps, float(np.max(scores)))
        assert set(found.means.values()) == {0.0}


def test_constant_scores_and_tiny_brains():
    constant = [np.full(40, 2, np.float32)] * 12
    assert promise.learn("positive", constant, [1.0] * 12, ("1",)).thresholds == {"1": 2.0}
    tiny = [np.arange(4, dtype=np.float32)] * 12  # of .004 mL
    assert promise.learn("positive", tiny, [0.001] * 12, ("1",)).thresholds == {"1": 0.0}


def test_a_threshold_is_a_float32_that_json_keeps():
    scores = [np.random.default_rng(i).random(100).astype(np.float32) for i in range(12)]
    (threshold,) = promise.learn("positive", scores, [0.1] * 12, ("1",)).thresholds.values()
    assert np.float32(threshold) == threshold
    assert threshold in np.concatenate(scores)


def test_the_largest_false_positive_is_that_of_lesions():
    rng = np.random.default_rng(0)
    affine = np.diag([1.1, -0.9, 3.0, 1.0])
    for _ in range(10):
        brain = rng.random((9, 8, 7)) < 0.8
        anomaly = rng.random(brain.shape).astype(np.float32)
        found = components.largest(anomaly[brain], brain, 0.8)
        labels = lesions.label((anomaly > 0.8) & brain, affine)
        first = lesions.measure(labels, anomaly, brain, affine)[0]
        assert found * 1.1 * 0.9 * 3.0 / 1000 == pytest.approx(first.volume_ml)
    assert components.largest(anomaly[brain], brain, 2.0) == 0


def test_pvalues_of_lesions():
    healthy_ml = [0.0, 0.0, 0.3, 2.0]
    assert [lesions.pvalue(ml, healthy_ml) for ml in (0.1, 0.3, 0.31, 2.0, 5.0)] == [0.6, 0.6, 0.4, 0.4, 0.2]
    assert lesions.pvalue(3 * 0.1, [0.3]) == 1.0  # equal but for rounding
    assert lesions.pvalue(1.0, []) == 1.0


@FEW
@given(st.lists(st.integers(0, 6), min_size=2, max_size=20))
def test_of_exchangeable_scans_at_most_a_share_alpha_has_a_lesion_of_alpha(sizes):
    found = [lesions.pvalue(float(size), sizes[:i] + sizes[i + 1 :]) for i, size in enumerate(sizes)]
    for alpha in {0.05, 0.2, *found}:
        assert sum(p <= alpha for p in found) <= alpha * len(sizes) + 1e-9
