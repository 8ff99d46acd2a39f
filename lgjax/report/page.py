"""The page of an evaluation: one self-contained HTML file to read offline, with every table, chart and picture."""

import base64
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lgjax.derivatives.sidecar import short_unit
from lgjax.evaluation import published, records
from lgjax.evaluation.measure import Result
from lgjax.report import charts, tables, text
from lgjax.report.tables import Row


class Picture(NamedTuple):
    """One subject as the page shows it."""

    identifier: str
    caption: str
    png: bytes


def render(
    results: Sequence[Result],
    pictures: Sequence[Picture],
    comparisons: Sequence[records.Comparison] = (),
    with_paper: bool = False,
    viewed: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Returns the report: one HTML page with everything in it, for reading offline and for print.

    Args:
      results: the methods, in the order of the tables.
      pictures: of subjects.
      comparisons: of all methods with each reference, see `compare.compare`.
      with_paper: whether the paper's own Table 1 is appended.
      viewed: addresses of the subjects' pages in the viewer, by identifier.
    """
    asked = tables.rates(results)
    columns, ours = tables.paper_columns(asked), tables.our_columns(tables.mask_rate(results))
    printed, false = tables.paper_rates(results), tables.false_positive_columns(results)
    summary, lesions = tables.table(results, columns), tables.table(results, ours)
    return text.template("report.html").render(
        title=tables.title(results),
        conditions=tables.conditions(results),
        notice=text.NOTICE,
        notes=[*notes(results), *resolutions(results)],
        date=text.now(),
        headings=[column.heading for column in columns],
        table=summary,
        have_intervals=tables.have_intervals([*summary, *lesions]),
        few=results[0].metrics.settings.few,
        our_headings=[column.heading for column in ours],
        our_table=lesions,
        lesion_headings=[column.heading for column in tables.lesion_columns(asked, tables.mask_rate(results))],
        groups=_groups(results, asked),
        achieved=achieved(results),
        false_told=tables.false_positives(results),
        false_headings=[column.heading for column in false],
        false_table=tables.table(results, false) if false else [],
        rates=[(rate, tables.percent(rate)) for rate in asked],
        comparisons=[_compared(comparison, asked) for comparison in comparisons],
        difference_headings=tables.difference_headings(asked),
        paper=published if with_paper else None,
        paper_headings=[column.heading for column in tables.paper_columns(printed)],
        paper_table=tables.paper_table(printed),
        figures={name: _data_uri("svg+xml", data) for name, data in _charts(results, asked).items()},
        pictures=[(item.identifier, item.caption, _data_uri("png", item.png)) for item in pictures],
        results=results,
        viewed=viewed,
        undefined=undefined(results),
        failures=failures(results),
        fields=records.to_json,
        unit=short_unit,
        percentage=tables.percentage,
        words=text.describe,
    )


def notes(results: Sequence[Result]) -> list[str]:
    """Returns how the numbers of the page were made."""
    rate, settings = tables.mask_rate(results), results[0].metrics.settings
    return [
        "Dice: per subject inside the brain mask, then mean ± sample standard deviation over the subjects whose "
        "reference holds a lesion; [95 % interval of the mean, Student's t]. A lesion wholly outside the brain mask "
        "was missed: Dice and sensitivity 0.",
        "AUC, AUPRC (average precision) and oracle Dice: all brain voxels of all subjects pooled, with ties; negatives "
        f"are all voxels of the {results[0].metrics.negatives}, outside the lesions. Their 95 % intervals are "
        "Student's t on the log odds, with the standard error of the jackknife over subjects, from histograms whose "
        "bins are less than 1 % of a score wide. Oracle Dice is the best that one threshold chosen on the test set "
        "itself could reach: a bound, not a result.",
        f"No interval and no test is stated for fewer than {settings.least_subjects} subjects.",
        "Thresholds come from held-out healthy subjects; achieved false positive rates are what they gave here.",
        f"Lesion-wise, in the mask at {rate} FPR: a detected component ({settings.connectivity} neighbours) is true if "
        f"at least {100 * settings.detection_share:g} % of its voxels are lesion; a reference lesion is found if true "
        f"components cover at least {100 * settings.lesion_share:g} % of it. Means run over subjects with a lesion.",
        f"HD95, in the mask at {rate} FPR: the larger of the two directed 95th percentiles of distances between border "
        "voxels, in mm, over subjects with both a lesion and a detection.",
        f"Detected of lesion, mL: mean volume detected at {rate} FPR, and mean volume of the reference, over subjects "
        f"with a lesion. Healthy FP: volume detected at {rate} FPR in subjects whose reference is empty.",
        "False positives in mL: mean volume of the detections outside all lesions, over subjects whose reference is "
        "empty (healthy) and over subjects with a lesion (patients); [95 % interval of the mean, Student's t].",
        "Differences of AUC and AUPRC are taken from those histograms too: their last digit may differ from that of "
        "two numbers of the tables.",
    ]


def achieved(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Returns achieved false positive rates in percent, a row for each method and each of its groups."""
    rows = []
    for result in results:
        groups = [(f"- {kind}", result.metrics.groups.get(kind)) for kind in tables.kinds(results)]
        for name, found in [(result.name, result.metrics), *groups]:
            if found is not None:
                rows.append((name, [tables.achieved(found, rate).text for rate in tables.rates(results)]))
    return rows


def resolutions(results: Sequence[Result]) -> list[str]:
    """Returns one line for every method whose pooled metrics are not exact: how far off they can be."""
    return [
        f"{result.name}: so many voxels that scores were rounded to {found.score_bits} of 32 bits for the pooled "
        f"metrics; AUC is within {found.auc_resolution:.1g} of the exact one, AUPRC within "
        f"{found.auprc_resolution:.1g}."
        for result in results
        if (found := result.metrics).auc_resolution
    ]


def undefined(results: Sequence[Result]) -> list[str]:
    """Returns one line for every null in metrics.json and the reason for it, with the methods it holds for."""
    reasons: dict[str, dict[str, str]] = {}
    for result in results:
        for key, reason in result.metrics.reasons.items():
            reasons.setdefault(key, {})[result.name] = reason
    return [f"{key}: {tables.by_text(by_name, len(results))}" for key, by_name in reasons.items()]


def failures(results: Sequence[Result]) -> list[str]:
    """Returns one line for every subject that was not evaluated."""
    return [f"{result.name}: {name}: {text}" for result in results for name, text in result.metrics.failed.items()]


def pictured_subjects(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Chooses the subjects to show, with captions: the lowest, median and highest Dice of every kind.

    With several methods, the median of each kind by the first method's Dice. Healthy subjects are ordered by
    their false positive rate.
    """
    common = set.intersection(*({row.participant_id for row in result.rows} for result in results))
    rows = [row for row in results[0].rows if row.participant_id in common]
    chosen = []
    for kind in sorted({row.kind for row in rows}):
        for lesion, measure in ((True, "Dice"), (False, "false positive rate")):
            group = [row for row in rows if row.kind == kind and row.has_lesion == lesion]
            group.sort(key=operator.attrgetter("participant_id"))
            values = [(row.dice if lesion else row.fpr).get(results[0].metrics.mask_rate) for row in group]
            order = np.argsort([value or 0.0 for value in values], stable=True)
            for place, rank in _picks(len(group), several=len(results) > 1).items():
                row, value = group[order[place]], values[order[place]]
                said = tables.percentage(value) if not lesion else tables.cell(value).text
                number = f"{rank} {measure} of its group, {said}" if value is not None else ""
                volume = f"{row.lesion_ml:.1f} mL of lesion" if lesion else "no lesion"
                method = f" ({results[0].name})" if len(results) > 1 and number else ""
                caption = ", ".join(part for part in (kind, volume, number + method) if part)
                chosen.append((row.participant_id, caption))
    return chosen


def _charts(results: Sequence[Result], asked: Sequence[str]) -> dict[str, bytes]:
    """Returns the charts that there is something to draw in, SVG by name."""
    style = charts.styles([result.name for result in results])
    curves = {result.name: result.curves for result in results if result.curves is not None}
    complete = [result for result in results if list(result.metrics.thresholds) == list(asked)]
    searches = {result.name: found for result in results if (found := result.metrics.search)}
    traces = {result.name: trace for result in results if (trace := result.metrics.convergence)}
    drawn = {}
    if curves:
        drawn["curves"] = charts.curves_figure(curves, style)
    if asked and complete:
        drawn["strips"] = charts.strips_figure({item.name: item.rows for item in complete}, asked)
        drawn["rates"] = charts.rates_figure({item.name: item.metrics.dice for item in complete}, style)
    if searches:
        drawn["strengths"] = charts.strengths_figure(searches, style)
    if traces:
        drawn["convergence"] = charts.convergence_figure(traces, style)
    return drawn


def _groups(results: Sequence[Result], asked: Sequence[str]) -> list[tuple[str, list[Row]]]:
    """Returns a table for each kind of lesion; for one method a single table with a row for each kind."""
    columns = tables.lesion_columns(asked, tables.mask_rate(results))
    with_lesion = [kind for kind in tables.kinds(results) if _has_lesion(results, kind)]
    found = [(kind, tables.table(results, columns, kind)) for kind in with_lesion]
    if len(results) > 1 or not found:
        return found
    return [("", [rows[0]._replace(name=kind) for kind, rows in found])]


def _compared(comparison: records.Comparison, asked: Sequence[str]) -> dict[str, Any]:
    """Returns one comparison as the page shows it."""
    headings, rows = tables.kind_differences(comparison)
    return {
        "reference": comparison.reference,
        "tests": comparison.tests,
        "tested": tables.tested(comparison, "Marked"),
        "rows": tables.differences(comparison, asked),
        "kind_tests": comparison.kind_tests,
        "kinds_tested": tables.kinds_tested(comparison, "Marked"),
        "kinds": headings,
        "kind_rows": rows,
    }


def _has_lesion(results: Sequence[Result], kind: str) -> bool:
    groups = (result.metrics.groups.get(kind) for result in results)
    return any(group and group.n_with_lesion for group in groups)


def _picks(size: int, several: bool) -> dict[int, str]:
    """Returns which places of an ordered group to show, and what they are called."""
    middle = {(size - 1) // 2: "median"}
    if size < 2:
        return {0: "only"} if size else {}
    return middle if several else dict(sorted((middle | {0: "lowest", size - 1: "highest"}).items()))


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
