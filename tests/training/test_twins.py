"""Pairs of a patient and the healthy brain that the patient was made from, as a training is judged on them."""

import numpy as np
import pytest

from lgjax.preparation import pipeline, recipe
from lgjax.preparation.cohort import Source
from lgjax.preparation.slices import Grid
from lgjax.scans import synthetic
from lgjax.training import twins

SATURATION = (-2.0, 1.5)
GRID = Grid(64, 64, 3.0)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("phantom", "phantom:dev:2"),
        ("phantom@2+3:/maps", "phantom@2+3:dev:2:/maps"),
        ("prepared/cohort", "phantom:dev:2"),
    ],
)
def test_the_patients_are_those_that_choices_are_made_on(source, expected):
    assert twins.spec(Source(source, 3, 3)) == expected


def test_twins_are_equal_outside_the_lesion_on_one_scale():
    """Both were z-scored by themselves, and the lesion moves mean and standard deviation of its scan."""
    patient, healthy = next(pair for pair in synthetic.twins("phantom:dev:1") if pair[0].kind == "ms")
    bare = recipe.bare(GRID)
    prepared = [pipeline.prepare(subject, bare) for subject in (patient, healthy)]
    assert abs(prepared[0].placement.std / prepared[1].placement.std - 1) > 1e-4
    found = twins.together(*prepared, None)
    assert found.mask.sum() > 0.9 * prepared[0].slices.mask.sum()
    change = np.abs(found.observed - found.healthy)[found.mask > 0]
    assert np.median(change) < 1e-4
    assert change.max() > 1
    saturated = twins.together(*prepared, SATURATION)
    np.testing.assert_array_equal(saturated.healthy, np.clip(found.healthy, *SATURATION))


def test_the_slices_of_all_patients_are_thinned(monkeypatch):
    monkeypatch.setattr(twins, "COUNT", 1)
    monkeypatch.setattr(twins, "KEPT", 7)
    found = twins.load(Source("phantom", 3, 3), recipe.bare(GRID, SATURATION), 2)
    assert [part.shape for part in found] == [(7, 64, 64, 1)] * 3
    assert found.observed.max() <= SATURATION[1]
    assert (found.observed != found.healthy).any(axis=(1, 2, 3)).sum() >= 2
