"""One path from a raw scan to slices and back to its own intensities, whatever the preparation."""

import dataclasses
import itertools
import re

import images
import nibabel as nib
import numpy as np
import pytest

from lgjax.preparation import histogram, pipeline, recipe, slices
from lgjax.preparation.bias import BiasField
from lgjax.preparation.histogram import Histogram
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Grid
from lgjax.preparation.splits import splits_of
from lgjax.runtime import files
from lgjax.runtime.errors import InputError
from lgjax.scans import orientation, sources

MARKS = Histogram((1.0, 25.0, 50.0, 75.0, 99.0), (0.0, 30.0, 55.0, 80.0, 100.0))
FULL = Recipe(Grid(16, 16, 2.0), BiasField(4.0, 3, 10, 1e-3), MARKS, "none")
BARE = Recipe(Grid(16, 16, 2.0), None, None, "none")
PARTS = [BARE, FULL, FULL._replace(histogram=None), FULL._replace(bias_field=None)]
SATURATED = [part._replace(saturation=(-1.0, 1.5)) for part in (BARE, FULL)]


def bent() -> np.ndarray:
    """A head of whole numbers under a smooth field, [X, Y, Z]."""
    data = images.head()
    ramp = np.linspace(0.7, 1.3, data.shape[0])[:, None, None]
    return np.where(data > 0, (3 * data * ramp).round() + 50, 0).astype(np.float32)


def one(tmp_path, data, matrix=None, name="x.nii.gz") -> sources.Subject:
    (subject,) = sources.find(str(images.save(tmp_path / name, data, matrix)))
    return subject


WRONG = {
    "away": (images.head() > 0, images.affine(origin=(-9, -12, -8))),
    "empty": (images.head() * 0, None),
    "full": (images.head() * 0 + 1, None),
    "soft": (images.head(), None),
    "small": (images.head()[1:] > 0, None),
    "negative": (images.head() * np.float32(-1), None),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mask_that_does_not_fit_is_passed_over_where_it_was_found_and_refused_where_it_was_given(
    tmp_path, caplog, wrong
):
    data, matrix = WRONG[wrong]
    mask = images.save(tmp_path / "x_mask.nii.gz", data.astype(np.float32), matrix)
    plain = pipeline.correct(one(tmp_path, images.head(), name="plain.nii.gz"), BARE)
    found = pipeline.correct(one(tmp_path, images.head()), BARE)
    np.testing.assert_array_equal(found.brain.mask, plain.brain.mask)
    assert found.brain.origin == "background"
    (note,) = found.image.warnings
    assert note.startswith("the mask x_mask.nii.gz, found by its name, is passed over: the mask ")
    assert str(tmp_path) not in note
    assert note in caplog.text
    (given,) = sources.find(str(tmp_path / "x.nii.gz"), mask=str(mask))
    with pytest.raises(InputError, match="x_mask"):
        pipeline.correct(given, BARE)


def test_the_mask_of_a_lesion_that_is_named_like_that_of_a_brain_is_passed_over_and_used_where_it_was_given(tmp_path):
    matrix = images.affine((5, 5, 5))
    mask = images.save(tmp_path / "x_mask.nii.gz", (images.head() > 130).astype(np.uint8), matrix)
    found = pipeline.correct(one(tmp_path, images.head(), matrix), BARE)
    assert found.brain.origin == "background"
    (given,) = sources.find(str(tmp_path / "x.nii.gz"), mask=str(mask))
    used = pipeline.correct(given, BARE)
    np.testing.assert_array_equal(used.brain.mask, images.head() > 130)
    for note, start in (
        (found.image.warnings[0], "the mask x_mask.nii.gz, found by"),
        (used.image.warnings[0], "the mask"),
    ):
        assert re.fullmatch(rf"{start}.* holds [\d.]+ of the 220 ml imaged: a lesion's mask, it seems", note)


@pytest.mark.parametrize("slices_of_it", [4, 16])
def test_a_mask_of_too_little_of_a_head_is_passed_over(tmp_path, slices_of_it):
    """A brain of 65 ml in an image of 207 ml without background."""
    matrix = images.affine((3, 3, 3))
    inside = (images.head() > 0).astype(np.uint8)
    inside[:, :, slices_of_it:] = 0
    images.save(tmp_path / "x_mask.nii.gz", inside, matrix)
    noise = np.random.default_rng(0).rayleigh(5, inside.shape).astype(np.float32)
    subject = one(tmp_path, images.head() + noise, matrix)
    if slices_of_it == 16:
        assert pipeline.correct(subject, BARE).brain.origin == "given"
        return
    with pytest.raises(InputError, match=r"x_mask.* of the 207 ml imaged: a lesion's mask, it seems"):
        pipeline.correct(subject, BARE)


def test_a_head_whose_mask_was_passed_over_is_refused_with_both_reasons(tmp_path):
    images.save(tmp_path / "x_mask.nii.gz", images.head() * 0)
    head = images.head() + np.random.default_rng(0).rayleigh(5, images.head().shape).astype(np.float32)
    with pytest.raises(InputError, match=r"still has its skull.*x_mask\.nii\.gz, found by its name, is passed over"):
        pipeline.correct(one(tmp_path, head), BARE)


def test_all_48_orientations_give_the_same_slices_and_the_same_map(tmp_path):
    """With everything on: N4, matching, z-score, resampling. Bit for bit."""
    data, settings = bent(), FULL._replace(bias_field=BiasField(4.0, 1, 2, 1e-3))  # a short N4
    first = pipeline.prepare(one(tmp_path, data), settings)
    assert first.field is not None
    assert first.transfer is not None
    change = np.where(first.slices.mask > 0, first.slices.y**2, 0).astype(np.float32)
    expected = slices.from_slices(change, first.placement)
    for number, (permutation, flips) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    ):
        order = np.array(list(zip(permutation, flips, strict=True)))
        matrix = images.affine() @ nib.orientations.inv_ornt_aff(order, data.shape)
        moved = nib.orientations.apply_orientation(data, order)
        again = pipeline.prepare(one(tmp_path, moved, matrix, f"{number}.nii"), settings)
        np.testing.assert_array_equal(again.slices.y, first.slices.y)
        np.testing.assert_array_equal(again.slices.number, first.slices.number)
        back = slices.from_slices(change, again.placement)
        np.testing.assert_array_equal(back, nib.orientations.apply_orientation(expected, order))
        restored = pipeline.restored(again, back)
        np.testing.assert_array_equal(
            restored, nib.orientations.apply_orientation(pipeline.restored(first, expected), order)
        )


