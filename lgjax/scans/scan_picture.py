"""The picture of one scan without reference: slices as input, restored, anomaly map and detection.

All is drawn into one pair of axes whose unit is a pixel of the picture, at places known beforehand. Fifteen pairs of
axes, which matplotlib sets out by itself, take four times as long. No style is set globally: threads may draw at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lgjax.scans import pictures, png
from lgjax.scans.pictures import DETECTED, INK, MIDLINE, Panels

DPI, WIDTH = 120, 1152  # pixels an inch; pixels
_LEFT, _RIGHT, _BELOW = 26, 8, 12  # margins
_TITLE, _HEADING = 16, 36  # a line of the title; the line of the columns' names
_ACROSS, _DOWN, _SCALE = 10, 17, 57  # gaps of columns and of rows; the room of a colour bar


class Place(NamedTuple):
    """Where a panel lies, pixels from the picture's upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top, as matplotlib's images take them."""
        return self.left, self.left + self.width, self.top + self.height, self.top

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the pixel at shares of width and height."""
        return self.left + x * self.width, self.top + y * self.height


class Picture(Figure):
    """A figure that a notebook shows as its cell's value, without pyplot."""

    def _repr_png_(self) -> bytes:
        return encode(self)


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
    height = round(places[-1][0].extent[2] + _BELOW)
    figure = Picture(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    for name, panel, row in zip(rows, panels, places, strict=True):
        _draw_row(axes, pictures.plain(name), panel, row, ends)
    headings = ("Input", "Restored", f"Anomaly, {panels[0].unit}", pictures.detected_at(panels))
    for place, text in zip(places[0], headings, strict=True):
        _write(axes, place.at(0.5, 0)[0], places[0][0].top - 9, text, 9, ha="center", va="baseline")
    _write(axes, WIDTH / 2, 4, title, 9, ha="center", va="top")
    return figure


def _places(panel: Panels, count: int, head: float) -> list[list[Place]]:
    """Returns where the panels of `count` slices lie, row by row, below the first `head` pixels."""
    width = (WIDTH - _LEFT - _RIGHT - _SCALE - 2 * _ACROSS) / 4
    height = width * panel.aspect * panel.image.shape[0] / panel.image.shape[1]
    lefts = [_LEFT + column * (width + _ACROSS) for column in range(3)]
    lefts.append(lefts[2] + width + _SCALE)
    tops = [head + row * (height + _DOWN) for row in range(count)]
    return [[Place(left, top, width, height) for left in lefts] for top in tops]


def _draw_row(axes: Axes, name: str, panel: Panels, row: Sequence[Place], ends: float) -> None:
    """Draws one slice: input with the mirror's plane, restored, anomaly map with its scale up to `ends`, detection."""
    source, restored, anomaly, detected = row
    grey, colours = pictures.grey(panel), pictures.scale(panel, ends)
    _write(axes, source.left - 9, source.at(0, 0.5)[1], name, 8, ha="right", va="center", rotation=90)
    _show(axes, panel.image, source, grey)
    _draw_midline(axes, panel, source)
    if panel.restored is not None:
        _show(axes, panel.restored, restored, grey)
    _show(axes, panel.anomaly, anomaly, colours, dark=not colours["vmin"])
    _draw_scale(axes, anomaly, colours)
    _show(axes, panel.image, detected, grey)
    if panel.detected is not None:
        fill, orange = np.where(panel.detected, 1.0, np.nan), mpl.colors.ListedColormap([DETECTED])
        axes.imshow(fill, extent=detected.extent, aspect="auto", cmap=orange, alpha=0.75)


def _show(axes: Axes, image: np.ndarray, place: Place, style: Mapping[str, Any], *, dark: bool = True) -> None:
    """Draws an image at a place, with R and L: radiological view has the patient's right on the left."""
    axes.imshow(image, extent=place.extent, aspect="auto", **style)
    for x, side, end in ((0.03, "R", "left"), (0.97, "L", "right")):
        ink = "white" if dark else INK
        _write(axes, *place.at(x, 0.03), side, 8, color=ink, ha=end, va="top", fontweight="bold")


def _draw_midline(axes: Axes, panel: Panels, place: Place) -> None:
    """Draws where the mirror's plane cuts the slice, and says below the slice what the line is."""
    if panel.midline is None:
        return
    across, down, level = panel.midline
    rows, columns = panel.image.shape
    ends = np.array([-0.5, rows - 0.5])
    x, y = place.at(((level - down * ends) / across + 0.5) / columns, (ends + 0.5) / rows)
    frame = Rectangle((place.left, place.top), place.width, place.height, transform=axes.transData)
    (line,) = axes.plot(x, y, color=MIDLINE, linewidth=0.8, linestyle=(0, (4, 3)))
    line.set_clip_path(frame)
    _write(axes, *place.at(0.5, 1), "dashed: mirror plane", 7, ha="center", va="top")


def _draw_scale(axes: Axes, place: Place, style: Mapping[str, Any]) -> None:
    """Draws the colour bar of an anomaly map, beside it."""
    low, high = style["vmin"], style["vmax"]
    bar = Place(place.extent[1] + 5, place.at(0, 0.115)[1], 13, 0.77 * place.height)
    axes.imshow(np.linspace(high, low, 256)[:, None], extent=bar.extent, aspect="auto", **style)
    axes.add_patch(Rectangle((bar.left, bar.top), bar.width, bar.height, fill=False, edgecolor=INK, linewidth=0.8))
    ticks = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    marks = {value: bar.at(1, (high - value) / (high - low)) for value in ticks if low <= value <= high}
    lines = [[(x, y), (x + 6, y)] for x, y in marks.values()]
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.8, capstyle="projecting"), autolim=False)
    for value, (x, y) in marks.items():
        _write(axes, x + 11, y, f"{value:g}".replace("-", "\N{MINUS SIGN}"), 7, ha="left", va="center")


def _write(axes: Axes, x: float, y: float, text: str, size: float, **style: Any) -> None:
    axes.text(x, y, text, **{"fontsize": size, "color": INK, "parse_math": False, **style})
