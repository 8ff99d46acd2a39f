"""The charts of the report: curves, strips, lambda and convergence, each returned as bytes of SVG.

A method has the same colour and dashes in every chart: its place among all methods decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from lgjax.derivatives.sidecar import Convergence, Search
from lgjax.evaluation import records
from lgjax.evaluation.metrics import Curves
from lgjax.scans.pictures import INK, STYLE, encode, plain

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D5D5D")  # Okabe and Ito, 2008
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
GUIDE: Any = {"color": "#8a8f94", "lw": 1, "ls": (0, (4, 3)), "zorder": 0}
GRID: Any = {"color": "#e6e8ea", "lw": 0.7}
Styles = Mapping[str, Mapping[str, Any]]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns colour and dashes of every method, told apart up to 28 of them."""
    return {
        name: {"color": COLOURS[index % len(COLOURS)], "ls": DASHES[index // len(COLOURS) % len(DASHES)]}
        for index, name in enumerate(names)
    }


def curves_figure(curves: Mapping[str, Curves], style: Styles) -> bytes:
    """Returns an SVG: ROC and precision-recall curves by method, with the chance level."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.1 + 0.055 * len(curves)), layout="constrained")
        roc, precision_recall = figure.subplots(1, 2)
        for name, curve in curves.items():
            roc.plot(*curve.roc, label=plain(name), lw=1.7, **style[name])
            precision_recall.plot(*curve.precision_recall, lw=1.7, **style[name])
        roc.plot([0, 1], [0, 1], label="chance", **GUIDE)
        for prevalence in sorted({round(curve.prevalence, 4) for curve in curves.values()}):
            precision_recall.axhline(prevalence, **GUIDE)
        roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        precision_recall.set(title="Precision and recall", xlabel="recall", ylabel="precision")
        # Precision of the first few voxels is noise: it does not set the scale.
        tops = [np.max(y[x >= 0.02], initial=0) for x, y in (curve.precision_recall for curve in curves.values())]
        top = _scale(max(tops, default=1))
        for axes, height in ((roc, 1.0), (precision_recall, top)):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01 * height, 1.01 * height))
            axes.grid(**GRID)
        _legend(figure, len(curves) + 1)
        return encode(figure, "svg")


def strips_figure(results: Mapping[str, Sequence[records.Row]], rates: Sequence[str]) -> bytes:
    """Returns an SVG: Dice of every subject and their mean, a panel for each FPR, a row for each method.

    Args:
      results: the measured subjects by method.
      rates: the asked false positive rates.
    """
    kinds = sorted({row.kind for rows in results.values() for row in rows if row.has_lesion})
    colours = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 1.5 + 0.42 * len(results)), layout="constrained")
        panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
        top = _scale(max(row.dice[rate] or 0 for rows in results.values() for row in rows for rate in rates))
        for axes, rate in zip(panels, rates, strict=True):
            for y, rows in enumerate(results.values()):
                if y % 2:
                    axes.axhspan(y - 0.5, y + 0.5, color="#f4f7f9", lw=0, zorder=0)
                _strip(axes, y, [(row.dice[rate], colours.get(row.kind, INK)) for row in rows])
            axes.set(title=f"at {100 * float(rate):g} % FPR", xlim=(-0.03 * top, 1.03 * top), xlabel="Dice")
            axes.grid(axis="x", **GRID)
        panels[0].set_yticks(range(len(results)), [plain(name) for name in results])
        panels[0].set_ylim(len(results) - 0.5, -0.5)
        for kind in kinds:
            panels[0].plot([], [], "o", ms=4, color=colours[kind], label=plain(kind) or "lesion")
        if kinds:
            figure.legend(loc="outside lower center", ncols=min(6, len(kinds)))
        return encode(figure, "svg")


def rates_figure(results: Mapping[str, Mapping[str, records.Dice]], style: Styles) -> bytes:
    """Returns an SVG: achieved over asked FPR, pooled, in percent, on log axes; the diagonal is as promised.

    Args:
      results: Dice by rate, by method.
      style: see `styles`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.9 + max(0, len(results) - 12) * 0.16), layout="constrained")
        axes = figure.subplots()
        seen = [0.05, 10.0]
        for name, entries in results.items():
            points = [(100 * float(rate), 100 * (entry.achieved_fpr or 0)) for rate, entry in entries.items()]
            points = [point for point in points if min(point) > 0]  # a log axis has no place for 0
            seen += [value for point in points for value in point]
            line = np.array(points or np.empty((0, 2))).T
            axes.plot(*line, marker="o", ms=4, lw=1.2, label=plain(name), **style[name])
        limits = (min(seen) / 1.4, max(seen) * 1.4)
        axes.plot(limits, limits, label="as asked", **GUIDE)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        axes.set(xlabel="asked false positive rate, %", ylabel="achieved false positive rate, %")
        _write_plainly(axes.xaxis)
        _write_plainly(axes.yaxis)
        axes.grid(**GRID)
        figure.legend(loc="outside right upper")
        return encode(figure, "svg")


