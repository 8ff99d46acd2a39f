"""The words of an evaluation: one table for the terminal and one self-contained page to read offline."""

import base64
import datetime
import json
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

from lgjax import figures

NOTICE = "Research use only. Not a medical device: nothing here may guide the care of a patient."
NOTES = (
    "Dice: per subject inside the brain mask, then mean ± sample standard deviation over the subjects whose "
    "reference holds a lesion; [95 % interval of the mean, 1000 bootstrap resamples of subjects].",
    "AUC, AUPRC (average precision) and oracle Dice: all brain voxels of all subjects pooled, exact with "
    "ties; negatives are all brain voxels outside the lesions. The 95 % intervals of AUC and AUPRC resample "
    "subjects 1000 times over score histograms of at most 4096 bins. Oracle Dice is the best that one "
    "threshold chosen on the test set itself could reach: a bound, not a result.",
    "Thresholds come from held-out healthy subjects; achieved false positive rates are what they gave here.",
    "Lesion-wise, in the mask at 1 % FPR: a reference lesion (26-connected) is found if any of its voxels is "
    "detected; a detected component is true if any of its voxels is lesion. Means run over subjects with a "
    "lesion.",
)


class Result(NamedTuple):
    """One evaluated method."""

    name: str
    metrics: dict[str, Any]  # metrics.json
    rows: list[dict[str, Any]]  # subjects.tsv, evaluated subjects only
    curves: figures.Curves | None  # None where AUC is undefined


class Picture(NamedTuple):
    """One subject as the page shows it."""

    identifier: str
    caption: str
    png: bytes


class Cell(NamedTuple):
    """One number of a table; its text says what is undefined."""

    value: float | None
    text: str
    interval: str = ""
    best: bool = False


class Row(NamedTuple):
    """One line of a table."""

    name: str
    n: int
    cells: list[Cell]


def rates(results: Sequence[Result]) -> list[str]:
    """Returns the asked false positive rates of all methods, ascending, as written in metrics.json."""
    return sorted({rate for result in results for rate in result.metrics["thresholds"]}, key=float)


def columns(results: Sequence[Result]) -> list[str]:
    """Returns the headings of the numbers in the table."""
    return ["AUC", "AUPRC", *(f"Dice {100 * float(rate):g} %" for rate in rates(results)), "oracle Dice"]


def table(results: Sequence[Result], kind: str | None = None) -> list[Row]:
    """Returns a row for each method, the best value of every column marked where methods compete.

    Args:
      results: the methods.
      kind: restricts the table to one group of subjects; where it has no lesion, there is no row.
    """
    sets = [(result.name, result.metrics) for result in results]
    if kind is not None:
        groups = [(name, found["groups"].get(kind)) for name, found in sets]
        sets = [(name, found) for name, found in groups if found and found["n_with_lesion"]]
    rows = [Row(name, found["n_subjects"], _cells(found, rates(results))) for name, found in sets]
    if len(rows) > 1:
        for column in range(len(rows[0].cells)):
            known = [row.cells[column].text for row in rows if row.cells[column].value is not None]
            best = max((text.split(" ")[0] for text in known), default=None)  # as printed, so equal prints are equal
            for row in rows:
                cell = row.cells[column]
                row.cells[column] = cell._replace(best=cell.text.split(" ")[0] == best)
    return rows


def kinds(results: Sequence[Result]) -> list[str]:
    """Returns the groups worth a table of their own: none where all subjects are of one kind."""
    found = sorted({kind for result in results for kind in result.metrics["groups"]})
    return found if len(found) > 1 else []


