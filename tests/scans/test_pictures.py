"""Where a plane cuts what pictures show."""

import io
import itertools

import nibabel as nib
import numpy as np
from PIL import Image

from lgjax.scans import pictures


def test_a_plane_cuts_the_slices_of_every_orientation_where_it_lies():
    tilted = nib.affines.from_matvec(np.array([[1.1, 0.2, -0.1], [-0.2, 0.9, 0.3], [0.1, -0.3, 2.5]]), [-9, 4, 2])
    normal, offset, shape = np.array([-0.96, 0.2, 0.1959592]), 1.5, (5, 6, 7)
    for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        change = np.array(list(zip(order, flips, strict=True)))
        affine = tilted @ nib.orientations.inv_ornt_aff(change, shape)
        native = nib.orientations.apply_orientation(np.zeros(shape), change)
        places = nib.affines.apply_affine(affine, np.moveaxis(np.indices(native.shape), 0, -1))
        away = pictures.radiological(places @ normal - offset, affine)
        for index in range(away.shape[2]):
            across, down, level = pictures.midline(normal, offset, affine, native.shape, index)
            rows, columns = np.indices(away.shape[:2])
            np.testing.assert_allclose(across * columns + down * rows - level, away[..., index], atol=1e-9)


def test_the_line_is_drawn_where_the_plane_cuts_the_input():
    brain = np.zeros((40, 30), bool)
    brain[8:36, 6:26] = True
    plain = pictures.Panels(brain * 1.0, brain * 1.0, brain * 1.0, None, None, brain, 1.0)
    shown = {}
    for level in (None, 1.0, 16.0):  # the window begins with column 2
        one = plain._replace(midline=level and (1.0, 0.0, level))
        figures = pictures.subject_figure({"m": one}), pictures.encode(pictures.scan_figure({"a": one}, ""), "png")
        images = [np.asarray(Image.open(io.BytesIO(figure)).convert("RGB")).astype(int) for figure in figures]
        shown[level] = [(red > 200) & (green > 160) & (blue < 90) for red, green, blue in map(np.transpose, images)]
    assert not any(yellow.any() for level in (None, 1.0) for yellow in shown[level])
    for yellow in shown[16.0]:  # [W, H]
        assert np.ptp(np.flatnonzero(yellow.any(axis=1))) <= 3  # upright and thin
        assert yellow.any(axis=0).sum() > 40
