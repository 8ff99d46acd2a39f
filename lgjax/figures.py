"""The drawings of the report: curves, strips and pictures of subjects, each returned as bytes of SVG or PNG.

Figures are made without pyplot: nothing is global and nothing needs a display. Text that users chose is drawn
as plain ASCII; names of subjects stand in the page, not in the figures.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D5D5D")  # Okabe and Ito, 2008
DASHES = ("-", "--", ":", "-.")
INK = "#1d2329"
REFERENCE, DETECTED = "#18c5c0", "#ff7a1a"  # on grey images: cyan outline, orange fill
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


class Curves(NamedTuple):
    """The thinned curves of one method (see `metrics`), and the chance level."""

    roc: tuple[np.ndarray, np.ndarray]  # false positive rate, true positive rate
    precision_recall: tuple[np.ndarray, np.ndarray]  # recall, precision
    prevalence: float  # share of lesion voxels: the precision of guessing


class Panels(NamedTuple):
    """One axial slice of one subject in radiological view, rows from anterior to posterior."""

    image: np.ndarray  # [H, W], the input
    restored: np.ndarray | None  # [H, W], in the input's units; None for methods that restore nothing
    anomaly: np.ndarray  # [H, W], standard deviations of the brain
    detected: np.ndarray | None  # [H, W] bool, the mask at 1 % FPR
    reference: np.ndarray | None  # [H, W] bool; None where nobody drew one
    brain: np.ndarray  # [H, W] bool
    aspect: float  # height of a pixel / its width


def radiological(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Returns a volume [X, Y, Z] of any orientation as [H, W, S]: anterior on top, right side on the left."""
    canonical = nib.orientations.apply_orientation(data, nib.orientations.io_orientation(affine))  # RAS+
    return canonical[::-1, ::-1].transpose(1, 0, 2)


def shown_slice(reference: np.ndarray, brain: np.ndarray) -> int:
    """Returns the slice of [H, W, S] with most lesion, or with most brain where there is no lesion."""
    return int((reference if reference.any() else brain).sum(axis=(0, 1)).argmax())


def pixel_aspect(affine: np.ndarray) -> float:
    """Returns height / width of an axial pixel of the volume that `radiological` returns."""
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    axes = nib.orientations.io_orientation(affine)[:, 0]  # world axis of every voxel axis
    return float(zooms[axes == 1][0] / zooms[axes == 0][0])


