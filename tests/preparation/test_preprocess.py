"""Slices and the way back: exact geometry, faults in intensities and masks."""

import itertools

import images
import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage

from lgjax.preparation import slices as preparation_slices
from lgjax.preparation.brain import find_brain
from lgjax.preparation.slices import Grid
from lgjax.runtime.errors import InputError
from lgjax.scans import nifti

GRID = Grid(16, 16, 2.0)


def brain_mask(image):
    return find_brain(image).mask


def _oriented(data, affine, permutation, flips):
    """Returns the same scan stored with other voxel axes."""
    orientation = np.array(list(zip(permutation, flips, strict=True)))
    moved = nib.orientations.apply_orientation(data, orientation)
    return moved, affine @ nib.orientations.inv_ornt_aff(orientation, data.shape), orientation


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_all_axis_orders_and_flips_give_the_same_slices_and_maps(permutation):
    data = images.head((20, 23, 13))
    affine = images.affine((1.1, 0.9, 2.5))
    grid = Grid(18, 16, 1.7)
    slices, placement = preparation_slices.to_slices(data, data > 0, affine, grid)
    values = np.random.default_rng(0).normal(size=slices.y.shape).astype(np.float32)
    expected = preparation_slices.from_slices(values, placement)
    for flips in itertools.product((1, -1), repeat=3):
        moved, moved_affine, orientation = _oriented(data, affine, permutation, flips)
        again, back = preparation_slices.to_slices(moved, moved > 0, moved_affine, grid)
        for one, other in zip(slices, again, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (back.mean, back.std) == (placement.mean, placement.std)
        result = preparation_slices.from_slices(values, back)
        assert result.shape == moved.shape
        np.testing.assert_array_equal(result, nib.orientations.apply_orientation(expected, orientation))


@pytest.mark.parametrize("flips", [(1, 1, 1), (1, 1, -1), (-1, 1, 1)])
@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1)])
def test_every_third_slice_is_what_it_is_among_all(permutation, flips):
    data, step = images.head((20, 23, 14)), 3
    moved, affine, orientation = _oriented(data, images.affine((1.1, 0.9, 2.5)), permutation, flips)
    slices, placement = preparation_slices.to_slices(moved, moved > 0, affine, Grid(18, 16, 1.7))
    values = np.random.default_rng(0).normal(size=slices.y.shape).astype(np.float32)
    whole = preparation_slices.from_slices(values, placement)
    kept, thin = preparation_slices.every(slices, placement, step)
    chosen = slices.number % step == 0
    np.testing.assert_array_equal(kept.number, [i for i in slices.number if i % 3 == 0])
    np.testing.assert_array_equal(kept.y, slices.y[chosen])
    result = preparation_slices.from_slices(values[chosen], thin)
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), orientation)
    axial = [nib.orientations.apply_orientation(part, back) for part in (result, whole, thin.brain, moved > 0)]
    for k in range(data.shape[2]):
        found, expected, brain, everywhere = (part[..., k] for part in axial)
        np.testing.assert_array_equal(found, expected if k % step == 0 else 0)
        np.testing.assert_array_equal(brain, everywhere if k % step == 0 else False)


