"""The pictures of brains: slices of subjects in radiological view, each figure returned as bytes of PNG.

Figures are made without pyplot: nothing is global and nothing needs a display. Text that users chose is drawn
as plain ASCII; names of subjects stand in the page, not in the figures.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatter

from lgjax.scans import orientation

INK = "#1d2329"
COLUMNS = 7  # side by side, before anything gets tiny
REFERENCE, DETECTED = "#18c5c0", "#ff7a1a"  # on grey images: cyan outline, orange fill
MIDLINE = "#ffd21e"  # yellow, thin and dashed
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "svg.hashsalt": "lgjax",
}


class Panels(NamedTuple):
    """One axial slice of one subject in radiological view, rows from anterior to posterior."""

    image: np.ndarray  # [H, W], the input
    restored: np.ndarray | None  # [H, W], in the input's units; None for methods that restore nothing
    anomaly: np.ndarray  # [H, W]
    detected: np.ndarray | None  # [H, W] bool, the mask that is shown
    reference: np.ndarray | None  # [H, W] bool; None where nobody drew one
    brain: np.ndarray  # [H, W] bool
    aspect: float  # height of a pixel / its width
    rate: str = ""  # false positive rate of `detected` ("0.01")
    threshold: float = 0.0  # of `detected`, in the unit of `anomaly`
    midline: tuple[float, float, float] | None = None  # a, b, c of a column + b row = c; None: no mirror that fits
    unit: str = "sd"  # of `anomaly`, in short


def radiological(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Returns a volume [X, Y, Z] of any orientation as [H, W, S]: anterior on top, right side on the left."""
    return np.moveaxis(orientation.axial(data, orientation.to_lps(affine)), 0, -1)


def shown_slice(reference: np.ndarray, brain: np.ndarray) -> int:
    """Returns the slice of [H, W, S] with most lesion, or with most brain where there is no lesion."""
    return int((reference if reference.any() else brain).sum(axis=(0, 1)).argmax())


def pixel_aspect(affine: np.ndarray) -> float:
    """Returns height / width of an axial pixel of the volume that `radiological` returns."""
    _, rows, columns = orientation.zooms(affine)
    return rows / columns


def midline(
    normal: Sequence[float], offset: float, affine: np.ndarray, shape: tuple[int, ...], index: int
) -> tuple[float, float, float]:
    """Returns a, b and c of the line a column + b row = c in which a plane cuts an axial slice.

    Args:
      normal: unit vector in the scanner's mm (RAS+).
      offset: mm; the points p of the plane have normal . p = offset.
      affine: [4, 4], of the native volume: voxel -> mm (RAS+).
      shape: of the native volume.
      index: of the slice, in what `radiological` returns.
    """
    view = orientation.slice_affine(affine, shape)
    column, row, height = (np.asarray(normal) @ view[:3, :3]).tolist()
    return column, row, float(offset - height * index - np.asarray(normal) @ view[:3, 3])


def subject_figure(panels: Mapping[str, Panels]) -> bytes:
    """Returns a PNG, a column for each method below each other: restored, anomaly map, detection.

    The first column has the input, the key to the maps' colours and the reference. More than `COLUMNS` columns
    continue in a block below. Every anomaly map has its own scale, written below it.
    """
    names: list[str | None] = [None, *panels]  # None: the first column
    window = next(iter(panels.values()))
    window = window._replace(midline=next((panel.midline for panel in panels.values() if panel.midline), None))
    box = window_of(window.brain if window.reference is None else window.brain | window.reference)
    blocks = np.array_split(np.array(names, dtype=object), -(-len(names) // COLUMNS))
    columns = max(map(len, blocks))
    cell = float(np.clip(9.6 / columns, 1.45, 2.3))  # inches
    height = cell * window.aspect * (box[0].stop - box[0].start) / (box[1].stop - box[1].start)
    size = (cell * columns + 0.4, (3 * height + 0.75) * len(blocks))
    longest = max(len(plain(name)) for name in panels)
    fitting = cell * 72 / (0.6 * longest)  # points: a letter is about .6 of them wide
    with mpl.rc_context({**STYLE, "axes.titlesize": min(8.0, fitting)}):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02), facecolor="white")
        for part, block in zip(figure.subfigures(len(blocks), 1, squeeze=False)[:, 0], blocks, strict=True):
            grid = part.subplots(3, columns, squeeze=False)
            for axes in grid.flat:
                _bare(axes)
            for column, name in zip(grid.T, block, strict=False):
                if name is None:
                    _draw_source(column, crop(window, *box))
                else:
                    _draw_method(column, name, crop(panels[name], *box))
            methods = grid[:, 1 if block[0] is None else 0]
            for axes, text in zip(methods, ("Restored", "Anomaly", detected_at(panels.values())), strict=True):
                axes.set_ylabel(text, fontsize=8)
        return encode(figure, "png")