@pytest.mark.parametrize("settings", [*PARTS, *SATURATED])
def test_no_change_restores_the_scan_to_the_bit(tmp_path, settings):
    prepared = pipeline.prepare(one(tmp_path, bent()), settings)
    assert (prepared.field is not None) == (settings.bias_field is not None)
    assert (prepared.transfer is not None) == (settings.histogram is not None)
    still = np.zeros(prepared.image.data.shape, np.float32)
    np.testing.assert_array_equal(pipeline.restored(prepared, still), bent())


@pytest.mark.parametrize("settings", PARTS)
def test_a_restored_scan_prepared_again_is_the_restoration(tmp_path, settings):
    """In the scan's own intensities, the restoration is what the same field and matching turn into X = Y - change."""
    prepared = pipeline.prepare(one(tmp_path, bent()), settings)
    brain, placement = prepared.placement.brain, prepared.placement
    change = np.where(brain, 0.3, 0).astype(np.float32)
    change[:, ::3] *= -1

    def z(data):
        values = data if prepared.field is None else data / prepared.field
        if prepared.transfer is not None:
            values = histogram.apply(prepared.transfer, values)
        return (values.astype(np.float64) - placement.mean) / placement.std

    result = z(pipeline.restored(prepared, change))
    expected = z(prepared.image.data) - change
    if prepared.transfer is not None:  # the map is constant beyond its last knots
        ends = (prepared.transfer.target[[0, -1]] - placement.mean) / placement.std
        expected = np.clip(expected, *ends)
    np.testing.assert_allclose(result[brain], expected[brain], atol=2e-3)
    outside = ~brain
    np.testing.assert_array_equal(pipeline.restored(prepared, change)[outside], bent()[outside])