def test_the_view_is_radiological():
    data = images.head()
    data[12:, :, :][data[12:, :, :] > 0] += 500  # in RAS, x grows towards the right
    slices, _ = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(24, 24, 1.0))
    middle = slices.y[len(slices.y) // 2, 12, :, 0]
    brain = middle[middle > preparation_slices.BACKGROUND]
    assert brain[0] > brain[-1]  # column 0 is the patient's right: +x in RAS
    data = images.head()
    data[:, 16:, :][data[:, 16:, :] > 0] += 500
    slices, _ = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(24, 24, 1.0))
    middle = slices.y[len(slices.y) // 2, :, 12, 0]
    brain = middle[middle > preparation_slices.BACKGROUND]
    assert brain[0] > brain[-1]  # row 0 is anterior
    assert (np.diff(slices.number) > 0).all()


def test_native_resolution_is_the_identity():
    data = images.head((21, 23, 13))
    brain = data > 0
    slices, placement = preparation_slices.to_slices(data, brain, images.affine(), Grid(32, 32, 1.0))
    assert slices.mask.sum() == sum(plane.sum() for plane in np.moveaxis(brain, 2, 0) if plane.sum() >= 16)
    back = preparation_slices.from_slices(slices.y * placement.std + placement.mean, placement)
    kept = brain.copy()
    kept[:, :, [k for k in range(13) if k not in slices.number]] = False
    np.testing.assert_allclose(back[kept], data[kept], rtol=1e-6)
    assert not back[~kept].any()


def test_values_are_z_scored_at_native_resolution():
    data = images.head()
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), GRID)
    values = data[data > 0].astype(np.float64)
    np.testing.assert_allclose([placement.mean, placement.std], [values.mean(), values.std()])
    assert (slices.y[slices.mask == 0] == preparation_slices.BACKGROUND).all()
    assert set(np.unique(slices.mask)) == {0, 1}
    scaled, _ = preparation_slices.to_slices(data * 3 + 7, data > 0, images.affine(), GRID)
    np.testing.assert_allclose(scaled.y, slices.y, atol=1e-5)


@pytest.mark.parametrize("spacing", [0.6, 1.0, 1.3, 2.0])
def test_a_constant_comes_back_as_itself(spacing):
    data = images.head()
    grid = Grid(int(26 / spacing), int(24 / spacing), spacing)
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), grid)
    back = preparation_slices.from_slices(np.where(slices.mask > 0, 0.75, 99), placement)  # 99 must not bleed in
    kept = np.isin(np.arange(16), slices.number) & (data > 0)
    assert (back[kept] == 0.75).all()
    assert not back[~kept].any()


@pytest.mark.parametrize(("spacing", "tolerance"), [(0.7, 5e-5), (1.5, 0.2)])
def test_a_ramp_comes_back_closely(spacing, tolerance):
    data = images.head((40, 48, 8))
    brain = data > 0
    ramp = np.broadcast_to(np.arange(40.0)[:, None, None] + 2 * np.arange(48.0)[:, None] + 0 * np.arange(8), data.shape)
    size = int(52 / spacing)
    slices, placement = preparation_slices.to_slices(ramp, brain, images.affine(), Grid(size, size, spacing))
    back = preparation_slices.from_slices(slices.y * placement.std + placement.mean, placement)
    inner = scipy.ndimage.binary_erosion(brain, np.ones((5, 5, 1)))
    inner &= np.isin(np.arange(8), slices.number)
    np.testing.assert_allclose(back[inner], ramp[inner], atol=tolerance)
    assert np.abs(back - ramp)[brain & np.isin(np.arange(8), slices.number)].max() < 4 * spacing


def test_enlarging_equals_scipys_linear_interpolation():
    data = images.head((20, 24, 8))
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(60, 60, 0.45))
    plane = np.where(data > 0, (data.astype(np.float64) - placement.mean) / placement.std, 0)[
        ::-1, ::-1, slices.number[2]
    ].T
    where = np.meshgrid(placement.rows.centres, placement.columns.centres, indexing="ij")
    total, weight = (
        scipy.ndimage.map_coordinates(p, where, order=1, mode="grid-constant")
        for p in (plane, (plane != 0).astype(np.float64))
    )
    inside = slices.mask[2, :, :, 0] > 0
    np.testing.assert_array_equal(inside, weight >= 0.5 - 1e-9)
    np.testing.assert_allclose(slices.y[2, inside, 0], (total / np.where(inside, weight, 1))[inside], atol=1e-5)


def integrated(plane: np.ndarray, rows, columns) -> np.ndarray:
    """The mean of a plane of square voxels over each pixel, from the integral along both axes."""
    for axis, (pixels, size) in enumerate(zip((rows, columns), plane.shape, strict=True)):
        below = np.insert(np.cumsum(plane, axis), 0, 0, axis)
        edges = pixels.first + pixels.step * (np.arange(pixels.size + 1) - 0.5)
        upto = np.apply_along_axis(lambda f, e=edges, n=size: np.interp(e, np.arange(n + 1) - 0.5, f), axis, below)
        plane = np.diff(upto, axis=axis) / pixels.step
    return plane