def detected_at(panels: Iterable[Panels]) -> str:
    """Returns what stands beside detections: at which false positive rate, where that is one and known."""
    rates = {panel.rate for panel in panels}
    (rate,) = rates if len(rates) == 1 else ("",)
    return f"Detected at {100 * float(rate):g} % FPR" if rate else "Detected"


def _draw_source(column: Sequence[Axes], panel: Panels) -> None:
    """Draws the input, what the colours of an anomaly map mean, and the reference, where there is one."""
    column[0].imshow(panel.image, aspect=panel.aspect, **grey(panel))
    column[0].set_title("Input")
    _sides(column[0])
    _draw_midline(column[0], panel)
    bar = column[1].inset_axes((0.46, 0.1, 0.1, 0.8))
    signed = bool(panel.anomaly.min() < 0)
    bar.imshow(np.linspace(1, 0, 128)[:, None], cmap="RdBu_r" if signed else "magma", aspect="auto")
    bar.set_xticks([])
    bar.set_yticks([0, 127], ["end of scale", "- end of scale" if signed else "0"], fontsize=7)
    if panel.reference is not None:
        column[2].imshow(panel.image, aspect=panel.aspect, **grey(panel))
        column[2].set_title("Reference")
        _outline(column[2], panel.reference)
        _sides(column[2])


def _draw_method(column: Sequence[Axes], name: str, panel: Panels) -> None:
    """Draws restoration, anomaly map with its scale, and detection of one method."""
    column[0].set_title(plain(name))
    if panel.restored is None:
        nothing = np.full(panel.image.shape, np.nan)  # as large as the others
        column[0].imshow(nothing, aspect=panel.aspect, **grey(panel))
        column[0].text(
            0.5,
            0.5,
            "restores\nno image",
            transform=column[0].transAxes,
            ha="center",
            va="center",
            fontsize=8,
            color="#56606a",
        )
    else:
        column[0].imshow(panel.restored, aspect=panel.aspect, **grey(panel))
        _sides(column[0])
    top, signed = end_of_scale(panel), bool(panel.anomaly.min() < 0)
    _draw_anomaly(column[1], panel, top)
    column[1].set_xlabel(f"{f'{-top:.2g}' if signed else 0} to {top:.2g} {panel.unit}", fontsize=7, labelpad=1)
    _draw_detected(column[2], panel)


def _draw_anomaly(axes: Axes, panel: Panels, top: float) -> AxesImage:
    """Draws an anomaly map on a scale from 0 to `top`, from -top where it is signed."""
    colours = scale(panel, top)
    _sides(axes, dark=not colours["vmin"])
    return axes.imshow(panel.anomaly, aspect=panel.aspect, **colours)


def _draw_detected(axes: Axes, panel: Panels) -> None:
    """Draws the input, what was detected in it, and the outline of the reference."""
    axes.imshow(panel.image, aspect=panel.aspect, **grey(panel))
    if panel.detected is not None:
        fill = np.where(panel.detected, 1.0, np.nan)
        axes.imshow(fill, cmap=mpl.colors.ListedColormap([DETECTED]), alpha=0.75, aspect=panel.aspect)
    _outline(axes, panel.reference)
    _sides(axes)


