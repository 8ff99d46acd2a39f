"""Twins: each patient of the phantom beside the healthy brain that the patient was made from."""

import numpy as np
import pytest
from scipy import ndimage

from lgjax.scans import phantom, sources, synthetic


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    phantom.load_anatomies(None)  # from the cache that all tests share
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def scans(pair):
    """Image, lesion and displaced mask of a patient, and the image of the healthy twin."""
    patient, twin = pair
    return patient.image(), patient.lesion().data > 0, patient.displaced().data > 0, twin.image()


def test_every_patient_has_its_own_twin():
    pairs = synthetic.twins("phantom:dev:2")
    patients = [one for one in sources.find("phantom:dev:2") if one.kind != "healthy"]
    assert [patient.identifier for patient, _ in pairs] == [patient.identifier for patient in patients]
    assert [patient.reading for patient, _ in pairs] == [patient.reading for patient in patients]
    assert {twin.kind for _, twin in pairs} == {"healthy"}
    assert len({one.identifier for pair in pairs for one in pair}) == 2 * len(pairs)
    assert len({one.reading for pair in pairs for one in pair}) == 2 * len(pairs)
    assert synthetic.twins("phantom:train:2") == []


@pytest.mark.parametrize("number", range(4), ids=["dark", "glioma", "isointense", "ms"])
def test_twins_differ_by_the_lesion_alone(number):
    """Head, grid, contrast, bias and noise are one: elsewhere images are equal, but for the faint end of a push."""
    pair = synthetic.twins("phantom@8:dev:1")[number]
    patient, lesion, displaced, twin = scans(pair)
    np.testing.assert_array_equal(patient.affine, twin.affine)
    assert lesion.any()
    assert not pair[1].lesion().data.any()
    assert not pair[1].displaced().data.any()
    change = patient.data - twin.data
    assert np.abs(change[lesion]).mean() > 3 * np.abs(change[~lesion & ~displaced]).mean()
    far = ndimage.distance_transform_edt(~(lesion | displaced), patient.zooms) > 16.0  # two slices
    assert far.mean() > 0.3
    allowed = 0.1 * twin.data[twin.data > 0].std() if displaced.any() else 0.0
    assert np.abs(change[far]).max() <= allowed


def test_the_twin_is_the_healthy_subject_of_the_same_seed_and_index():
    _, _, _, twin = scans(synthetic.twins("phantom@8:dev:1")[1])
    expected = phantom.make_subject(phantom.load_anatomies(None), 4, 1, "healthy", thickness=8.0, gap=0.0)
    np.testing.assert_array_equal(twin.data, expected.image.data)
    assert twin.source == "phantom:healthy/1"
