"""Volumes that a page embeds: where they lie, what they keep, and that they say nothing else."""

import gzip

import hypothesis
import hypothesis.extra.numpy
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies

from lgjax.report import volumes

SHEARED = np.array([[2.0, 0.3, -0.2, 11.0], [-0.4, 1.5, 0.6, -7.0], [0.1, -0.5, 3.0, 5.0], [0, 0, 0, 1]])


def test_a_part_lies_where_it_lay_in_the_whole():
    inside = np.zeros((20, 18, 9), bool)
    inside[8:12, 5:7, 4] = True
    part = volumes.box(inside)
    assert part == (slice(5, 15), slice(2, 10), slice(1, 8))
    data = np.arange(inside.size, dtype=np.int16).reshape(inside.shape)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(volumes.nifti(data[part], volumes.shifted(SHEARED, part))))
    place = np.array([9, 6, 4])
    (found,) = np.argwhere(np.asarray(image.dataobj) == data[tuple(place)])
    np.testing.assert_allclose(
        nib.affines.apply_affine(image.affine, found), nib.affines.apply_affine(SHEARED, place), atol=1e-5
    )


def test_all_is_kept_where_there_is_no_brain_or_no_room_for_a_margin():
    assert volumes.box(np.zeros((4, 5, 6), bool)) == (slice(0, 4), slice(0, 5), slice(0, 6))
    whole = np.ones((4, 5, 6), bool)
    assert whole[volumes.box(whole)].shape == whole.shape


def test_the_header_holds_geometry_and_scaling_and_nothing_else():
    file = gzip.decompress(volumes.nifti(np.zeros((3, 4, 5), np.uint8), SHEARED, 0.5, -2.0))
    header = nib.Nifti1Header(file[:348])
    assert {header[name].item() for name in ("descrip", "aux_file", "intent_name", "db_name")} == {b""}
    assert (header["qform_code"], header["sform_code"], header.extensions) == (0, 1, [])
    np.testing.assert_array_equal(nib.Nifti1Image.from_bytes(file).get_fdata(), -2)
    assert gzip.decompress(volumes.nifti(np.zeros((3, 4, 5), np.uint8), SHEARED))[348:352] == bytes(4)
    assert volumes.nifti(np.ones((2, 2, 2), np.uint8), SHEARED)[4:8] == bytes(4)  # no date: equal data, equal bytes


numbers = hypothesis.extra.numpy.arrays(
    np.float32, (4, 3, 2), elements=strategies.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


@hypothesis.given(numbers)
def test_rounding_moves_no_value_by_more_than_half_a_step(data):
    found = volumes.rounded(data)
    step = (float(data.max()) - float(data.min())) / volumes.LEVELS
    back = found.levels * found.slope + found.intercept
    assert np.abs(back - data).max() <= 0.501 * step + 1e-3 * np.abs(data).max() / volumes.LEVELS


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("bright", [1e4, 3e6, -3e6])
def test_a_few_extreme_voxels_cost_the_others_no_levels(bright, offset):
    """They keep their values as far as there are levels."""
    usual = np.random.default_rng(0).uniform(0, 1000, (30, 20, 10))
    data = (usual + offset).astype(np.float32)
    data[3, 4:7, 5] = bright + offset
    found = volumes.rounded(data)
    back = found.levels * found.slope + found.intercept
    others = np.abs(data - offset) <= 1000
    assert np.abs(back - data)[others].max() <= 0.6 * 1000 / volumes.LEVELS
    if bright == 1e4:
        np.testing.assert_allclose(back[3, 4:7, 5], data[3, 4:7, 5], atol=1)
    else:
        assert np.abs(back[3, 4:7, 5] - offset).min() > 10_000  # still far beyond all others


def test_a_few_extreme_voxels_of_a_map_do_not_hide_its_levels():
    data = np.random.default_rng(0).uniform(0, 4, (30, 20, 10)).astype(np.float32)
    data[3, 4:7, 5] = 5e5
    found = volumes.rounded_above(data, 2.0)
    back = found.levels * found.slope + found.intercept
    np.testing.assert_array_equal(back > 2, data > 2)
    assert np.abs(back - data)[data < 5].max() <= 1.1 * 4 / volumes.LEVELS
    assert back[3, 4:7, 5].min() > 50


@hypothesis.given(numbers, strategies.floats(0.015625, 9000, width=32))
def test_the_rounded_map_cut_at_its_threshold_is_the_mask(data, threshold):
    """Also after a file held the levels, and a reader multiplied them out."""
    data = np.where(np.abs(data) < 1, 0, data)
    level = np.float32(threshold)
    data[0, :, 0] = np.nextafter(level, np.float32(1e5)), level, np.nextafter(level, np.float32(-1e5))
    found = volumes.rounded_above(data, threshold)
    assert found.intercept == threshold
    file = volumes.nifti(found.levels, np.eye(4), found.slope, found.intercept)
    read = nib.Nifti1Image.from_bytes(gzip.decompress(file)).get_fdata()
    np.testing.assert_array_equal(read > threshold, data > threshold)
    if threshold > 1:
        assert np.abs(read[data == 0]).max(initial=0) <= 1e-5 * threshold


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e-9])
def test_a_threshold_of_next_to_nothing_overflows_nothing(threshold):
    data = np.linspace(-500, 500, 24, dtype=np.float32).reshape(4, 3, 2)
    found = volumes.rounded_above(data, threshold)
    back = found.levels * found.slope + found.intercept
    np.testing.assert_allclose(back, data, atol=1)
    np.testing.assert_array_equal(back > threshold, data > threshold)


def test_a_flat_volume_stays_flat():
    found = volumes.rounded(np.full((2, 2, 2), 7, np.float32))
    np.testing.assert_array_equal(found.levels * found.slope + found.intercept, 7)


def test_the_border_of_a_mask_is_what_has_a_face_to_the_outside():
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    found = volumes.bordered(mask)
    assert (found[2, 2, 2], found[1, 2, 2], found[0, 0, 0]) == (1, 2, 0)
    assert (found == 2).sum() == 26
    assert volumes.bordered(np.ones((2, 2, 2), bool)).min() == 2  # the volume ends there
