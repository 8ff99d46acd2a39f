"""The mid-sagittal plane: found where a brain was put, its mirror image held against closed forms."""

import numpy as np
import pytest
from scipy import ndimage

from lgjax.preparation import midplane
from lgjax.preparation.midplane import Plane
from lgjax.preparation.slices import Axis, Grid, Placement, Slices, to_slices

ZOOMS = (4.0, 1.0, 1.0)
UPRIGHT = Plane((1.0, 0.0, 0.0), 0.0, 0.0, 1.0)


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
    normal = np.array([1, *np.tan(np.deg2rad([yaw, roll]))])
    normal /= np.linalg.norm(normal)
    slices, placement = turned(normal, shift, lesion=lesion)
    found = midplane.find(slices, placement, ZOOMS)
    angle = np.rad2deg(np.arccos(min(normal @ found.normal, 1)))
    assert angle < 1.0
    assert abs(found.offset) < 0.7  # of the brain's own centre
    assert found.uncertainty < 1.0
    assert 0.3 < found.score < 0.9


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