@pytest.mark.parametrize("step", [2.0, 2.4, 3.3])
def test_shrinking_averages_what_a_pixel_covers(step):
    """Else fine structure turns into coarse structure that is not there (aliasing)."""
    data = images.head((40, 44, 5))
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(24, 24, step))
    brain = (data > 0)[::-1, ::-1].transpose(2, 1, 0)[slices.number[0]].astype(float)
    z = brain * ((data[::-1, ::-1].transpose(2, 1, 0)[slices.number[0]] - placement.mean) / placement.std)
    weight, total = (integrated(part, placement.rows, placement.columns) for part in (brain, z))
    inside = weight >= 0.5 - 1e-9
    np.testing.assert_array_equal(slices.mask[0, :, :, 0], inside)
    np.testing.assert_allclose(slices.y[0, inside, 0], total[inside] / weight[inside], atol=1e-5)


@pytest.mark.parametrize("spacing", [0.45, 1.7])
def test_the_way_back_is_scipys_linear_interpolation_between_pixels_in_the_mask(spacing):
    data = images.head((40, 44, 5))
    size = int(50 / spacing)
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(size, size, spacing))
    values = np.random.default_rng(0).normal(size=slices.y.shape).astype(np.float32)
    back = preparation_slices.from_slices(values, placement)[::-1, ::-1].transpose(2, 1, 0)[slices.number[0]]
    axes = (placement.rows, 44), (placement.columns, 40)
    where = np.meshgrid(*((np.arange(n) - axis.first) / axis.step for axis, n in axes), indexing="ij")
    mask = slices.mask[0, :, :, 0].astype(float)
    weight, total = (
        scipy.ndimage.map_coordinates(part, where, order=1, mode="grid-constant")
        for part in (mask, mask * values[0, :, :, 0])
    )
    inside = (data > 0)[::-1, ::-1].transpose(2, 1, 0)[slices.number[0]] & (weight > 1e-3)
    assert inside.sum() > 500
    np.testing.assert_allclose(back[inside], total[inside] / weight[inside], atol=1e-4)


def test_a_large_brain_is_shrunk_to_fit_with_a_margin():
    data = images.head((60, 70, 6))
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(32, 32, 1.0))
    assert placement.rows.step == placement.columns.step > 1.5
    for axis in (1, 2):
        edge = np.moveaxis(slices.mask, axis, 0)[[0, -1]]
        assert not edge.any()


def test_thick_oblique_and_sheared_voxels_work():
    affine = images.affine((0.9, 0.9, 5.0))
    affine[:3, :3] = affine[:3, :3] @ np.array([[1, 0.1, 0], [0, 1, 0.2], [0, 0, 1.0]])
    turn = np.deg2rad(20)
    affine[:3, :3] = (
        np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) @ affine[:3, :3]
    )
    data = images.head((20, 24, 6))
    slices, placement = preparation_slices.to_slices(data, data > 0, affine, GRID)
    assert 0 < len(slices.number) <= 6
    back = preparation_slices.from_slices(slices.y, placement)
    assert back.shape == data.shape
    assert np.isfinite(back).all()


def test_slices_without_brain_are_skipped_and_map_to_zero():
    data = images.head()
    data[:, :, 7] = 0
    data[10, 12, 7] = 50  # one voxel is not enough
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), GRID)
    assert 7 not in slices.number
    back = preparation_slices.from_slices(np.ones_like(slices.y), placement)
    assert not back[:, :, 7].any()
    assert np.isfinite(back).all()


def test_no_slice_at_all_gives_an_empty_map():
    data = np.zeros((20, 20, 20), np.float32)
    data[9:11, 9:11] = np.arange(20)  # a thin rod
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), GRID)
    assert slices.y.shape == (0, 16, 16, 1)
    assert not preparation_slices.from_slices(slices.y, placement).any()


def test_a_thin_spur_takes_the_nearest_value():
    data = images.head((30, 30, 3))
    data[2:9, 15, 1] = 80  # less than half a pixel wide: outside the slices' mask, inside the brain
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(12, 12, 4.0))
    back = preparation_slices.from_slices(np.where(slices.mask > 0, 2.0, np.nan), placement)
    assert (back[2:9, 15, 1] == 2).all()