@pytest.mark.parametrize("settings", SATURATED)
def test_saturated_slices_are_clipped_whole_and_everything_else_is_as_without(tmp_path, settings):
    subject = one(tmp_path, bent())
    plain = pipeline.prepare(subject, settings._replace(saturation=None))
    found = pipeline.prepare(subject, settings)
    low, high = settings.saturation
    assert plain.slices.y.max() > high
    expected = np.minimum(np.maximum(plain.slices.y, np.float32(low)), np.float32(high))
    np.testing.assert_array_equal(found.slices.y, expected)
    assert (found.slices.y[found.slices.mask == 0] == low).all()  # the background too
    assert found.slices.y.dtype == np.float32
    assert (found.placement.mean, found.placement.std) == (plain.placement.mean, plain.placement.std)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_saturation_clipped_is_restored_in_proportion(tmp_path, share):
    """X = (1 - share) c(Y) at every voxel is (1 - share) Y in the scan: a half restored lesion lies half way."""
    prepared = pipeline.prepare(one(tmp_path, bent()), SATURATED[0])
    brain, placement = prepared.placement.brain, prepared.placement
    z = (prepared.image.data.astype(np.float64) - placement.mean) / placement.std
    assert ((z > 1.5) & brain).any()
    assert ((z < -1) & brain).any()
    change = np.where(brain, share * np.clip(z, -1, 1.5), 0).astype(np.float32)
    restored = pipeline.restored(prepared, change)
    expected = placement.mean + (1 - share) * z * placement.std
    np.testing.assert_allclose(restored[brain], expected[brain], rtol=1e-4)
    np.testing.assert_array_equal(restored[~brain], bent()[~brain])


def test_the_prepared_brain_has_the_histogram_of_the_reference(tmp_path):
    prepared = pipeline.prepare(one(tmp_path, bent()), FULL._replace(bias_field=None))
    matched = histogram.apply(prepared.transfer, prepared.image.data[prepared.placement.brain])
    np.testing.assert_allclose(histogram.landmarks(matched, MARKS.percentiles), MARKS.values, atol=1)
    assert prepared.placement.mean == pytest.approx(matched.mean(dtype=np.float64), rel=1e-6)


def test_a_scan_of_nearly_one_intensity_cannot_be_matched(tmp_path):
    data = np.where(images.head() > 0, 100, 0).astype(np.float32)
    data[10, 12, 3:13] = range(85, 95)  # more values than labels have
    with pytest.raises(InputError, match="one intensity"):
        pipeline.prepare(one(tmp_path, data), FULL)


def test_negative_intensities_are_prepared_without_a_field_and_it_is_said(tmp_path):
    data = np.where(bent() > 0, (bent() - 350) / 50 + 0.001, 0).astype(np.float32)
    prepared = pipeline.prepare(one(tmp_path, data), FULL)
    assert prepared.field is None
    assert any("no bias field" in warning for warning in prepared.image.warnings)


def test_what_is_doubtful_about_the_files_of_a_scan_is_told_once(tmp_path, caplog):
    """Of the scan, whose header contradicts itself, of its mask, and of the field; preparing again tells it no more."""
    data = np.where(bent() > 0, (bent() - 350) / 50 + 0.001, 0).astype(np.float32)
    images.patch(images.save(tmp_path / "raw.nii", data), tmp_path / "x.nii", qoffset_x=20.0)
    mask = images.save(tmp_path / "raw_mask.nii", (data != 0).astype(np.uint8))
    images.patch(mask, tmp_path / "x_mask.nii", scl_slope=np.nan, scl_inter=np.nan)
    (raw,) = sources.find(str(tmp_path / "x.nii"), mask=str(tmp_path / "x_mask.nii"))
    found = pipeline.prepare(raw, FULL)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"sub-x: {warning}" for warning in found.image.warnings]
    for text in ("qform and sform disagree by up to 30 mm", "brain mask: slope and intercept are NaN", "no bias field"):
        assert sum(text in line for line in told) == 1
    caplog.clear()
    done = dataclasses.replace(raw, bias_field=recipe.bias_json(FULL), mask=None, image=lambda: found.image)
    assert found.image.warnings == pipeline.correct(done, FULL).image.warnings
    assert not caplog.records


