"""Metrics against scikit-learn, closed forms and slow re-implementations."""

import itertools

import hypothesis
import measured
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage, special, stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from lgjax.evaluation import intervals, metrics, tally

# Few distinct scores: most cases are full of ties.
VOXELS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({label for _, label in pairs}) == 2 and len({score for score, _ in pairs}) > 1
)


def ranked(scores, labels) -> metrics.Ranking:
    return tally.ranking(tally.count(np.asarray(scores, np.float32), np.asarray(labels, bool)))


@hypothesis.given(VOXELS)
@hypothesis.settings(deadline=None, max_examples=50)
def test_ranking_metrics_equal_scikit_learn(pairs):
    scores, labels = map(list, zip(*pairs, strict=True))
    ranking = ranked(scores, labels)
    assert metrics.auc(ranking) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.auprc(ranking) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best, threshold = metrics.oracle_dice(ranking)
    everywhere = [f1_score(labels, np.array(scores) >= cut) for cut in set(scores)]
    assert best == pytest.approx(max(everywhere), abs=1e-12)
    assert f1_score(labels, np.array(scores) >= threshold) == pytest.approx(best, abs=1e-12)


def test_ranking_metrics_on_many_voxels_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(50_000) < 0.03
    scores = (rng.normal(size=50_000) + 1.5 * labels).astype(np.float32)
    ranking = ranked(scores, labels)
    assert metrics.auc(ranking) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.auprc(ranking) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@hypothesis.given(VOXELS, st.randoms())
@hypothesis.settings(deadline=None, max_examples=50)
def test_ranking_ignores_order_and_monotone_maps_of_the_score(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    first = ranked(*zip(*pairs, strict=True))
    second = ranked([3.0 * score + 1 for score, _ in shuffled], [label for _, label in shuffled])
    assert metrics.auc(first) == metrics.auc(second)
    assert metrics.auprc(first) == metrics.auprc(second)
    inverted = ranked([-score for score, _ in pairs], [label for _, label in pairs])
    assert metrics.auc(inverted) == pytest.approx(1 - metrics.auc(first), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "why"),
    [
        ([1, 2, 3], [False] * 3, "no lesion"),
        ([1, 2, 3], [True] * 3, "no healthy"),
        ([1, 1, 1], [True, False, True], "constant"),
        ([], [], "no lesion"),
    ],
)
def test_undefined_rankings_are_none_with_a_reason(scores, labels, why):
    ranking = ranked(scores, labels)
    assert why in metrics.undefined_ranking(ranking)
    assert metrics.auc(ranking) is None
    assert metrics.auprc(ranking) is None
    assert metrics.oracle_dice(ranking) is None


def test_a_tally_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="finite"):
        ranked([1, np.nan], [True, False])
    with pytest.raises(ValueError, match="expected scores and lesion"):
        ranked([1, 2], [True])


def test_curves_are_thin_and_keep_the_area():
    rng = np.random.default_rng(1)
    labels = rng.random(40_000) < 0.1
    ranking = ranked((rng.normal(size=40_000) + labels).astype(np.float32), labels)
    x, y = metrics.roc_curve(ranking)
    assert x.size <= 501
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(metrics.auc(ranking), abs=1e-3)
    recall, precision = metrics.precision_recall_curve(ranking)
    assert recall.size <= 500
    assert (np.diff(recall) >= 0).all()
    assert (recall[-1], precision[-1]) == (1, labels.mean())


def test_dice_and_fpr_closed_forms():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    half = empty.copy()
    half[:2] = True
    assert metrics.dice(empty, empty) is None
    assert metrics.dice(full, full) == 1
    assert metrics.dice(empty, full) == 0
    assert metrics.dice(half, full) == pytest.approx(2 / 3)
    assert metrics.dice(half, ~half) == 0
    assert metrics.fpr(half, empty) == 0.5
    assert metrics.fpr(full, half) == 1
    assert metrics.fpr(full, full) is None