def _draw_midline(axes: Axes, panel: Panels) -> None:
    """Draws where the mirror's plane cuts the slice, and says below the slice what the line is."""
    if panel.midline is None:
        return
    across, down, level = panel.midline
    rows = np.array([-0.5, panel.image.shape[0] - 0.5])
    axes.autoscale(False)
    axes.plot((level - down * rows) / across, rows, color=MIDLINE, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlabel("dashed: mirror plane", fontsize=7, labelpad=1)


def grey(panel: Panels) -> dict[str, Any]:
    """Returns the grey scale of a panel's image: from its brain's 0.5 to 99.8 percentile."""
    values = panel.image[panel.brain] if panel.brain.any() else panel.image
    low, high = np.percentile(values, [0.5, 99.8])
    return {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}


def scale(panel: Panels, end: float) -> dict[str, Any]:
    """Returns the colours of an anomaly map: from 0 to `end`, dark at 0; from -end where the map is signed."""
    if panel.anomaly.min() < 0:
        return {"vmin": -end, "vmax": end, "cmap": "RdBu_r"}
    return {"vmin": 0, "vmax": end, "cmap": "magma"}


def _bare(axes: Axes) -> None:
    """Removes ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def end_of_scale(panel: Panels) -> float:
    """Returns the end of the colour scale of an anomaly map, in the map's unit.

    The scale ends at the map's 99.5 percentile, or beyond: the threshold lies in its lower half, so that noise is dark.
    """
    high = float(np.percentile(np.abs(panel.anomaly[panel.brain]), 99.5)) if panel.brain.any() else 1.0
    return max(high, 2 * panel.threshold, 1e-3)


def _sides(axes: Axes, *, dark: bool = True) -> None:
    """Writes R and L: radiological view has the patient's right on the left."""
    for x, side in ((0.03, "R"), (0.97, "L")):
        axes.text(
            x,
            0.97,
            side,
            transform=axes.transAxes,
            color="white" if dark else INK,
            ha="left" if side == "R" else "right",
            va="top",
            fontsize=8,
            fontweight="bold",
        )


def _outline(axes: Axes, mask: np.ndarray | None) -> None:
    """Draws the border of a mask, if there is one."""
    if mask is not None and mask.any():
        axes.contour(np.pad(mask, 1)[1:-1, 1:-1].astype(float), [0.5], colors=[REFERENCE], linewidths=1.1)


def window_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns rows and columns that hold a mask and a margin of four pixels; all of them if it is empty."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    first = [max(0, int(index[0]) - 4) for index in (rows, columns)]
    last = [min(size, int(index[-1]) + 5) for index, size in zip((rows, columns), mask.shape, strict=True)]
    return slice(first[0], last[0]), slice(first[1], last[1])


def crop(panel: Panels, rows: slice, columns: slice) -> Panels:
    """Returns the panels cut to a window."""
    parts: Any = [part[rows, columns] if isinstance(part, np.ndarray) else part for part in panel]
    if panel.midline is None:
        return Panels(*parts)
    across, down, level = panel.midline
    return Panels(*parts)._replace(midline=(across, down, level - across * columns.start - down * rows.start))


def plain(text: str) -> str:
    """Returns ASCII text of bounded length: other glyphs may be missing from the font."""
    return text.encode("ascii", "replace").decode()[:40].lstrip("_")


def encode(figure: Figure, kind: str) -> bytes:
    """Returns the file a figure makes, without a date in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def samples_figure(rows: Mapping[str, np.ndarray]) -> bytes:
    """Returns a PNG of slices, [N, H, W] z-scored, a row for each name; "... sd" on its own scale."""
    with mpl.rc_context(STYLE):
        count = len(next(iter(rows.values())))
        figure = Figure(figsize=(1.3 * count, 1.4 * len(rows)), layout="constrained", facecolor="white")
        grid = figure.subplots(len(rows), count, squeeze=False)
        for axes, (name, images) in zip(grid, rows.items(), strict=True):
            low, high = np.percentile(images, (1, 99)) if name.endswith(" sd") else (-2, 3.5)
            axes[0].set_ylabel(name)
            for axis, image in zip(axes, images, strict=True):
                axis.imshow(image, cmap="gray", vmin=low, vmax=high)
                axis.set(xticks=[], yticks=[])
        return encode(figure, "png")


def curves_figure(panels: Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]], best: int | None) -> bytes:
    """Returns a PNG of curves against steps, a panel for each name.

    Args:
      panels: by name, then by the curve's label, steps and values. The scale of several curves is logarithmic where
        their values are positive and span a decade.
      best: the step that a line marks; None for none.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.5 * rows + 0.3), layout="constrained", facecolor="white")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, curves) in zip(grid.flat, panels.items(), strict=False):
            _draw_curves(axes, curves)
            axes.set(title=plain(name), xlabel="step")
            if best is not None:
                axes.axvline(best, color="#8a939c", linewidth=0.9, linestyle=":", label="best")
        grid.flat[0].legend(fontsize=7)
        return encode(figure, "png")


def _draw_curves(axes: Axes, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Draws the curves of one panel; the first is a thin line, another has a mark at every step it knows."""
    for number, (label, (steps, values)) in enumerate(curves.items()):
        style: Any = {"color": DETECTED, "marker": "o", "markersize": 3} if number else {"color": "#3b6ea5"}
        axes.plot(steps, values, linewidth=1.1, label=label, **style)
    found = [value for _, values in curves.values() for value in values]
    if len(curves) > 1 and 0 < 10 * min(found) < max(found):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())  # plain text: STYLE knows no formulas
        axes.yaxis.set_minor_formatter(LogFormatter())
