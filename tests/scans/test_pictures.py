"""Where a plane cuts what pictures show."""

import io
import itertools
import re

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lgjax.scans import pictures, scan_picture


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
        figures = pictures.subject_figure({"m": one}), scan_picture.encode(scan_picture.scan_figure({"a": one}, ""))
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
    assert [image.axes.get_xlabel() for image in seen] == ends
    assert [image.get_clim()[1] for image in seen] == [1.0, 3.0]
    for panel, top in zip(panels, (1.0, 3.0), strict=True):
        numbers = [value for value, _, _ in marks_of(scan_picture.scan_figure({"a": panel}, ""))]
        assert (min(numbers), max(numbers)) == (0 if sign > 0 else -top, top)


def marks_of(figure):
    """The numbers beside the colour bar of a figure of one slice, and where they stand, in pixels."""
    texts = [(text.get_text().replace("\N{MINUS SIGN}", "-"), *text.get_position()) for text in figure.texts]
    return [(float(text), x, y) for text, x, y in texts if re.fullmatch(r"[-\d.]+", text)]


def test_a_picture_says_the_unit_of_its_map():
    brain = np.ones((20, 20), bool)
    panel = pictures.Panels(brain * 1.0, brain * 1.0, brain * 1.0, None, None, brain, 1.0)
    for unit in ("sd", "medians of |Y - X|"):
        figure = scan_picture.scan_figure({"a": panel._replace(unit=unit)}, "")
        assert f"Anomaly, {unit}" in [text.get_text() for text in figure.texts]


def test_the_panels_of_a_scan_lie_where_they_should_and_show_every_slice():
    """Of two slices, pixel by pixel: wide pixels, a title of two lines, and nothing beyond a panel."""
    shade = np.linspace(0, 1, 60)[:, None] * np.ones(40)
    brain = np.zeros((60, 40), bool)
    brain[10:50, 5:35] = True
    one = pictures.Panels(shade, None, shade * brain, brain & (shade > 0.5), None, brain, 1.5, "0.01", 0.1)
    figure = scan_picture.scan_figure({"a": one, "b": one._replace(image=1 - shade)}, "x\ny")
    seen = np.asarray(Image.open(io.BytesIO(scan_picture.encode(figure)))).astype(int)
    assert seen.shape[1] == scan_picture.WIDTH
    inked = (seen < 250).any(axis=2)
    (left, right), (begin, end), *_ = [run for run in runs(inked.mean(axis=0) > 0.5) if run[1] - run[0] > 100]
    assert right - left == pytest.approx(end - begin, abs=1)  # input and anomaly map, which is never white
    rows = runs(inked[:, begin:end].mean(axis=1) > 0.5)
    assert len(rows) == 2
    for low, high in rows:
        assert (high - low) == pytest.approx((right - left) * 1.5 * 48 / 38, abs=1.5)
    grey = [seen[low + 40 : high - 40, (left + right) // 2, 0] for low, high in rows]  # between the letters
    assert (np.diff(grey[0]) >= 0).all()
    assert (np.diff(grey[1]) <= 0).all()
    assert np.ptp(grey[0]) > 150
    assert inked[: rows[0][0] - 30].any()  # the title
    assert not inked[rows[0][1] + 2 : rows[1][0] - 2, left:].any()
    orange = (seen == np.clip(seen, (200, 80, 0), (255, 200, 120))).all(axis=2)
    orange = orange[slice(*rows[0]), -(right - left) - 8 :]  # in the last column
    found = np.argwhere(orange)
    assert found[:, 0].min() / (rows[0][1] - rows[0][0]) == pytest.approx((30 - 6) / 48, abs=0.03)  # where shade > .5
    assert len(found) == pytest.approx(20 * 30 * ((right - left) / 38) ** 2 * 1.5, rel=0.05)


def runs(line):
    """Begins and ends of what is True along a line."""
    ends = np.flatnonzero(np.diff(np.pad(line.astype(int), 1)))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))


def test_a_picture_has_any_resolution():
    panel = pictures.Panels(np.eye(20), None, np.eye(20), None, None, np.ones((20, 20), bool), 1.0)
    figure, found = scan_picture.scan_figure({"a": panel}, "title"), io.BytesIO()
    fine = Image.open(io.BytesIO(scan_picture.encode(figure)))
    figure.savefig(found, dpi=scan_picture.DPI / 2)
    coarse = Image.open(found).convert("RGB")
    assert coarse.size == tuple(size // 2 for size in fine.size)
    assert np.abs(np.asarray(fine.resize(coarse.size)).astype(int) - np.asarray(coarse)).mean() < 4


def test_images_stay_with_their_text_where_margins_are_cut():
    """As notebooks cut them."""
    panel = pictures.Panels(np.eye(20), None, np.eye(20), None, None, np.ones((20, 20), bool), 1.0)
    figure, found = scan_picture.scan_figure({"a": panel}, ""), io.BytesIO()
    whole = np.asarray(Image.open(io.BytesIO(scan_picture.encode(figure))))
    figure.savefig(found, dpi=scan_picture.DPI, bbox_inches="tight", pad_inches=0)
    cut = np.asarray(Image.open(found).convert("RGB"))
    assert cut.shape[0] < whole.shape[0]
    box = figure.get_tightbbox()
    left, top = round(box.x0 * scan_picture.DPI), round(whole.shape[0] - box.y1 * scan_picture.DPI)
    places = itertools.product((-1, 0, 1), repeat=2)
    windows = [whole[top + i :, left + j :][: cut.shape[0], : cut.shape[1]] for i, j in places]
    assert min(np.abs(cut.astype(int) - w).mean() for w in windows if w.shape == cut.shape) < 0.5


@pytest.mark.parametrize("ends", [(0.0, 7.03), (-7.03, 7.03), (0.0, 0.004)])
def test_the_scale_says_what_its_colours_mean(ends):
    """Every mark stands at the height where the bar has the colour of its number."""
    shade = np.linspace(*ends, 400).reshape(20, 20)
    panel = pictures.Panels(shade, None, shade, None, None, np.ones((20, 20), bool), 1.0, "", ends[1] / 2)
    figure = scan_picture.scan_figure({"a": panel}, "")
    seen = np.asarray(Image.open(io.BytesIO(scan_picture.encode(figure)))).astype(int)
    marks = marks_of(figure)
    assert len(marks) > 3
    colours = mpl.colormaps["magma" if not ends[0] else "RdBu_r"]
    for value, x, y in marks:
        share = (value - ends[0]) / (ends[1] - ends[0])
        if 0.02 < share < 0.98:  # within the frame
            np.testing.assert_allclose(seen[int(y), int(x) - 17], 255 * np.array(colours(share)[:3]), atol=12)