def curves_figure(curves: Mapping[str, Curves]) -> bytes:
    """Returns an SVG: ROC and precision-recall curves of all methods, with the chance level."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.1 + 0.13 * len(curves)), layout="constrained")
        roc, precision_recall = figure.subplots(1, 2)
        for index, (name, curve) in enumerate(curves.items()):
            line: Any = {
                "color": COLOURS[index % len(COLOURS)],
                "ls": DASHES[index // len(COLOURS) % len(DASHES)],
            }
            roc.plot(*curve.roc, label=_plain(name), lw=1.7, **line)
            precision_recall.plot(*curve.precision_recall, lw=1.7, **line)
        roc.plot([0, 1], [0, 1], color="#8a8f94", lw=1, ls=(0, (4, 3)), label="chance", zorder=0)
        for prevalence in sorted({round(curve.prevalence, 4) for curve in curves.values()}):
            precision_recall.axhline(prevalence, color="#8a8f94", lw=1, ls=(0, (4, 3)), zorder=0)
        roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        precision_recall.set(title="Precision and recall", xlabel="recall", ylabel="precision")
        # Precision of the first few voxels is noise: it does not set the scale.
        tops = [np.max(y[x >= 0.02], initial=0) for x, y in (curve.precision_recall for curve in curves.values())]
        top = _scale(max(tops, default=1))
        for axes, height in ((roc, 1.0), (precision_recall, top)):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01 * height, 1.01 * height))
            axes.grid(color="#e6e8ea", lw=0.7)
        figure.legend(loc="outside lower center", ncols=min(4, len(curves) + 1))
        return _encode(figure, "svg")


def strips_figure(results: Mapping[str, Sequence[Mapping[str, Any]]], rates: Sequence[str]) -> bytes:
    """Returns an SVG: Dice of every subject and their mean, a panel for each FPR, a row for each method.

    Args:
      results: the rows of subjects.tsv by method.
      rates: the asked false positive rates, as written in the column names.
    """
    kinds = sorted({row["kind"] for rows in results.values() for row in rows if row["lesion_voxels"]})
    colours = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 1.5 + 0.42 * len(results)), layout="constrained")
        panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
        top = _scale(max(row[f"dice_{rate}"] or 0 for rows in results.values() for row in rows for rate in rates))
        for axes, rate in zip(panels, rates, strict=True):
            for y, rows in enumerate(results.values()):
                _strip(axes, y, [(row[f"dice_{rate}"], colours.get(row["kind"], INK)) for row in rows])
            axes.set(title=f"at {_percent(rate)} FPR", xlim=(-0.03 * top, 1.03 * top), xlabel="Dice")
            axes.grid(axis="x", color="#e6e8ea", lw=0.7)
        panels[0].set_yticks(range(len(results)), [_plain(name) for name in results])
        panels[0].set_ylim(len(results) - 0.5, -0.5)
        for kind in kinds:
            panels[0].plot([], [], "o", ms=4, color=colours[kind], label=_plain(kind) or "lesion")
        if kinds:
            figure.legend(loc="outside lower center", ncols=min(6, len(kinds)))
        return _encode(figure, "svg")


def rates_figure(results: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns an SVG: achieved over asked FPR, pooled, in percent, on log axes; the diagonal is as promised.

    Args:
      results: the "dice" entry of metrics.json by method.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.9 + 0.1 * len(results)), layout="constrained")
        axes = figure.subplots()
        seen = [0.05, 10.0]
        for index, (name, entries) in enumerate(results.items()):
            points = [(100 * float(rate), 100 * (entry["achieved_fpr"] or 0)) for rate, entry in entries.items()]
            points = [point for point in points if min(point) > 0]  # a log axis has no place for 0
            seen += [value for point in points for value in point]
            style: Any = {
                "color": COLOURS[index % len(COLOURS)],
                "ls": DASHES[index // len(COLOURS) % len(DASHES)],
            }
            axes.plot(*np.array(points or np.empty((0, 2))).T, marker="o", ms=5, lw=1.2, label=_plain(name), **style)
        limits = (min(seen) / 1.4, max(seen) * 1.4)
        axes.plot(limits, limits, color="#8a8f94", lw=1, ls=(0, (4, 3)), label="as asked", zorder=0)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        axes.set(xlabel="asked false positive rate, %", ylabel="achieved false positive rate, %")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter("")
        axes.grid(color="#e6e8ea", lw=0.7)
        figure.legend(loc="outside right upper")
        return _encode(figure, "svg")


def subject_figure(panels: Mapping[str, Panels]) -> bytes:
    """Returns a PNG, a row for each method: input, reference, restoration, anomaly map, detection."""
    window = next(iter(panels.values()))
    rows, columns = _box(window.brain if window.reference is None else window.brain | window.reference)
    width = 1.9 * 5 + 0.9
    height = 1.9 * len(panels) * window.aspect * (rows.stop - rows.start) / (columns.stop - columns.start) + 0.3
    with mpl.rc_context({**STYLE, "axes.titlesize": 9}):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        grid = figure.subplots(len(panels), 5, squeeze=False)
        for index, (name, panel) in enumerate(panels.items()):
            _draw_row(grid[index], name, _crop(panel, rows, columns), _top(panel), first=index == 0)
        titles = ("Input", "Reference", "Restored", "Anomaly, sd", "Detected at 1 % FPR")
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title)
        return _encode(figure, "png")


def _draw_row(row: Sequence[Axes], name: str, panel: Panels, top: float, *, first: bool) -> None:
    """Draws input, reference (where there is one), restored, anomaly, detected; the first two only if `first`."""
    source, restored, anomaly, detected = row[0], *row[-3:]
    values = panel.image[panel.brain] if panel.brain.any() else panel.image
    low, high = np.percentile(values, [0.5, 99.8])
    grey: Any = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6), "aspect": panel.aspect}
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    if first:
        source.imshow(panel.image, **grey)
        if panel.reference is not None:
            row[1].imshow(panel.image, **grey)
            _outline(row[1], panel.reference)
    restored.set_ylabel(_plain(name), fontsize=8)
    if panel.restored is not None:
        restored.imshow(panel.restored, **grey)
    signed = bool(panel.anomaly.min() < 0)
    limits: Any = {"vmin": -top, "vmax": top, "cmap": "RdBu_r"} if signed else {"vmin": 0, "vmax": top}
    shown = anomaly.imshow(panel.anomaly, aspect=panel.aspect, **{"cmap": "magma", **limits})
    anomaly.figure.colorbar(shown, ax=anomaly, shrink=0.75, pad=0.02).ax.tick_params(labelsize=7)
    detected.imshow(panel.image, **grey)
    if panel.detected is not None:
        fill = np.where(panel.detected, 1.0, np.nan)
        detected.imshow(fill, cmap=mpl.colors.ListedColormap([DETECTED]), alpha=0.75, aspect=panel.aspect)
    _outline(detected, panel.reference)
    for axes in row:
        if axes.images:
            _sides(axes, dark=axes is not anomaly or not signed)


def _top(panel: Panels) -> float:
    """The end of the colour scale of an anomaly map, in standard deviations of the brain."""
    return max(float(np.percentile(np.abs(panel.anomaly[panel.brain]), 99.5)) if panel.brain.any() else 1.0, 1e-3)


def _sides(axes: Axes, *, dark: bool) -> None:
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


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns rows and columns that hold a mask and a margin of four pixels; all of them if it is empty."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    first = [max(0, int(index[0]) - 4) for index in (rows, columns)]
    last = [min(size, int(index[-1]) + 5) for index, size in zip((rows, columns), mask.shape, strict=True)]
    return slice(first[0], last[0]), slice(first[1], last[1])


def _crop(panel: Panels, rows: slice, columns: slice) -> Panels:
    """Returns the panels cut to a window."""
    parts: Any = [part[rows, columns] if isinstance(part, np.ndarray) else part for part in panel]
    return Panels(*parts)


def _strip(axes: Axes, y: int, dots: Sequence[tuple[float | None, str]]) -> None:
    """Draws one method's subjects around height `y`, spread to keep equal values apart, and their mean."""
    known = [(value, colour) for value, colour in dots if value is not None]
    if not known:
        return
    spread = y + 0.26 * np.sin(2.4 * np.arange(len(known)))
    values = np.array([value for value, _ in known])
    axes.scatter(values, spread, s=13, c=[colour for _, colour in known], alpha=0.75, lw=0)
    axes.plot([values.mean()] * 2, [y - 0.36, y + 0.36], color=INK, lw=1.8)


