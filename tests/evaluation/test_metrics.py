"""Metrics against scikit-learn, closed forms and slow re-implementations."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from lgjax.evaluation import bootstrap, metrics, tally

# Few distinct scores: most cases are full of ties.
VOXELS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({label for _, label in pairs}) == 2 and len({score for score, _ in pairs}) > 1
)


def ranked(scores, labels) -> metrics.Ranking:
    return tally.ranking(tally.count(np.asarray(scores, np.float32), np.asarray(labels, bool)))


@hypothesis.given(VOXELS)
@hypothesis.settings(deadline=None, max_examples=150)
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


def components(mask) -> list[set]:
    """Slow flood fill over 26 neighbours."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        stack, part = [left.pop()], set()
        while stack:
            voxel = stack.pop()
            part.add(voxel)
            for step in itertools.product((-1, 0, 1), repeat=3):
                neighbour = tuple(int(a + b) for a, b in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    stack.append(neighbour)
        found.append(part)
    return found


@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.15])
def test_lesion_wise_equals_a_flood_fill(density):
    rng = np.random.default_rng(int(1000 * density))
    for _ in range(4):
        prediction, reference = rng.random((2, 9, 8, 7)) < density
        lesions, parts = components(reference), components(prediction)
        marked, true = set(map(tuple, np.argwhere(prediction))), set(map(tuple, np.argwhere(reference)))
        sensitivity = np.mean([bool(lesion & marked) for lesion in lesions]) if lesions else None
        ppv = np.mean([bool(part & true) for part in parts]) if parts else None
        found = metrics.lesion_wise(prediction, reference)
        assert found[:2] == (sensitivity, ppv)
        assert found[3:] == (len(lesions), len(parts))
        if sensitivity and ppv:
            assert found.f1 == pytest.approx(2 / (1 / sensitivity + 1 / ppv))


def test_lesion_wise_without_lesion_or_detection():
    empty, one = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    one[1, 1, 1] = True
    assert metrics.lesion_wise(empty, empty) == (None, None, None, 0, 0)
    assert metrics.lesion_wise(empty, one) == (0, None, 0, 1, 0)
    assert metrics.lesion_wise(one, empty) == (None, 0, None, 0, 1)


def test_lesion_wise_equals_scikit_image():
    rng = np.random.default_rng(7)
    for _ in range(5):
        prediction, reference = (ndimage.gaussian_filter(rng.normal(size=(20, 22, 18)), 1.2) > 0.12 for _ in range(2))
        lesions, parts = (measure.label(mask, connectivity=3) for mask in (reference, prediction))
        hit = [prediction[tuple(item.coords.T)].any() for item in measure.regionprops(lesions)]
        true = [reference[tuple(item.coords.T)].any() for item in measure.regionprops(parts)]
        found = metrics.lesion_wise(prediction, reference)
        assert (found.n_reference, found.n_predicted) == (len(hit), len(true))
        assert len(hit) > 5
        assert found.sensitivity == pytest.approx(np.mean(hit))
        assert found.ppv == pytest.approx(np.mean(true))


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


def test_bootstrap_of_the_mean():
    values = [0.1, None, 0.4, 0.3, 0.9]
    first = bootstrap.summarise(values, seed=3).ci95
    assert first == bootstrap.summarise(values, seed=3).ci95
    assert first != bootstrap.summarise(values, seed=4).ci95
    assert first[0] < np.mean([0.1, 0.4, 0.3, 0.9]) < first[1]
    assert bootstrap.summarise([0.5] * 4).ci95 == (0.5, 0.5)
    assert bootstrap.summarise([0.5, None]).ci95 is None
    # Many subjects: the interval is the normal one.
    many = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap.summarise(list(many), n=4000).ci95
    assert high - low == pytest.approx(2 * 1.96 * many.std() / 20, rel=0.08)


def test_the_mean_of_a_resample_leaves_undefined_values_out():
    drawn = np.array([[1.0, 1, 1], [0, 3, 0], [2, 0, 1]])
    np.testing.assert_allclose(bootstrap.means([0.2, None, 0.5], drawn), [0.35, np.nan, 0.3])


def test_summary_leaves_undefined_values_out():
    summary = bootstrap.summarise([0.2, None, 0.4])
    assert (summary.mean, summary.n) == (pytest.approx(0.3), 2)
    assert summary.std == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert bootstrap.summarise([None]) == bootstrap.Summary(None, None, None, 0)
    assert bootstrap.summarise([0.5]) == bootstrap.Summary(0.5, None, None, 1)


def test_binned_bootstrap_equals_sorting_every_resample():
    rng = np.random.default_rng(2)
    subjects = []
    for lift in (0.5, 1.0, 1.5, 2.0, 3.0):
        labels = rng.random(1500) < 0.05
        subjects.append(((rng.normal(size=1500) + lift * labels).astype(np.float32), labels))
    histograms = tally.stack([tally.coarsen(tally.count(*subject), 16) for subject in subjects])
    assert histograms.sum() == 7500
    drawn = bootstrap.weights(5, n=60, seed=5)
    found = bootstrap.pooled(histograms, drawn)
    for draw, *ours in zip(drawn, *found, strict=True):
        chosen = [subject for subject, count in zip(subjects, draw, strict=True) for _ in range(int(count))]
        scores, labels = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
        slow = (roc_auc_score(labels, scores), average_precision_score(labels, scores))
        np.testing.assert_allclose(ours, slow, atol=5e-3)  # scores within 1 % of one another count as ties


def test_binned_bootstrap_leaves_resamples_without_lesion_out():
    healthy, patient = np.array([[3, 5], [0, 0]]), np.array([[1, 5], [2, 1]])
    drawn = np.array([[2.0, 0], [1, 1], [0, 2]])
    auc, auprc = bootstrap.pooled(np.stack([healthy, patient]), drawn)
    assert np.isnan(auc).tolist() == np.isnan(auprc).tolist() == [True, False, False]
    assert bootstrap.interval(auc)[0] > 0
    assert bootstrap.interval(np.array([np.nan])) is None