def achieved(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Returns achieved false positive rates in percent, a row for each method and each of its groups."""
    rows = []
    for result in results:
        groups = [(f"- {kind}", result.metrics["groups"].get(kind)) for kind in kinds(results)]
        for name, found in [(result.name, result.metrics), *groups]:
            if found is not None:
                values = [found["dice"].get(rate, {}).get("achieved_fpr") for rate in rates(results)]
                rows.append((name, ["–" if value is None else f"{100 * value:.2f} %" for value in values]))
    return rows


def title(results: Sequence[Result]) -> str:
    """Returns on what was measured, and on what the models were trained."""
    count = max(results, key=lambda result: result.metrics["n_subjects"])
    groups = ", ".join(f"{found['n_subjects']} {kind}" for kind, found in count.metrics["groups"].items())
    labels = sorted({result.metrics["provenance"]["labels"] for result in results})
    trained = {result.name: _words(result.metrics["provenance"]["trained_on"]) for result in results}
    if len(set(trained.values())) == 1:
        source = next(iter(trained.values()))
    else:
        source = "; ".join(f"{text} ({name})" for name, text in trained.items())
    measured = f"{count.metrics['n_subjects']} subjects of {', '.join(labels)}" + (f" ({groups})" if groups else "")
    scores = ", ".join(sorted({result.metrics["score"] for result in results}))
    return f"Measured on {measured}. Trained on {source}. Score: {scores}."


def markdown_table(results: Sequence[Result]) -> str:
    """Returns the title line and the table, aligned for a terminal and valid as Markdown."""
    lines = []
    for result in results:
        shown = [(None, result.name), *((kind, f"- {kind}") for kind in kinds(results))]
        for kind, name in shown:
            for row in table(results, kind):
                if row.name == result.name:
                    lines.append([name, str(row.n), *(_markdown(cell) for cell in row.cells)])
    rows = [[name, *cells] for name, cells in achieved(results)]
    asked = [f"asked {100 * float(rate):g} %" for rate in rates(results)]
    notes = "Dice: mean ± standard deviation over subjects with a lesion [95 % interval of the mean]; bold: best."
    parts = [title(results), _aligned(["method", "n", *columns(results)], lines), f"{notes} {NOTICE}"]
    if asked:
        parts.insert(2, _aligned(["achieved FPR", *asked], rows))
    return "\n\n".join(parts) + "\n"


def _aligned(head: list[str], lines: list[list[str]]) -> str:
    """Returns a Markdown table whose columns line up in a terminal."""
    lines = [[cell.replace("|", "/") for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def failures(results: Sequence[Result]) -> list[str]:
    """Returns one line for every subject that was not evaluated."""
    return [f"{result.name}: {name}: {text}" for result in results for name, text in result.metrics["failed"].items()]


def pictured_subjects(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Chooses the subjects to show, with captions: the lowest, median and highest Dice of every kind.

    With several methods, the median of each kind by the first method's Dice. Healthy subjects are ordered by
    their false positive rate.
    """
    common = set.intersection(*({row["participant_id"] for row in result.rows} for result in results))
    rows = [row for row in results[0].rows if row["participant_id"] in common]
    chosen = []
    for kind in sorted({row["kind"] for row in rows}):
        for lesion, key, measure in ((True, "dice_0.01", "Dice"), (False, "fpr_0.01", "false positive rate")):
            group = [row for row in rows if row["kind"] == kind and (row["lesion_voxels"] > 0) == lesion]
            group.sort(key=operator.itemgetter("participant_id"))
            group = [group[index] for index in np.argsort([row.get(key) or 0.0 for row in group], stable=True)]
            for index, rank in _picks(len(group), several=len(results) > 1).items():
                value = group[index].get(key)
                number = f"{rank} {measure} of its group, {value:.3f}" if value is not None else ""
                volume = f"{group[index]['lesion_ml']:.1f} mL of lesion" if lesion else "no lesion"
                method = f" ({results[0].name})" if len(results) > 1 and number else ""
                caption = ", ".join(part for part in (kind, volume, number + method) if part)
                chosen.append((group[index]["participant_id"], caption))
    return chosen


def render(results: Sequence[Result], pictures: Sequence[Picture]) -> str:
    """Returns the report: one HTML page with everything in it, for reading offline and for print."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lgjax"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    curves = {result.name: result.curves for result in results if result.curves is not None}
    asked = rates(results)
    complete = {result.name: result for result in results if list(result.metrics["thresholds"]) == asked}
    drawn = {
        "curves": figures.curves_figure(curves) if curves else None,
        "strips": (
            figures.strips_figure({name: item.rows for name, item in complete.items()}, asked) if asked else None
        ),
        "rates": (
            figures.rates_figure({name: item.metrics["dice"] for name, item in complete.items()}) if asked else None
        ),
    }
    return environment.get_template("report.html").render(
        title=title(results),
        notice=NOTICE,
        notes=NOTES,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        columns=columns(results),
        table=table(results),
        groups=_groups(results),
        achieved=achieved(results),
        rates=[(rate, f"{100 * float(rate):g} %") for rate in asked],
        figures={name: _data_uri("svg+xml", data) for name, data in drawn.items() if data},
        pictures=[(item.identifier, item.caption, _data_uri("png", item.png)) for item in pictures],
        results=results,
        failures=failures(results),
        words=_words,
    )


def _groups(results: Sequence[Result]) -> list[tuple[str, list[Row]]]:
    """Returns a table for each kind of lesion; for one method a single table with a row for each kind."""
    found = [(kind, rows) for kind in kinds(results) if (rows := table(results, kind))]
    if len(results) > 1 or not found:
        return found
    return [("", [rows[0]._replace(name=kind) for kind, rows in found])]


def _picks(size: int, several: bool) -> dict[int, str]:
    """Returns which places of an ordered group to show, and what they are called."""
    middle = {(size - 1) // 2: "median"}
    if size < 2:
        return {0: "only"} if size else {}
    return middle if several else dict(sorted((middle | {0: "lowest", size - 1: "highest"}).items()))


def _cells(found: dict[str, Any], asked: Sequence[str]) -> list[Cell]:
    cells = [_cell(found[key], interval=found["ci95"][key]) for key in ("auc", "auprc")]
    for rate in asked:
        entry = found["dice"].get(rate, {"mean": None, "std": None, "ci95": None})
        cells.append(_cell(entry["mean"], entry["std"], entry["ci95"]))
    return [*cells, _cell(found["dice_oracle"])]


def _cell(value: float | None, std: float | None = None, interval: Sequence[float] | None = None) -> Cell:
    if value is None:
        return Cell(None, "–")
    text = f"{value:.3f}" + (f" ± {std:.3f}" if std is not None else "")
    return Cell(value, text, f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _markdown(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} {cell.interval}".rstrip()


def _words(value: Any) -> str:
    """Returns a provenance value for people."""
    if value is None or value in ("", "None"):
        return "not stated"
    return value if isinstance(value, str) else json.dumps(value)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
