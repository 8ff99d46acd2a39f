"""The tissue atlas of gmm: laid over a known brain, the same whatever the axes on disk, and of use."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lgjax.methods import atlas, names
from lgjax.methods import runner as runners
from lgjax.methods.queue import restore_scan
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Grid, to_slices
from lgjax.scans import phantom

GRID = Grid(64, 64, 3.0)


@pytest.fixture(scope="module")
def patient():
    """Most of a synthetic head, 12 slices of 3 mm pixels; a lesion in white matter is as bright as the third class."""
    healthy = phantom.make_subject(phantom.load_anatomies(None), 5, 0, "healthy", slices=12, spacing=3.0)
    affine = healthy.image.affine
    mm = np.moveaxis(np.indices(healthy.brain.shape), 0, -1) @ affine[:3, :3] + affine[:3, 3]
    lesion = np.linalg.norm(mm - [28, -25, 28], axis=-1) < 12
    noise = np.random.default_rng(0).normal(1, 0.05, lesion.shape)
    csf = np.percentile(healthy.image.data[healthy.brain], 90)
    data = np.where(lesion, csf * noise, healthy.image.data).astype(np.float32)
    return healthy._replace(image=dataclasses.replace(healthy.image, data=data), lesion=lesion)


def prepared(scan) -> Prepared:
    return Prepared(scan.image, 0, *to_slices(scan.image.data, scan.brain, scan.image.affine, GRID))


@pytest.mark.parametrize("heights", [slice(None), slice(10, 24)])
def test_a_brain_is_found_where_it_was_put(heights):
    """A turned, sheared and scaled copy of the atlas's own brain, also where it is cut off above and below."""
    known, shape, zooms = atlas.load(), (34, 110, 130), (5.0, 2.0, 1.5)
    turn = np.array([[0.97, 0.06, 0.0], [-0.05, 1.08, 0.12], [0.01, -0.1, 0.93]])
    at = np.indices(shape).reshape(3, -1)
    scan = atlas._millimetres(at, zooms)
    truth = turn @ (scan - scan.mean(axis=1, keepdims=True)) / atlas.STEP + [[40], [49], [40]]  # voxels of the atlas
    brain = (ndimage.map_coordinates(known.depth, truth, order=1, cval=-8) > 0).reshape(shape)
    found = atlas.register(brain[heights], zooms, known)
    seen = np.zeros_like(brain)
    seen[heights] = brain[heights]
    shift = np.array([[0], [0], [(heights.start or 0) * zooms[0]]])  # the slices that remain are counted from 0
    error = atlas.STEP * np.linalg.norm(found[:, :3] @ (scan - shift) + found[:, 3:] - truth, axis=0)
    assert brain.mean() > 0.2
    assert error[seen.ravel()].mean() < 1.0  # mm


@pytest.mark.parametrize("shape", [(1, 60, 60), (2, 1, 9), (1, 1, 1)])
def test_a_brain_of_which_little_is_seen(shape):
    """One slice; a few voxels that fill their box."""
    onto = atlas.register(np.ones(shape, bool), (1.0, 2.0, 2.0), atlas.load())
    assert np.isfinite(onto).all()


def test_priors_are_probabilities_that_know_t2(patient):
    slices, placement = to_slices(patient.image.data, patient.brain & ~patient.lesion, patient.image.affine, GRID)
    priors = atlas.tissue_priors(placement, patient.image.affine)
    assert priors.shape == (3, slices.mask.sum())
    np.testing.assert_allclose(priors.sum(axis=0), 1, atol=1e-6)
    assert priors.min() >= 0.999 / (atlas.PEOPLE + 3)
    brightness = priors @ slices.y[slices.mask > 0] / priors.sum(axis=1)
    assert (np.diff(brightness) > 0.2).all()  # white matter, grey matter, CSF


def test_priors_do_not_depend_on_the_axes_on_disk(patient):
    placement = prepared(patient).placement
    expected = atlas.tissue_priors(placement, patient.image.affine)
    turned = patient.brain[::-1].transpose(2, 0, 1)
    back = np.zeros((4, 4))  # axes of `turned` -> axes of the scan
    back[2, 0] = back[1, 2] = back[3, 3] = 1
    back[0, 1], back[0, 3] = -1, len(patient.brain) - 1
    affine = patient.image.affine @ back
    _, other = to_slices(patient.image.data[::-1].transpose(2, 0, 1), turned, affine, GRID)
    np.testing.assert_array_equal(atlas.tissue_priors(other, affine), expected)


def test_the_atlas_finds_what_a_mixture_takes_for_csf(config, mesh1, patient):
    areas = {}
    for where in ("none", "mni152"):
        config.gmm.atlas, config.gmm.iterations = where, 30
        runner = runners.Runner(names.parse("gmm"), runners.from_config(config), None, {}, mesh1)
        change = restore_scan(runner, prepared(patient), 0.0).change[patient.brain]
        areas[where] = roc_auc_score(patient.lesion[patient.brain], change)
    assert areas["none"] < 0.5 < 0.95 < areas["mni152"]