def test_a_corrected_scan_is_not_corrected_twice(tmp_path):
    raw = one(tmp_path, bent())
    done = dataclasses.replace(raw, bias_field=recipe.bias_json(FULL))
    assert pipeline.prepare(done, FULL).field is None
    other = FULL._replace(bias_field=BiasField(8.0, 3, 10, 1e-3))
    with pytest.raises(InputError, match="bias field settings"):
        pipeline.prepare(done, other)


def test_recipes_round_trip_and_tell_settings_apart(tmp_path):
    everything = [*PARTS, *SATURATED]
    for settings in everything:
        recipe.write(tmp_path / "r.json", settings)
        again = recipe.read(tmp_path / "r.json")
        assert again == settings
        assert again.digest == settings.digest
    assert len({settings.digest for settings in everything}) == len(everything)
    assert "saturated at -1 and 1.5 standard deviations" in SATURATED[0].describe()
    assert "saturated" not in BARE.describe()
    for damage in ("", "[]", "{}", (tmp_path / "r.json").read_text().replace('"format": 1', '"format": 2')):
        (tmp_path / "r.json").write_text(damage)
        with pytest.raises(InputError, match=r"r\.json: cannot be read"):
            recipe.read(tmp_path / "r.json")
    with pytest.raises(InputError, match="is not there"):
        recipe.read(tmp_path / "absent.json")


def test_a_recipe_of_before_saturation_keeps_its_digest():
    """By hand: a calibration that was made for the recipe stays valid."""
    written = {
        "grid": {"height": 16, "width": 16, "spacing": 2.0},
        "bias_field": None,
        "histogram": None,
        "stripper": "none",
        "format": 1,
    }
    assert recipe.from_json(written) == BARE
    assert BARE.digest == files.digest(written)


@pytest.mark.parametrize("seed", range(8))
def test_the_slice_affine_says_where_pixels_lie(seed):
    """Against nibabel: a random oblique affine and axis order."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ np.diag(rng.uniform(0.5, 3, 3))
    matrix[:3, 3] = rng.normal(size=3) * 50
    shape = (5, 6, 7)
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = nib.affines.apply_affine(matrix, points)
    order = orientation.to_lps(matrix)
    seen = np.stack([orientation.axial(world[..., k], order) for k in range(3)], axis=-1)
    found = orientation.slice_affine(matrix, shape)
    columns = np.stack(np.meshgrid(*map(np.arange, seen.shape[:3]), indexing="ij"), axis=-1)[..., ::-1]
    np.testing.assert_allclose(nib.affines.apply_affine(found, columns), seen, atol=1e-9)
    np.testing.assert_allclose(nib.affines.voxel_sizes(found)[::-1], orientation.zooms(matrix), atol=1e-9)


def test_sessions_of_one_participant_are_in_one_split(tmp_path):
    for session in range(8):
        folder = tmp_path / "sub-7" / f"ses-{session}" / "anat"
        images.save(folder / f"sub-7_ses-{session}_T2w.nii.gz", images.head())
    found = sources.find(str(tmp_path))
    assert len({subject.identifier for subject in found}) == 8
    assert len(set(splits_of(found).values())) == 1


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 4), tuple(range(1, 9)), (0.5, 1)])
def test_labels_are_no_scan(values):
    data = np.zeros((20, 20, 10), np.float32)
    brain = np.zeros(data.shape, bool)
    brain[3:17, 3:17, 2:8] = True
    data[brain] = np.resize(values, brain.sum())
    told = ", ".join(f"{value:g}" for value in values)
    with pytest.raises(InputError, match=rf"holds only the values {told} inside the brain: labels, no scan"):
        slices.clean(images.volume(data), brain)
    data[brain] += np.resize([0, 0, 0, 0.25, 9, 17, 31], brain.sum())
    np.testing.assert_array_equal(slices.clean(images.volume(data), brain)[0], data)
