"""Where a plane cuts what pictures show."""

import io
import itertools

import nibabel as nib
import numpy as np
import pytest
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


@pytest.mark.parametrize(("sign", "ends"), [(1, ["0 to 1 sd", "0 to 3 sd"]), (-1, ["-1 to 1 sd", "-3 to 3 sd"])])
def test_the_colours_of_an_anomaly_map_reach_twice_the_threshold_at_least(monkeypatch, sign, ends):
    """So noise below the threshold is dark, and a map that goes far beyond is not cut."""
    brain = np.ones((20, 20), bool)
    noise, lesion = np.full(brain.shape, sign * 0.004), np.full(brain.shape, sign * 3.0)
    panels = [
        pictures.Panels(brain * 1.0, None, values, None, None, brain, 1.0, "0.01", 0.5) for values in (noise, lesion)
    ]
    seen, drawn = [], pictures._draw_anomaly
    monkeypatch.setattr(pictures, "_draw_anomaly", lambda *given: seen.append(drawn(*given)) or seen[-1])
    pictures.subject_figure(dict(zip("ab", panels, strict=True)))
    for panel in panels:
        pictures.scan_figure({"a": panel}, "")
    assert [image.axes.get_xlabel() for image in seen[:2]] == ends
    assert [image.get_clim()[1] for image in seen] == [1.0, 3.0, 1.0, 3.0]


def test_a_picture_says_the_unit_of_its_map():
    brain = np.ones((20, 20), bool)
    panel = pictures.Panels(brain * 1.0, brain * 1.0, brain * 1.0, None, None, brain, 1.0)
    for unit in ("sd", "multiples"):
        figure = pictures.scan_figure({"a": panel._replace(unit=unit)}, "")
        assert f"Anomaly, {unit}" in [axes.get_title() for axes in figure.axes]
