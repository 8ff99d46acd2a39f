"""Whole mirror maps do not depend on the order of axes on disk: all 48 give equal maps, to the bit."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

import lgjax
from lgjax.detector import Detection, Detector
from lgjax.methods import gmm, names
from lgjax.methods.runner import Runner, Settings
from lgjax.preparation import midplane, recipe
from lgjax.preparation.slices import Grid
from lgjax.scans import orientation
from lgjax.workdir.weights import Trained

AXES = ("LR", "PA", "IS")
ORIENTATIONS = ["".join(codes) for order in itertools.permutations(AXES) for codes in itertools.product(*order)]


@pytest.fixture(scope="module")
def detector(mesh1) -> Detector:
    """The method mirror_tv3d with made-up lambda and thresholds, on coarse slices."""
    method, prepared = names.parse("mirror_tv3d"), recipe.bare(Grid(32, 32, 6.0), (-2.0, 1.5))
    settings = Settings(0, "float32", 0, gmm.Settings(), closed_steps=3, mirror_variance=0.5)
    runner = Runner(method, settings, None, {}, mesh1)
    about = {"Method": method.name, "Score": "positive", "Thresholds": {"0.01": 0.5}, "MaskRate": "0.01"}
    return Detector(method, Trained({}, "w", "nothing", frozenset(), prepared), runner, 0.2, 1, about)


@pytest.fixture(scope="module")
def scan() -> nib.Nifti1Image:
    """A tilted brain that is equal on both sides but for a lesion and noise, RAS+, of anisotropic voxels."""
    rng = np.random.default_rng(4)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 28, 12)), indexing="ij")
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(size=(2, *x.shape)), (0, 1.2, 1.2, 0.8))
    both = texture[0] + texture[0][::-1] + 0.2 * texture[1]
    lesion = (x - 0.4) ** 2 + y**2 + z**2 < 0.06
    data = np.where(inside, 100 + 60 * both + 60 * lesion, 0).astype(np.float32)
    turn = Rotation.from_euler("xyz", (5, -4, 8), degrees=True).as_matrix()
    affine = nib.affines.from_matvec(turn @ np.diag([6.0, 6.0, 8.0]), [-70, -80, -40])
    return nib.Nifti1Image(data, affine)


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """The same scan in another order of axes."""
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    return image.as_reoriented(change)


def upright(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A map in RAS+ order of axes."""
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(array, affine)).dataobj)


def maps(found: Detection) -> dict[str, np.ndarray]:
    """All maps of a detection in RAS+ order of axes."""
    each = {"anomaly": found.anomaly, "restored": found.restored, "brain": found.brain, **found.masks}
    return {name: upright(array.astype(np.float32), found.affine) for name, array in each.items()}


@pytest.fixture
def fits(monkeypatch) -> dict:
    """The planes that were fitted, by the bits of what they were fitted to: a fit to equal slices is made once."""
    found, find = {}, midplane.find

    def once(slices, placement, zooms):
        brain = orientation.axial(placement.brain, placement.orientation)
        axes = (placement.rows, placement.columns, placement.mean, placement.std, zooms)
        key = (*(part.tobytes() for part in (*slices, brain)), brain.shape, repr(axes))
        if key not in found:
            found[key] = find(slices, placement, zooms)
        return found[key]

    monkeypatch.setattr(midplane, "find", once)
    return found


def test_all_48_orientations_give_equal_mirror_maps(detector, scan, fits):
    assert len(set(ORIENTATIONS)) == 48
    first = detector(lgjax.read(scan))
    expected = maps(first)
    assert first.about["MidsagittalPlane"]["score"] > 0.3  # the mirror has a say
    assert 30 < expected["0.01"].sum() < 1500  # and finds something
    assert len(fits) == 1
    for codes in ORIENTATIONS:
        image = reoriented(scan, codes)
        assert "".join(nib.aff2axcodes(image.affine)) == codes
        found = detector(lgjax.read(image))
        for name, array in maps(found).items():
            np.testing.assert_array_equal(array, expected[name], f"{name} of {codes}")
        for key, value in first.about["MidsagittalPlane"].items():
            np.testing.assert_allclose(found.about["MidsagittalPlane"][key], value, rtol=1e-9, atol=1e-9)
        assert [lesion.volume_ml for lesion in found.lesions] == [lesion.volume_ml for lesion in first.lesions]
    assert len(fits) == 1  # all saw the same slices, to the bit
