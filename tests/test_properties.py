"""What must hold whatever comes: headers with any bytes, scans in any orientation, metrics of any voxels."""

import functools
import gzip
import io
import itertools

import hypothesis
import images
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st

from lgjax.evaluation import metrics, tally
from lgjax.preparation import pipeline
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Grid, from_slices, to_slices
from lgjax.runtime.errors import InputError
from lgjax.scans import nifti, sources

FEW = hypothesis.settings(
    max_examples=100, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
HEAD = images.head((12, 14, 11))
GRID = Grid(16, 16, 2.0)
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.25)
OBLIQUE = nib.affines.from_matvec(TURN @ np.diag([1.6, 1.4, 2.0]), (7.0, -3.0, 11.0))


# The door: any byte of a header may be any other.

KINDS = [
    (cls, endianness)
    for cls in (nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair)
    for endianness in "<>"
]


@functools.cache
def stored(cls: type, endianness: str) -> tuple[bytes, bytes]:
    """A small oblique scan: header with all that follows it in its file, and the voxels of a pair."""
    header = cls.header_class(endianness=endianness)
    header.set_data_dtype(np.int16)
    image = cls(HEAD.astype(np.int16), OBLIQUE, header)
    image.set_sform(OBLIQUE, 2)
    image.set_qform(OBLIQUE, 1)
    streams = {name: io.BytesIO() for name in image.file_map}
    for name, stream in streams.items():
        image.file_map[name].fileobj = stream
    image.to_file_map()
    first, *rest = (streams[name].getvalue() for name in sorted(streams))  # header, image
    return first, b"".join(rest)


@pytest.mark.parametrize(("cls", "endianness"), KINDS)
@FEW
@hypothesis.given(
    changes=st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=4), packed=st.booleans()
)
def test_any_header_is_restored_or_refused(tmp_path, cls, endianness, changes, packed):
    start, voxels = stored(cls, endianness)
    content = bytearray(start)
    for position, value in changes:
        content[position % (cls.header_class.sizeof_hdr + 4 * (not voxels))] = value
    path = tmp_path / ("any.hdr" if voxels else "any.nii.gz" if packed else "any.nii")
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else bytes(content))
    path.with_suffix(".img").write_bytes(voxels)
    (subject,) = sources.find(str(path), assume_ras=True)
    try:
        prepared = pipeline.prepare(subject, Recipe(GRID, None, None, "none"))
    except InputError:
        return
    values = from_slices(prepared.slices.y, prepared.placement)
    assert np.isfinite(values).all()
    nifti.write(tmp_path / "out.nii.gz", values, prepared.image, np.float32)
    again = nifti.read(tmp_path / "out.nii.gz", assume_ras=True)
    np.testing.assert_array_equal(again.data, values)
    np.testing.assert_array_equal(again.affine, prepared.image.affine)


@FEW
@hypothesis.given(position=st.integers(0, 10**6), value=st.integers(0, 255), kind=st.sampled_from(KINDS[:4]))
def test_a_damaged_gzip_stream_is_never_accepted_silently(tmp_path, position, value, kind):
    content = bytearray(gzip.compress(stored(*kind)[0], mtime=0))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    expected = nifti.read(path)
    content[position % len(content)] = value
    path.write_bytes(content)
    try:
        found = nifti.read(path)
    except InputError:
        return
    np.testing.assert_array_equal(found.data, expected.data)
    assert found.header.binaryblock == expected.header.binaryblock


# Orientation: whatever the order on disk and the affine, what comes back lies where it came from.


@st.composite
def affines(draw) -> np.ndarray:
    """Voxels of 0.5 to 6 mm, turned by up to a right angle and sheared; never close to flat."""
    angles = [draw(st.floats(-np.pi / 2, np.pi / 2)) for _ in range(3)]
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = [draw(st.floats(-0.5, 0.5)) for _ in range(3)]
    zooms = np.diag([draw(st.floats(0.5, 6)) for _ in range(3)])
    origin = [draw(st.floats(-200, 200)) for _ in range(3)]
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) @ shear @ zooms, origin)


ORDERS = st.builds(
    lambda order, signs: np.array(list(zip(order, signs, strict=True))),
    st.permutations(range(3)),
    st.tuples(*3 * [st.sampled_from((1, -1))]),
)