def components(mask, axes: int) -> list[set]:
    """Slow flood fill over the neighbours that differ in at most so many axes."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        stack, part = [left.pop()], set()
        while stack:
            voxel = stack.pop()
            part.add(voxel)
            for step in itertools.product((-1, 0, 1), repeat=3):
                if np.abs(step).sum() > axes:
                    continue
                neighbour = tuple(int(a + b) for a, b in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    stack.append(neighbour)
        found.append(part)
    return found


NEIGHBOURS = {6: 1, 18: 2, 26: 3}


@pytest.mark.parametrize(("density", "connectivity"), [(0.0, 26), (0.01, 26), (0.05, 6), (0.1, 18), (0.15, 26)])
def test_lesion_wise_equals_a_flood_fill(density, connectivity):
    rng = np.random.default_rng(int(1000 * density))
    rule = measured.settings(connectivity=connectivity, lesion_share=0.25, detection_share=0.5)
    for _ in range(4):
        prediction, reference = rng.random((2, 9, 8, 7)) < density
        lesions, parts = (components(mask, NEIGHBOURS[connectivity]) for mask in (reference, prediction))
        marked = set(map(tuple, np.argwhere(reference)))
        true = [part for part in parts if len(part & marked) >= 0.5 * len(part)]
        covered = set().union(*true)
        sensitivity = np.mean([len(lesion & covered) >= 0.25 * len(lesion) for lesion in lesions]) if lesions else None
        ppv = len(true) / len(parts) if parts else None
        found = metrics.lesion_wise(prediction, reference, rule)
        assert found[:2] == (sensitivity, ppv)
        assert found[3:] == (len(lesions), len(parts))
        if sensitivity and ppv:
            assert found.f1 == pytest.approx(2 / (1 / sensitivity + 1 / ppv))


def test_lesion_wise_without_lesion_or_detection():
    empty, one = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    one[1, 1, 1] = True
    rule = measured.settings()
    assert metrics.lesion_wise(empty, empty, rule) == (None, None, None, 0, 0)
    assert metrics.lesion_wise(empty, one, rule) == (0, None, 0, 1, 0)
    assert metrics.lesion_wise(one, empty, rule) == (None, 0, None, 0, 1)


def test_a_mask_of_everything_finds_no_lesion():
    """Nor does one that barely touches a lesion, or of which less than three tenths are lesion."""
    reference = np.zeros((20, 10, 10), bool)
    reference[:10, :2] = reference[12:, :2] = True  # 36 % of 1000 in two lesions of 200 and 160 voxels
    rule = measured.settings()
    assert metrics.lesion_wise(reference, reference, rule)[:3] == (1, 1, 1)
    assert metrics.lesion_wise(np.ones_like(reference), reference, rule) == (0, 0, 0, 2, 1)
    for voxels, found in ((19, 0), (20, 0.5)):  # of the 200: a tenth suffices
        part = np.zeros_like(reference)
        part.reshape(-1)[np.flatnonzero(reference)[:voxels]] = True
        assert metrics.lesion_wise(part, reference, rule)[:2] == (found, 1)
    for width, true in ((6, 1), (7, 0)):  # 2 of 6 columns are lesion: a third; 2 of 7 are not enough
        wide = np.zeros_like(reference)
        wide[:10, :width] = True
        assert metrics.lesion_wise(wide, reference, rule)[:2] == (true / 2, true)


def brute_hd95(first, second, affine) -> float:
    """Every border voxel against every other one, without a tree or morphology."""

    def border(mask):
        marked = set(map(tuple, np.argwhere(mask).tolist()))
        steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
        edge = [v for v in marked if any(tuple(np.add(v, step).tolist()) not in marked for step in steps)]
        return np.array([affine[:3, :3] @ voxel for voxel in edge])

    distances = np.linalg.norm(border(first)[:, None] - border(second)[None], axis=2)
    return max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))


def blobs(seed, shape=(18, 16, 14)):
    rng = np.random.default_rng(seed)
    return [ndimage.gaussian_filter(rng.normal(size=shape), 2) > cut for cut in (0.05, 0.08)]


OBLIQUE = np.diag([1.0, 2.0, 3.0, 1]) @ np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-0.5, 1.0, 3.0, 1]), OBLIQUE])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_equals_brute_force(affine, seed):
    first, second = blobs(seed)
    assert metrics.hd95(first, second, affine) == pytest.approx(brute_hd95(first, second, affine), abs=1e-9)
    assert metrics.hd95(second, first, affine) == metrics.hd95(first, second, affine)


def test_hd95_closed_forms():
    cube = np.zeros((20, 20, 20), bool)
    cube[5:10, 5:10, 5:10] = True
    assert metrics.hd95(cube, cube, np.eye(4)) == 0
    # A single voxel against its copy: 3 voxels of 2 mm apart.
    one = np.zeros_like(cube)
    one[0, 0, 0] = True  # at the edge of the image: a border voxel all the same
    assert metrics.hd95(one, np.roll(one, 3, axis=1), np.diag([1.0, 2.0, 1.0, 1.0])) == 6
    assert metrics.hd95(one, np.zeros_like(one), np.eye(4)) is None
    assert metrics.hd95(np.zeros_like(one), one, np.eye(4)) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # scipy.ndimage.filters, in that package
@pytest.mark.parametrize("seed", range(3))
def test_hd95_is_that_of_surface_distance_up_to_a_voxel(seed):
    surface_distance = pytest.importorskip("surface_distance")
    first, second = blobs(seed, (40, 36, 30))
    zooms = (1.0, 1.5, 2.0)
    distances = surface_distance.compute_surface_distances(first, second, zooms)
    theirs = surface_distance.compute_robust_hausdorff(distances, 95)
    # They place the surface between voxels and weigh its pieces by area; we count border voxels alike.
    assert metrics.hd95(first, second, np.diag([*zooms, 1.0])) == pytest.approx(theirs, abs=max(zooms))


def test_the_interval_of_a_mean_is_that_of_scipy_within_the_range_of_the_metric():
    values = [0.1, None, 0.4, 0.3, 0.9, 0.7, 0.5]
    known = [value for value in values if value is not None]
    found = intervals.summarise(values, least=6)
    expected = stats.ttest_1samp(known, 0).confidence_interval(0.95)
    assert found.ci95 == pytest.approx(tuple(expected))
    assert (found.n, found.mean, found.std) == (6, pytest.approx(np.mean(known)), pytest.approx(np.std(known, ddof=1)))
    assert intervals.summarise(values, least=7).ci95 is None
    assert intervals.summarise([0.5] * 6, least=6).ci95 == (0.5, 0.5)
    assert intervals.summarise([0.0] * 5 + [0.3], least=6).ci95[0] == 0
    most = intervals.summarise([1.0] * 5 + [0.7], least=6)
    assert most.ci95[1] > 1
    assert intervals.summarise([1.0] * 5 + [0.7], least=6, highest=1).ci95 == (most.ci95[0], 1)
    assert intervals.summarise([None], least=6) == intervals.Summary(None, None, None, 0)
    assert intervals.summarise([0.5], least=6) == intervals.Summary(0.5, None, None, 1)


def test_the_interval_of_a_mean_covers_what_it_says():
    """2,000 samples of 12: .95 of the intervals hold the true mean, give or take .01 (two standard errors)."""
    rng = np.random.default_rng(0)
    for draw, mean in ((lambda: rng.normal(0.5, 0.1, 12), 0.5), (lambda: rng.beta(2, 3, 12), 0.4)):
        found = [intervals.summarise(draw().tolist(), least=6).ci95 for _ in range(2000)]
        assert 0.93 < np.mean([low <= mean <= high for low, high in found]) < 0.97


def patients(count: int, rng) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and lesions of subjects in whom the lesion stands out by different amounts; few distinct scores."""
    made = []
    for _ in range(count):
        labels = rng.random(300) < 0.1
        made.append((np.round(2 * (rng.normal(size=300) + rng.normal(1.5, 0.5) * labels)).astype(np.float32), labels))
    return made


