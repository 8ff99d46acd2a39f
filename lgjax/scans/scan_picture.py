"""The picture of one scan without reference: slices as input, restored, anomaly map and detection.

All images are one array of pixels; text and lines stand above it at places known beforehand, in pixels. Axes, which
matplotlib sets out by itself, take many times as long. No style is set globally: threads may draw at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D, Transform
from PIL import Image

from lgjax.scans import pictures, png
from lgjax.scans.pictures import DETECTED, INK, MIDLINE, Panels

DPI, WIDTH = 120, 1152  # pixels an inch; pixels
_LEFT, _RIGHT, _BELOW = 26, 8, 12  # margins
_TITLE, _HEADING = 16, 36  # a line of the title; the line of the columns' names
_ACROSS, _DOWN, _SCALE = 10, 17, 57  # gaps of columns and of rows; the room of a colour bar
_ORANGE = 0.75  # how much of a detected pixel's colour says so


class Place(NamedTuple):
    """Where a panel lies, pixels from the picture's upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture's pixels."""
        ends = (self.top, self.top + self.height), (self.left, self.left + self.width)
        rows, columns = (slice(round(first), round(last)) for first, last in ends)
        return rows, columns

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the pixel at shares of width and height."""
        return self.left + x * self.width, self.top + y * self.height


class Picture(Figure):
    """A figure that a notebook shows as its cell's value, without pyplot."""

    def _repr_png_(self) -> bytes:
        return encode(self)


class _Pixels(Artist):
    """Pixels that fill a figure, below all else; matplotlib's own images take far longer."""

    zorder = -1

    def __init__(self, pixels: np.ndarray):
        """Takes [H, W, 3] uint8."""
        super().__init__()
        self.pixels = pixels

    def draw(self, renderer: RendererBase) -> None:
        """Draws the pixels, as many as the device has, where the figure lies on its canvas."""
        figure, scale = self.get_figure(root=True), renderer.get_image_magnification()
        assert figure
        (left, bottom), (right, top) = figure.transFigure.transform([(0, 0), (1, 1)])
        size = round((right - left) * scale), round((top - bottom) * scale)
        image = Image.fromarray(self.pixels).resize(size).convert("RGBA")
        renderer.draw_image(renderer.new_gc(), round(left), round(bottom), np.asarray(image)[::-1])


def encode(figure: Figure) -> bytes:
    """Returns the PNG of an opaque figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return png.encode(np.asarray(canvas.buffer_rgba())[..., :3])


def scan_figure(rows: Mapping[str, Panels], title: str) -> Picture:
    """Returns a figure of one scan without reference, a row for each slice: input, restored, anomaly map, detection.

    Args:
      rows: by the name of the slice.
      title: of the whole.
    """
    panels = list(rows.values())
    box = pictures.window_of(np.logical_or.reduce([panel.brain for panel in panels]))
    panels = [pictures.crop(panel, *box) for panel in panels]
    ends = max(map(pictures.end_of_scale, panels))
    places = _places(panels[0], len(panels), head=_HEADING + _TITLE * (1 + title.count("\n")))
    height = round(places[-1][0].at(0, 1)[1] + _BELOW)
    pixels = np.full((height, WIDTH, 3), 255, np.uint8)
    for panel, row in zip(panels, places, strict=True):
        _fill_row(pixels, panel, row, ends)
    figure = Picture(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    figure.add_artist(_Pixels(pixels))
    for name, panel, row in zip(rows, panels, places, strict=True):
        _write_row(figure, pictures.plain(name), panel, row, ends)
    headings = ("Input", "Restored", f"Anomaly, {panels[0].unit}", pictures.detected_at(panels))
    for place, text in zip(places[0], headings, strict=True):
        _write(figure, place.at(0.5, 0)[0], places[0][0].top - 9, text, 9, ha="center", va="baseline")
    _write(figure, WIDTH / 2, 4, title, 9, ha="center", va="top")
    return figure


def _places(panel: Panels, count: int, head: float) -> list[list[Place]]:
    """Returns where the panels of `count` slices lie, row by row, below the first `head` pixels."""
    width = (WIDTH - _LEFT - _RIGHT - _SCALE - 2 * _ACROSS) / 4
    height = width * panel.aspect * panel.image.shape[0] / panel.image.shape[1]
    lefts = [_LEFT + column * (width + _ACROSS) for column in range(3)]
    lefts.append(lefts[2] + width + _SCALE)
    tops = [head + row * (height + _DOWN) for row in range(count)]
    return [[Place(left, top, width, height) for left in lefts] for top in tops]


def _bar(anomaly: Place) -> Place:
    """Returns where the colour bar of an anomaly map lies, beside the map."""
    return Place(anomaly.at(1, 0)[0] + 5, anomaly.at(0, 0.115)[1], 13, 0.77 * anomaly.height)


def _fill_row(pixels: np.ndarray, panel: Panels, row: Sequence[Place], ends: float) -> None:
    """Fills in one slice: input, restored, anomaly map with its scale up to `ends`, detection.

    Args:
      pixels: of the picture, [H, W, 3] uint8.
      panel: the slice.
      row: where its four images lie.
      ends: of the scale.
    """
    source, restored, anomaly, detected = row
    grey, colours = pictures.grey(panel), pictures.scale(panel, ends)
    for place, image, style in (
        (source, panel.image, grey),
        (restored, panel.restored, grey),
        (anomaly, panel.anomaly, colours),
        (_bar(anomaly), np.linspace(colours["vmax"], colours["vmin"], 256)[:, None], colours),
        (detected, panel.image, grey),
    ):
        if image is not None:
            part = pixels[place.window]
            part[:] = _coloured(_resized(image, part, Image.Resampling.BILINEAR), style)
    if panel.detected is not None:
        part = pixels[detected.window]
        found = _resized(panel.detected, part, Image.Resampling.NEAREST) > 0
        orange = 255 * np.array(mpl.colors.to_rgb(DETECTED))
        part[found] = (_ORANGE * orange + (1 - _ORANGE) * part[found]).round()


def _resized(image: np.ndarray, like: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """Returns an image, [h, w], as float32 with as many rows and columns as another."""
    size = like.shape[1], like.shape[0]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image, np.float32)).resize(size, how))


def _coloured(values: np.ndarray, style: Mapping[str, Any]) -> np.ndarray:
    """Returns the colours of values, [H, W, 3] uint8, in the style of matplotlib's images."""
    cmap, low, high = mpl.colormaps[style["cmap"]], style["vmin"], style["vmax"]
    index = np.clip((values - low) * (cmap.N / (high - low)), 0, cmap.N - 1)
    return cmap(np.arange(cmap.N), bytes=True)[index.astype(np.uint8), :3]


