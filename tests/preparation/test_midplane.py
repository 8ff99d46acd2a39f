"""The mid-sagittal plane: found where a brain was put, its mirror image held against closed forms."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lgjax.preparation import midplane
from lgjax.preparation.midplane import Plane
from lgjax.preparation.slices import Axis, Grid, Placement, Slices, to_slices
from lgjax.preparation.stack import stacked
from lgjax.scans import orientation

ZOOMS = (4.0, 1.0, 1.0)
UPRIGHT = Plane((1.0, 0.0, 0.0), 0.0, 0.0, 1.0)


def normal_of(yaw: float, roll: float) -> np.ndarray:
    """The normal of a head that is turned by so many degrees."""
    normal = np.array([1, *np.tan(np.deg2rad([yaw, roll]))])
    return normal / np.linalg.norm(normal)


def edges(normal: np.ndarray) -> np.ndarray:
    """Four places of `turned`'s ellipsoid on its plane of symmetry: at its front, back, top and bottom, [4, 3] mm."""
    ahead = np.cross(normal, [0, 0, 1]) / np.linalg.norm(normal[:2])
    return np.array([80 * ahead, -80 * ahead, 60 * np.cross(normal, ahead), -60 * np.cross(normal, ahead)])


def turned(normal, offset: float, zooms=ZOOMS, lesion: float = 0.0, seed: int = 0):
    """An ellipsoid, 130 x 160 x 120 mm, of smooth noise that is equal on both sides of a plane but for a tenth of it.

    Returns the slices and placement of what a scanner would see, RAS+, 2 mm pixels; the plane is given in the brain's
    own frame of LPS mm, whose origin lies in the middle of the ellipsoid.
    """
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 44, 50, 44)), (0, 1.2, 1.2, 1.2))
    noise = noise / noise.std()
    noise[0] = (noise[0] + noise[0, ::-1]) / np.sqrt(2)
    pattern = noise[0] + 0.5 * noise[1]
    size = [int(length / zoom) for length, zoom in zip((168, 188, 160), zooms[::-1], strict=True)]
    axes = [zoom * (np.arange(n) - (n - 1) / 2) for n, zoom in zip(size, zooms[::-1], strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")  # L, P, S
    a, b = normal[1] / normal[0], normal[2] / normal[0]
    turn = np.linalg.qr(np.array([[1, a, b], [-a, 1, 0], [-b, 0, 1]]).T)[0]
    turn = turn * np.sign(np.diag(turn))
    own = np.tensordot(turn.T, np.stack([x, y, z]), 1) - np.array([offset, 0, 0]).reshape(3, 1, 1, 1)
    inside = (own[0] / 65) ** 2 + (own[1] / 80) ** 2 + (own[2] / 60) ** 2 < 1
    places = own / 4 + (np.array(pattern.shape) - 1).reshape(3, 1, 1, 1) / 2
    values = ndimage.map_coordinates(pattern, places, order=1)
    ill = ((own - np.array([35, 10, 5]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 25**2
    values = values + lesion * ill
    affine = np.diag([-zooms[2], -zooms[1], zooms[0], 1.0])
    return to_slices(np.where(inside, values + 10, 0).astype(np.float32), inside, affine, Grid(96, 96, 2.0))


@pytest.mark.parametrize(
    ("yaw", "roll", "shift", "lesion"), [(0, 0, 0, 0.0), (10, -8, 10, 0.0), (-9, 10, -8, 4.0), (6, 9, 3, 4.0)]
)
def test_the_plane_is_found_where_the_head_was_put(yaw, roll, shift, lesion):
    normal = normal_of(yaw, roll)
    slices, placement = turned(normal, shift, lesion=lesion)
    found = midplane.find(slices, placement, ZOOMS)
    angle = np.rad2deg(np.arccos(min(normal @ found.normal, 1)))
    assert angle < 1.0
    assert abs(found.offset) < 0.7  # of the brain's own centre
    assert found.uncertainty < 1.0
    assert 0.3 < found.score < 0.9


def test_the_uncertainty_is_as_large_as_the_errors(monkeypatch):
    monkeypatch.setattr(midplane, "_STARTS", 1)  # of the search, which is tested above
    rng, zooms, off = np.random.default_rng(0), (4.0, 4.0, 4.0), []
    for seed in range(8):  # fewer would not tell an uncertainty of half the size
        normal = normal_of(*rng.uniform(-10, 10, 2))
        found = midplane.find(*turned(normal, rng.uniform(-10, 10), zooms, seed=seed), zooms)
        off.append((edges(normal) @ found.normal - found.offset) / found.uncertainty)
    assert 0.6 < np.sqrt(np.mean(np.square(off))) < 1.6


def chosen(slices: Slices, placement: Placement, places) -> tuple[Slices, Placement]:
    """A few slices of a scan, as where the others hold no brain."""
    kept = Slices(*(part[places] for part in slices))
    return kept, placement._replace(mask=kept.mask, number=kept.number)


@pytest.mark.parametrize("places", [[15], [13, 17]])
def test_few_slices_show_no_tilt_and_the_plane_that_they_show(places):
    normal = normal_of(8, 0)
    found = midplane.find(*chosen(*turned(normal, 5.0), places), ZOOMS)
    assert found.normal[2] == 0
    assert np.rad2deg(np.arccos(normal @ found.normal)) < 1.5
    assert abs(found.offset) < 1.0


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 8, 8), (9, 4, 6)])
def test_brains_of_a_few_pixels_have_a_plane_too(shape):
    mask = np.zeros(shape)
    mask[:, 1:-1, 1:-1] = 1
    for values in (np.random.default_rng(0).normal(size=shape), np.zeros(shape)):
        slices, placement = cube(values, mask)
        found = midplane.find(slices, placement, (1.0, 0.5, 0.5))
        assert np.isfinite([*found.normal, found.offset, found.uncertainty, found.score]).all()
        mirrored, spread = midplane.mirror(slices, placement, (1.0, 0.5, 0.5), found)
        assert np.isfinite(mirrored).all()
        assert (spread >= 1).all()


def test_slices_that_are_missing_are_not_taken_for_background():
    normal = normal_of(-7, 9)
    slices, placement = turned(normal, -6.0)
    found = midplane.find(*chosen(slices, placement, np.r_[0:11, 17 : len(slices.number)]), ZOOMS)
    assert np.rad2deg(np.arccos(normal @ found.normal)) < 1.5


def test_where_nothing_is_like_its_mirror_image_the_score_is_low_and_the_mirror_has_no_say():
    slices, placement = turned(normal_of(0, 0), 0.0)
    half = slices.mask * (np.arange(96) < 47)[:, None]
    slices, placement = slices._replace(mask=half), placement._replace(mask=half)
    noise = np.random.default_rng(1).normal(size=(*half.shape[:1], 12, 12, 1)).repeat(8, axis=1).repeat(8, axis=2)
    found = midplane.find(slices._replace(y=noise.astype(np.float32)), placement, ZOOMS)
    assert found.score < 0.1
    spread = midplane.mirror(slices, placement, ZOOMS, found).spread
    assert np.median(spread[half > 0]) > 5
    assert len(midplane.warnings(found)) == 1
    assert midplane.warnings(UPRIGHT) == midplane.warnings(None) == ()
    doubts = [midplane.doubt(score) for score in (-1, 0, 0.05, 0.1, 0.2, 0.4, 1)]
    assert doubts == sorted(doubts, reverse=True)
    assert doubts[-2] < 1.001
    assert np.isfinite(doubts).all()


def test_white_noise_in_a_whole_brain_is_not_trusted():
    """The outline is uneven, as a brain's, and yet like its mirror image."""
    slices, placement = turned(normal_of(0, 0), 0.0)
    rng = np.random.default_rng(0)
    folds = ndimage.gaussian_filter(rng.normal(size=slices.mask.shape), (1, 3, 3, 0))
    depth = ndimage.distance_transform_edt(slices.mask[..., 0], (4, 2, 2))[..., None]  # mm
    mask = (depth > 4 * (1 + folds / folds.std())).astype(np.float32) * slices.mask
    noise = rng.normal(size=mask.shape).astype(np.float32)
    found = midplane.find(Slices(noise * mask, mask, slices.number), placement._replace(mask=mask), ZOOMS)
    assert midplane.doubt(found.score) > 2
    assert len(midplane.warnings(found)) == 1
    assert not midplane.fits(found.score)
    assert midplane.doubt(0.18) < 1.4  # the least score of real scans


def test_the_score_of_equal_sides_is_one_and_their_plane_is_certain():
    values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 48, 48)), 2)
    values = (values + values[:, :, ::-1]) / values.std()
    z, y, x = np.mgrid[:12, :48, :48] - np.array([5.5, 23.5, 23.5]).reshape(3, 1, 1, 1)
    mask = ((z / 7) ** 2 + (y / 22) ** 2 + (x / 18) ** 2 < 1).astype(float)
    found = midplane.find(*cube(values * mask, mask), (4.0, 4.0, 4.0))
    np.testing.assert_allclose(found.normal, UPRIGHT.normal, atol=1e-3)
    assert abs(found.offset) < 0.05
    assert found.score > 0.98
    assert found.uncertainty < 0.1


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL", "PRS"])
def test_a_plane_in_scanner_space_is_the_one_whose_mirror_image_is_seen(codes):
    turn = Rotation.from_euler("xyz", (8, -5, 11), degrees=True).as_matrix()
    inside = np.zeros((24, 28, 20), bool)
    inside[3:-3, 3:-3, 3:-3] = True
    wanted = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), wanted)
    affine = nib.affines.from_matvec(turn @ np.diag([1.5, 1.5, 3.0]), [-20, 5, 30])
    affine = affine @ nib.orientations.inv_ornt_aff(change, inside.shape)
    inside = nib.orientations.apply_orientation(inside, change)
    grid = Grid(26, 26, 1.5)
    slices, placement = to_slices(np.random.default_rng(0).normal(size=inside.shape), inside, affine, grid)
    plane = Plane(tuple(normal_of(9, -6)), 2.0, 0.0, 1.0)
    normal, offset = midplane.in_scanner(plane, slices, placement, affine)
    away = nib.affines.apply_affine(affine, np.moveaxis(np.indices(inside.shape), 0, -1)) @ normal - offset
    slices, placement = to_slices(away, inside, affine, grid)
    mirrored, spread = midplane.mirror(slices, placement, orientation.zooms(affine), plane)
    whole = np.isfinite(spread) & (ndimage.minimum_filter(slices.mask, (3, 3, 3, 1)) > 0)
    assert whole.sum() > 500
    expected = -(slices.y * placement.std + placement.mean)
    error = np.abs(mirrored * placement.std + placement.mean - expected)[whole]
    assert np.percentile(error, 75) < 1e-4  # where all neighbours hold brain; else their centre is another
    assert (np.array(normal) @ turn)[0] < -0.9  # to the patient's left