@pytest.mark.parametrize("spacing", [0.7, 1.9, 4.0])
def test_only_the_box_of_the_brain_counts_on_the_way_back(spacing):
    """As it is the whole plane where a slice that was left out has brain in its corners."""
    rng = np.random.default_rng(0)
    data = images.head((40, 44, 5)) * (rng.random((40, 44, 5)) > 0.4)  # full of holes
    data[20, :, 2] = 80
    data[:, :, 4] = 0
    slices, placement = preparation_slices.to_slices(data, data > 0, images.affine(), Grid(64, 64, spacing))
    values = rng.normal(size=slices.y.shape).astype(np.float32)
    brain = placement.brain.copy()
    brain[[0, -1], [0, -1], 4] = True
    wide, narrow = (preparation_slices.from_slices(values, placement._replace(brain=b)) for b in (brain, data > 0))
    assert narrow.any()
    np.testing.assert_array_equal(wide, narrow)


def test_few_bad_voxels_are_filled_and_counted():
    data = images.head()
    brain = data > 0
    data[10, 12, 8], data[9, 12, 5], data[0, 0, 0] = np.nan, np.inf, np.nan
    brain[10, 12, 8] = brain[9, 12, 5] = True
    filled, n = preparation_slices.clean(images.volume(data), brain)
    assert n == 2
    assert np.isfinite(filled).all()
    assert filled[0, 0, 0] == 0
    assert filled[10, 12, 8] == np.nanmedian(data[9:12, 11:14, 7:10])
    np.testing.assert_array_equal(filled[np.isfinite(data)], data[np.isfinite(data)])
    derived = brain_mask(images.volume(data))
    assert derived[10, 12, 8]
    assert derived[9, 12, 5]
    assert not derived[0, 0, 0]


def test_many_bad_voxels_are_rejected():
    data = images.head()
    data[8:12, 10:14, 6:10] = np.nan
    image = images.volume(data)
    with pytest.raises(InputError, match="NaN, infinite or beyond"):
        preparation_slices.clean(image, brain_mask(image))


@pytest.mark.parametrize("value", [0, 7, np.nan, np.inf, -3.5])
def test_constant_scans_are_rejected(value):
    image = images.volume(np.full((20, 20, 20), value))
    with pytest.raises(InputError):
        brain_mask(image)
    brain = images.head((20, 20, 20)) > 0
    with pytest.raises(InputError):
        preparation_slices.clean(image, brain)


@pytest.mark.parametrize("change", ["negative", "z-score", "shift", "nan background", "overshoot", "huge"])
def test_backgrounds_of_skull_stripped_scans(change):
    data = images.head((30, 30, 20))
    brain = data > 0
    if change == "negative":
        data = -data
    elif change == "z-score":
        data = np.where(brain, (data - 100) / 20 + 0.001, 0)
    elif change == "shift":
        data -= 1000
    elif change == "nan background":
        data[~brain] = np.nan
    elif change == "overshoot":
        data[1, 1, 1:8] = -3
    else:
        data *= 1e30
    image = images.volume(data)
    found = brain_mask(image)
    np.testing.assert_array_equal(found, brain)
    filled, n = preparation_slices.clean(image, found)
    slices, _ = preparation_slices.to_slices(filled, found, image.affine, GRID)
    assert n == 0
    assert np.isfinite(slices.y).all()


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
class TestRealScans:
    def test_a_real_round_trip(self):
        image = nifti.read(min((images.REAL / "brats18").glob("*/*_t2.nii.gz")))
        brain = brain_mask(image)
        data, _ = preparation_slices.clean(image, brain)
        slices, placement = preparation_slices.to_slices(data, brain, image.affine, Grid(128, 128, 1.5))
        back = preparation_slices.from_slices(slices.y, placement)
        z = (data - placement.mean) / placement.std
        kept = brain & np.isin(np.arange(155), slices.number)
        assert np.corrcoef(back[kept], z[kept])[0, 1] > 0.97
        assert abs(back[kept].mean() - z[kept].mean()) < 0.01
        assert (brain & ~kept).sum() < 200