def _write_row(figure: Figure, name: str, panel: Panels, row: Sequence[Place], ends: float) -> None:
    """Writes what stands beside, on and below the images of one slice, and draws the mirror's plane."""
    source, _, anomaly, _ = row
    _write(figure, source.left - 9, source.at(0, 0.5)[1], name, 8, ha="right", va="center", rotation=90)
    colours = pictures.scale(panel, ends)
    for place, dark in zip(row, (True, True, not colours["vmin"], True), strict=True):
        if place is not row[1] or panel.restored is not None:
            _write_sides(figure, place, dark)
    _draw_midline(figure, panel, source)
    _draw_marks(figure, _bar(anomaly), colours["vmin"], colours["vmax"])


def _write_sides(figure: Figure, place: Place, dark: bool) -> None:
    """Writes R and L on an image: radiological view has the patient's right on the left."""
    for x, side, end in ((0.03, "R", "left"), (0.97, "L", "right")):
        ink = "white" if dark else INK
        _write(figure, *place.at(x, 0.03), side, 8, color=ink, ha=end, va="top", fontweight="bold")


def _draw_midline(figure: Figure, panel: Panels, place: Place) -> None:
    """Draws where the mirror's plane cuts the slice, and says below the slice what the line is."""
    if panel.midline is None:
        return
    across, down, level = panel.midline
    rows, columns = panel.image.shape
    ends = np.array([-0.5, rows - 0.5])
    x, y = place.at(((level - down * ends) / across + 0.5) / columns, (ends + 0.5) / rows)
    line = Line2D(x, y, color=MIDLINE, linewidth=0.8, linestyle=(0, (4, 3)), transform=_from_pixels(figure))
    figure.add_artist(line, clip=True).set_clip_path(_frame(figure, place))
    _write(figure, *place.at(0.5, 1), "dashed: mirror plane", 7, ha="center", va="top")


def _draw_marks(figure: Figure, bar: Place, low: float, high: float) -> None:
    """Draws the frame of a colour bar, and marks with their numbers."""
    figure.add_artist(_frame(figure, bar))
    ticks = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    for value in (tick for tick in ticks if low <= tick <= high):
        x, y = bar.at(1, (high - value) / (high - low))
        figure.add_artist(Line2D((x, x + 6), (y, y), color=INK, linewidth=0.8, transform=_from_pixels(figure)))
        _write(figure, x + 11, y, f"{value:g}".replace("-", "\N{MINUS SIGN}"), 7, ha="left", va="center")


def _frame(figure: Figure, place: Place) -> Rectangle:
    """Returns a thin frame around a place."""
    style: Any = {"fill": False, "edgecolor": INK, "linewidth": 0.8, "transform": _from_pixels(figure)}
    return Rectangle((place.left, place.top), place.width, place.height, **style)


def _from_pixels(figure: Figure) -> Transform:
    """Returns the way from pixels, counted from the upper left corner, to a figure of any resolution."""
    width, height = figure.get_size_inches() * DPI
    return Affine2D().scale(1 / width, -1 / height).translate(0, 1) + figure.transFigure


def _write(figure: Figure, x: float, y: float, text: str, size: float, **style: Any) -> None:
    shown = {"fontsize": size, "color": INK, "parse_math": False, "transform": _from_pixels(figure), **style}
    figure.text(x, y, text, **shown)
