"""Prepared scans that stay for the next method: the same as those prepared anew, as many as there is room for."""

import images
import pytest

from lgjax.preparation import kept, pipeline
from lgjax.preparation.kept import Kept
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import Grid
from lgjax.scans import sources

RECIPE = Recipe(Grid(16, 16, 2.0), None, None, "none")


@pytest.fixture
def subjects(tmp_path):
    for name in "abc":
        images.save(tmp_path / f"{name}.nii.gz", images.head())
    return sources.find(str(tmp_path))


@pytest.fixture
def prepared(monkeypatch):
    """Identifiers of the scans that were prepared, in order."""
    seen, prepare = [], pipeline.prepare

    def noting(subject, recipe, scratch):
        seen.append(subject.identifier)
        return prepare(subject, recipe, scratch)

    monkeypatch.setattr(pipeline, "prepare", noting)
    return seen


def names(subjects):
    return [subject.identifier for subject in subjects]


def test_each_scan_is_prepared_once_for_several_methods(subjects, prepared):
    scans = Kept(1e9)
    first = [scans.prepare(subject, RECIPE, "1") for subject in subjects]
    again = [scans.prepare(subject, RECIPE, "1") for subject in subjects]
    assert prepared == names(subjects)
    assert all(one is other for one, other in zip(first, again, strict=True))


def test_another_file_or_recipe_is_prepared_anew(subjects, prepared):
    scans, one = Kept(1e9), subjects[0]
    scans.prepare(one, RECIPE, "1")
    scans.prepare(one, RECIPE, "2")
    assert scans.prepare(one, RECIPE._replace(saturation=(-1.0, 1.0)), "1").saturation == (-1.0, 1.0)
    assert prepared == [one.identifier] * 3


@pytest.mark.parametrize(("fitting", "again"), [(0, "abc"), (2.5, "c")])
def test_scans_stay_as_far_as_there_is_room(subjects, prepared, fitting, again):
    scans = Kept(fitting * kept.size(pipeline.prepare(subjects[0], RECIPE, None)))
    for _ in range(2):
        for subject in subjects:
            scans.prepare(subject, RECIPE, "1")
    assert [name[-1] for name in prepared[4:]] == list(again)


def test_size_is_that_of_all_arrays(subjects):
    one = pipeline.prepare(subjects[0], RECIPE, None)
    arrays = [one.image.data, one.slices.y, one.slices.mask, one.placement.brain]
    assert kept.size(one) == sum(array.nbytes for array in arrays) + (
        0 if one.placement.mask is one.slices.mask else one.placement.mask.nbytes
    )
    field = one.image.data + 1
    assert kept.size(one._replace(field=field)) == kept.size(one) + field.nbytes


def test_one_method_keeps_no_scan():
    assert kept.room(1) == 0
    assert kept.room(2) > 1e6