def test_pooled_areas_without_each_subject_equal_scikit_learn():
    subjects = patients(6, np.random.default_rng(2))
    histograms = tally.stack([tally.coarsen(tally.count(*subject), 16) for subject in subjects])
    assert histograms.sum() == 6 * 300
    weights = intervals.leave_one_out(6)
    for row, *ours in zip(weights, *intervals.pooled(histograms, weights), strict=True):
        chosen = [subject for subject, count in zip(subjects, row, strict=True) if count]
        assert len(chosen) == (6 if row.all() else 5)
        scores, labels = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
        slow = (roc_auc_score(labels, scores), average_precision_score(labels, scores))
        np.testing.assert_allclose(ours, slow)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).random(9)
    assert intervals.jackknife(intervals.leave_one_out(9)[1:] @ values / 8) == pytest.approx(stats.sem(values))


def test_the_interval_of_an_area_covers_what_it_says():
    """300 samples of 12 patients; lesion scores are N(1.5, 1.25) over all patients, so the true AUC is Phi(1)."""
    rng, weights, hits = np.random.default_rng(1), intervals.leave_one_out(12), 0
    for _ in range(300):
        areas, _ = intervals.pooled(tally.stack([tally.count(*subject) for subject in patients(12, rng)]), weights)
        low, high = intervals.area_interval(areas, 12)
        hits += low <= stats.norm.cdf(1) <= high
    assert 0.92 < hits / 300 < 0.98


def test_the_interval_of_an_area_ends_between_0_and_1():
    rng = np.random.default_rng(4)
    odds = rng.normal(3, 0.3, 8)
    low, high = intervals.area_interval(special.expit(odds), 8)
    reach = stats.t.ppf(0.975, 7) * np.sqrt(6 / 7 * np.sum((odds[1:] - odds[1:].mean()) ** 2))
    assert special.logit([low, high]) == pytest.approx([odds[0] - reach, odds[0] + reach])
    assert intervals.area_interval(np.array([1.0, 1, 1, 0.9]), 4)[1] == 1
    assert intervals.area_interval(np.ones(8), 8) == (1, 1)


def test_an_area_rests_on_the_subjects_of_the_rarer_kind():
    healthy, patient = np.array([[3, 5], [0, 0]]), np.array([[1, 5], [2, 1]])
    assert intervals.informative(np.stack([healthy, patient, healthy])) == 1
    auc, auprc = intervals.pooled(np.stack([healthy, patient]), np.array([[2.0, 0], [1, 1], [0, 2]]))
    assert np.isnan(auc).tolist() == np.isnan(auprc).tolist() == [True, False, False]
