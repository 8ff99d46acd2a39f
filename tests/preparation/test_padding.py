"""Constant blocks at the border are no brain, whatever fills them; a brain that touches the border is whole."""

import images
import numpy as np
import pytest
from scipy import ndimage

from lgjax.preparation import pipeline
from lgjax.preparation.brain import find_brain
from lgjax.preparation.recipe import bare
from lgjax.preparation.slices import Grid
from lgjax.runtime.errors import InputError
from lgjax.scans import sources

SHAPE = (40, 44, 24)
ALL = np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:], np.s_[:, :, :2], np.s_[:, :, -2:]


def head():
    return images.head(SHAPE)


def found(data, matrix=None):
    return find_brain(images.volume(data, matrix))


@pytest.mark.parametrize("value", [150.5, -1000, 0.1, np.nan, np.inf, 100.5], ids=str)
@pytest.mark.parametrize(
    "where",
    [
        [np.s_[:3]],
        [np.s_[-1:]],
        [np.s_[:, :2], np.s_[-3:]],
        [np.s_[:3], np.s_[-3:]],
        [np.s_[:, :, :2]],
        [np.s_[:2, 8:36]],
        [np.s_[:5, :5, :5]],
        ALL[:4],
        ALL,
    ],
    ids=str,
)
def test_a_constant_block_at_the_border_is_no_brain(where, value):
    data = head()
    for part in where:
        data[part] = value
    brain = found(data)
    padded = np.zeros(SHAPE, bool)
    for part in where:
        padded[part] = True
    np.testing.assert_array_equal(brain.mask, (head() > 0) & ~padded)
    assert (
        brain.note == f"{padded.sum() / 1000:.0f} ml of the constant value {value:g} at the border count as background"
    )


def test_a_block_may_cut_the_brain_and_two_values_may_fill_two_blocks():
    data = head()
    data[:12], data[-2:] = 150.5, 90
    brain = found(data)
    np.testing.assert_array_equal(brain.mask, (head() > 0) & (np.arange(40) >= 12)[:, None, None])
    assert "150.5, 90" in brain.note


def test_a_value_that_a_resampler_rounds_is_one_value():
    data = head()
    data[:3] = 150 * (1 + 1e-7 * np.random.default_rng(0).integers(-3, 4, data[:3].shape))
    assert len(np.unique(data[:3])) > 3
    np.testing.assert_array_equal(found(data).mask, head() > 0)


@pytest.mark.parametrize("mode", ["constant", "grid-constant"])  # the second mixes the wedge with what it meets
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("value", [150, -40, 900])
def test_the_wedges_of_a_turned_scan_are_no_brain(value, order, mode):
    """The oracle is the same turn with a wedge of 0."""
    angle, centre = np.deg2rad(12), (np.array(SHAPE) - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    def turned(fill):
        options = {"order": order, "mode": mode, "cval": fill}
        return ndimage.affine_transform(head(), turn, centre - turn @ centre, **options)

    brain = found(turned(value))
    np.testing.assert_array_equal(brain.mask, found(turned(0)).mask)
    assert f"{value}" in brain.note
    assert not found(turned(0)).note


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        np.round,
        lambda data: np.where(data > 0, 25 + 25 * np.round(data / 25), 0),  # a few grey levels
        lambda data: np.where(data > 0, np.clip(data, 80, 110), 0),  # both ends clipped
        lambda data: -data,
        lambda data: np.where(data > 0, data, np.nan),
    ],
    ids=["plain", "whole", "grey levels", "clipped", "negative", "nan around"],
)
@pytest.mark.parametrize("cut", [np.s_[6:-6, 5:-4], np.s_[8:], np.s_[:, 10:, :], np.s_[:, :, 6:-6], np.s_[4:30, :, 5:]])
def test_a_brain_that_touches_the_border_stays_whole(change, cut):
    data = change(head())[cut]
    brain = found(data)
    np.testing.assert_array_equal(brain.mask, (head() > 0)[cut])
    assert brain.note == ""


def test_padding_does_not_make_a_brain_of_a_head():
    noise = np.random.default_rng(0).rayleigh(5, SHAPE).round()
    data = head() + noise
    data[:8] = 0
    with pytest.raises(InputError, match="skull"):
        found(data)
    with pytest.raises(InputError, match="constant blocks"):
        found(np.where(np.arange(40)[:, None, None] < 12, 150, np.zeros(SHAPE)))


def test_the_record_says_so(tmp_path, caplog):
    data = head()
    data[:3] = 150
    (subject,) = sources.find(str(images.save(tmp_path / "padded.nii.gz", data)))
    prepared = pipeline.prepare(subject, bare(Grid(32, 32, 1.5)))
    assert prepared.image.warnings == ("3 ml of the constant value 150 at the border count as background",)
    assert "sub-padded: 3 ml of the constant value 150" in caplog.text