def strengths_figure(searches: Mapping[str, Search], style: Styles) -> bytes:
    """Returns an SVG: SSIM of restored healthy slices over lambda, the chosen one marked; hollow: out of reach.

    Args:
      searches: by method.
      style: see `styles`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6 + max(0, len(searches) - 11) * 0.16), layout="constrained")
        axes = figure.subplots()
        for name, search in searches.items():
            curve = np.array(sorted(point for point in search.curve if point[0] > 0)).reshape(-1, 2).T
            axes.plot(*curve, label=plain(name), lw=1.5, **style[name])
            if search.strength > 0:
                colour = style[name]["color"]
                face = colour if search.reached else "white"
                axes.plot(search.strength, search.ssim, "o", ms=6, mec=colour, mfc=face, zorder=3)
        for target in sorted({search.target for search in searches.values()}):
            axes.axhline(target, label=f"{target:g} wanted", **GUIDE)
        axes.set_xscale(_log(point[0] for search in searches.values() for point in search.curve))
        _write_plainly(axes.xaxis)
        axes.set(xlabel="lambda, weight of the data term", ylabel="SSIM of restored healthy slices")
        axes.grid(**GRID)
        figure.legend(loc="outside right upper")
        return encode(figure, "svg")


def convergence_figure(traces: Mapping[str, Convergence], style: Styles) -> bytes:
    """Returns an SVG: mean absolute change of a pixel in each iteration, on a log axis.

    Args:
      traces: by method.
      style: see `styles`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6 + max(0, len(traces) - 12) * 0.16), layout="constrained")
        axes = figure.subplots()
        for name, trace in traces.items():
            change = np.array(trace.change, float)
            change[change <= 0] = np.nan  # a log axis has no place for 0
            axes.plot(trace.iteration, change, label=plain(name), lw=1.4, **style[name])
        axes.set_yscale(_log(value for trace in traces.values() for value in trace.change))
        _write_plainly(axes.yaxis)
        axes.set(xlabel="iteration", ylabel="change of a brain pixel, sd")
        axes.grid(**GRID)
        figure.legend(loc="outside right upper")
        return encode(figure, "svg")


def _log(values: Iterable[float]) -> str:
    """Returns the scale of an axis: log where there is a value to show on it."""
    return "log" if any(value > 0 for value in values) else "linear"


def _write_plainly(axis: Axis) -> None:
    """Labels the ticks of a log axis as plain numbers; those between powers of ten only where these are too few."""

    def between(value: float, _) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 20 * low else ""

    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(between)


def _legend(figure: Figure, lines: int) -> None:
    """Places the legend below, in up to five columns."""
    figure.legend(loc="outside lower center", ncols=min(5, lines), fontsize=8, handlelength=3)


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