def _scale(largest: float) -> float:
    """Returns the end of an axis from 0: a little above the largest value, at least 0.1, at most 1."""
    return float(np.clip(np.ceil(11 * largest) / 10, 0.1, 1))


def _percent(rate: str) -> str:
    """Returns "0.001" as "0.1 %"."""
    return f"{100 * float(rate):g} %"


def _plain(text: str) -> str:
    """Returns ASCII text of bounded length: other glyphs may be missing from the font."""
    return text.encode("ascii", "replace").decode()[:40].lstrip("_")


def _encode(figure: Figure, kind: str) -> bytes:
    """Returns the file a figure makes, without a date in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def scan_figure(rows: Mapping[str, Panels], title: str) -> bytes:
    """Returns a PNG of one scan without reference, a row for each slice: input, restored, anomaly map, detection."""
    panels = list(rows.values())
    window = np.logical_or.reduce([panel.brain for panel in panels])
    box = _box(window)
    height = 2.2 * panels[0].aspect * (box[0].stop - box[0].start) / (box[1].stop - box[1].start)
    with mpl.rc_context({**STYLE, "axes.titlesize": 9}):
        figure = Figure(figsize=(9.6, height * len(panels) + 0.7), layout="constrained", facecolor="white")
        grid = figure.subplots(len(panels), 4, squeeze=False)
        for row, (name, panel) in zip(grid, rows.items(), strict=True):
            _draw_row(row, name, _crop(panel, *box), max(map(_top, panels)), first=True)
        for axes, text in zip(grid[0], ("Input", "Restored", "Anomaly, sd", "Detected at 1 % FPR"), strict=True):
            axes.set_title(text)
        figure.suptitle(title, fontsize=9)
        return _encode(figure, "png")


def samples_figure(x: np.ndarray, reconstructions: np.ndarray, deviations: np.ndarray) -> bytes:
    """Returns a PNG of training slices, their reconstructions and predicted deviations, each [N, H, W]."""
    rows = (
        ("input", x, (-2, 3.5)),
        ("reconstruction", reconstructions, (-2, 3.5)),
        ("predicted sd", deviations, (0, 1)),
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.3 * len(x), 4.2), layout="constrained", facecolor="white")
        grid = figure.subplots(3, len(x), squeeze=False)
        for axes, (name, images, (low, high)) in zip(grid, rows, strict=True):
            axes[0].set_ylabel(name)
            for axis, image in zip(axes, images, strict=True):
                axis.imshow(image, cmap="gray", vmin=low, vmax=high)
                axis.set(xticks=[], yticks=[])
        return _encode(figure, "png")