def cube(values: np.ndarray, mask=None) -> tuple[Slices, Placement]:
    """Slices of given values, [N, H, W], on pixels of 1 mm that are voxels."""
    mask = np.ones(values.shape) if mask is None else mask
    number = np.arange(len(values), dtype=np.int32)
    slices = Slices(*(part[..., None].astype(np.float32) for part in (values, mask)), number)
    native = np.transpose(mask > 0, (2, 1, 0))
    order = np.array([[0, 1], [1, 1], [2, 1]])
    axes = [Axis(0.0, 1.0, size) for size in values.shape[1:]]
    return slices, Placement(native, order, *axes, slices.mask, number, 0.0, 1.0)


def test_symmetric_slices_equal_their_mirror_image():
    values = np.random.default_rng(0).normal(size=(5, 12, 14))
    slices, placement = cube(values + values[:, :, ::-1])
    found = midplane.mirror(slices, placement, (3.0, 1.0, 1.0), UPRIGHT)
    np.testing.assert_allclose(found.mirrored, slices.y, atol=1e-6)
    np.testing.assert_allclose(found.spread, midplane.doubt(1.0), rtol=1e-6)


def test_a_linear_function_is_reflected_exactly_and_what_is_not_seen_has_no_say():
    zooms, normal, offset = (2.0, 1.0, 1.0), np.array([0.96, 0.2, 0.0]), 1.5
    normal[2] = np.sqrt(1 - (normal**2).sum())
    z, y, x = np.mgrid[:9, :16, :20] - np.array([4, 7.5, 9.5]).reshape(3, 1, 1, 1)
    z *= zooms[0]
    places, slope = np.stack([x, y, z]), np.array([0.3, -0.2, 0.1])
    slices, placement = cube(np.tensordot(slope, places, 1))
    found = midplane.mirror(slices, placement, zooms, Plane(tuple(normal), offset, 0.25, 1.0))
    away = np.tensordot(normal, places, 1) - offset
    reflected = places - 2 * away * normal.reshape(3, 1, 1, 1)
    within = (np.abs(reflected).transpose(1, 2, 3, 0) <= (9.5, 7.5, 8)).all(axis=-1)
    known = np.isfinite(found.spread[..., 0])
    assert 0.3 < within.mean() < 0.9
    assert known[within].all()
    far = (np.abs(reflected).transpose(1, 2, 3, 0) > (10.5, 8.5, 9)).any(axis=-1)
    assert not known[far].any()
    assert (found.mirrored[..., 0][~known] == 0).all()
    expected = np.tensordot(slope, reflected, 1)
    np.testing.assert_allclose(found.mirrored[..., 0][within], expected[within], atol=1e-5)
    inner = (np.abs(reflected).transpose(1, 2, 3, 0) <= (9, 7, 7.5)).all(axis=-1)
    added = 1 + (2 * 0.25 * slope @ normal) ** 2 / midplane.VARIANCE
    np.testing.assert_allclose(found.spread[..., 0][inner], midplane.doubt(1.0) * added, rtol=1e-4)


def test_places_between_slices_far_apart_are_not_seen():
    slices, placement = chosen(*cube(np.ones((12, 8, 8))), [2, 3, 4, 5, 7, 10])  # at 0, 2, 4, 6, 10 and 16 mm
    whole = stacked(slices, placement, (2.0, 1.0, 1.0))
    brain = [-0.9, 0.1, 3, 6.1, 8, 9.9, 10.9, 15.1, 16.9]
    unknown = [-5.1, 11.1, 13, 14.9, 19.1]  # the volume is from -5 to 19
    background = [-4.9, -1.1, 17.1, 18.9]
    for heights, share, known in ((brain, 1, True), (unknown, 0, False), (background, 0, True)):
        z = np.array(heights) + whole.z[0]
        value, weight, seen = whole.sample(np.stack([0 * z, 0 * z, z]))
        np.testing.assert_allclose(value, share)
        np.testing.assert_allclose(weight, share)
        assert (seen == known).all()