def moved(data: np.ndarray, affine: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return nib.orientations.apply_orientation(data, order), affine @ nib.orientations.inv_ornt_aff(order, data.shape)


def axial_number(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The number of the axial slice that each voxel lies in, from inferior to superior, [X, Y, Z]."""
    ((axis, sign),) = [(i, sign) for i, (out, sign) in enumerate(nib.io_orientation(affine)) if out == 2]
    numbers = np.indices(shape)[axis]
    return numbers if sign > 0 else shape[axis] - 1 - numbers


@FEW
@hypothesis.given(affine=affines(), order=ORDERS)
def test_slices_and_back_keep_every_voxel_in_its_place(affine, order):
    data, matrix = moved(HEAD, affine, order)
    brain = data > 0
    slices, placement = to_slices(data, brain, matrix, GRID)
    values = np.broadcast_to(slices.number[:, None, None, None], slices.y.shape).astype(np.float32)
    numbers = from_slices(values, placement)
    expected = axial_number(matrix, data.shape)
    kept = brain & np.isin(expected, slices.number)
    np.testing.assert_allclose(numbers[kept], expected[kept], rtol=1e-6)
    assert not numbers[~kept].any()


@FEW
@hypothesis.given(affine=affines(), order=ORDERS)
def test_the_order_on_disk_does_not_matter(affine, order):
    hypothesis.assume(not _is_ambiguous(affine))
    data, matrix = moved(HEAD, affine, order)
    ours, back = to_slices(data, data > 0, matrix, GRID)
    same, _ = to_slices(HEAD, HEAD > 0, affine, GRID)
    np.testing.assert_array_equal(ours.number, same.number)
    np.testing.assert_array_equal(ours.mask, same.mask)
    np.testing.assert_allclose(ours.y, same.y, atol=1e-5)
    returned = from_slices(ours.y, back)
    assert returned.shape == data.shape


def _is_ambiguous(affine: np.ndarray) -> bool:
    """Whether two ways to name the axes are almost equally good: which one is taken is a matter of rounding."""
    cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    totals = sorted(sum(cosines[i, order[i]] for i in range(3)) for order in itertools.permutations(range(3)))
    return totals[-1] - totals[-2] < 0.05


@FEW
@hypothesis.given(affine=affines(), order=ORDERS, paired=st.booleans())
def test_writing_and_reading_give_the_order_on_disk_back(tmp_path, affine, order, paired):
    data, matrix = moved(HEAD, affine, order)
    cls = nib.Nifti1Pair if paired else nib.Nifti1Image
    image = cls(data, matrix)
    image.set_sform(matrix, 2)
    image.set_qform(None, 0)
    path = tmp_path / ("in.hdr" if paired else "in.nii.gz")
    nib.save(image, path)
    volume = nifti.read(path)
    np.testing.assert_array_equal(volume.data, data)
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), data)
    np.testing.assert_array_equal(written.affine, volume.affine)
    np.testing.assert_allclose(written.affine, matrix, rtol=1e-5, atol=1e-5)


# Metrics: what they may not depend on, and where they lie.


@st.composite
def voxels(draw) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, [N] float32, and lesions, [N] bool."""
    count = draw(st.integers(1, 60))
    scores = draw(st.lists(st.integers(-8, 8), min_size=count, max_size=count))
    lesion = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return np.array(scores, np.float32) / 4, np.array(lesion)


def areas(scores: np.ndarray, lesion: np.ndarray) -> tuple[float | None, float | None]:
    ranking = tally.ranking(tally.count(scores, lesion))
    return metrics.auc(ranking), metrics.auprc(ranking)


@FEW
@hypothesis.given(voxels(), st.randoms(use_true_random=False))
def test_the_order_of_voxels_does_not_matter(made, random):
    scores, lesion = made
    order = random.sample(range(len(scores)), len(scores))
    assert areas(scores[order], lesion[order]) == areas(scores, lesion)
    detected = scores > 0
    assert metrics.dice(detected[order], lesion[order]) == metrics.dice(detected, lesion)
    assert metrics.fpr(detected[order], lesion[order]) == metrics.fpr(detected, lesion)


@FEW
@hypothesis.given(voxels(), st.integers(1, 59))
def test_subjects_may_be_tallied_apart_and_in_any_order(made, cut):
    scores, lesion = made
    parts = [tally.count(scores[part], lesion[part]) for part in (slice(cut), slice(cut, None))]
    for order in (parts, parts[::-1]):
        ranking = tally.ranking(tally.merge(order))
        assert (metrics.auc(ranking), metrics.auprc(ranking)) == areas(scores, lesion)


@FEW
@hypothesis.given(voxels(), st.sampled_from([np.exp, np.arctan, np.cbrt, lambda s: 3 * s - 7, lambda s: s**3 + s]))
def test_only_the_order_of_scores_matters(made, transform):
    scores, lesion = made
    assert areas(transform(scores), lesion) == areas(scores, lesion)


@FEW
@hypothesis.given(voxels())
def test_turning_scores_round_turns_the_auc_round(made):
    scores, lesion = made
    area, turned, swapped = (areas(s, w)[0] for s, w in ((scores, lesion), (-scores, lesion), (scores, ~lesion)))
    if area is None:
        assert turned is None
        assert swapped is None
    else:
        assert turned == pytest.approx(1 - area, abs=1e-12)
        assert swapped == pytest.approx(1 - area, abs=1e-12)


@FEW
@hypothesis.given(voxels())
def test_metrics_lie_between_zero_and_one(made):
    scores, lesion = made
    ranking = tally.ranking(tally.count(scores, lesion))
    found = [*areas(scores, lesion), *(metrics.oracle_dice(ranking) or [None])[:1]]
    undefined = metrics.undefined_ranking(ranking)
    assert all((value is None) == bool(undefined) for value in found)
    found += [metrics.dice(scores > 0, lesion), metrics.fpr(scores > 0, lesion)]
    assert all(0 <= value <= 1 for value in found if value is not None)
    if not undefined:  # at the best threshold, and never above it
        dices = [metrics.dice(scores >= threshold, lesion) for threshold in np.unique(scores)]
        assert metrics.oracle_dice(ranking)[0] == pytest.approx(max(dices))


@FEW
@hypothesis.given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_dice_is_symmetric_and_one_only_for_equal_masks(pairs):
    ours, theirs = np.array(pairs).T
    dice = metrics.dice(ours, theirs)
    assert dice == metrics.dice(theirs, ours)
    assert (dice is None) == (not ours.any() and not theirs.any())
    if dice is not None:
        assert (dice == 1) == (ours == theirs).all()
        assert (dice == 0) == (not (ours & theirs).any())
