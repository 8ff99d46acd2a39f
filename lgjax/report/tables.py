"""The tables of an evaluation: the paper's columns, ours, intervals, kinds, differences; as cells and as Markdown."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lgjax.evaluation import published
from lgjax.evaluation.intervals import Summary
from lgjax.evaluation.measure import Result
from lgjax.evaluation.records import Comparison, Difference, Group, Metrics, percent
from lgjax.report.text import NOTICE, describe
from lgjax.runtime.counting import counted
from lgjax.scans.finding.listing import shown
from lgjax.scans.names import subject


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


class Column(NamedTuple):
    """One number of every method: how to read it from its metrics, and which of two values is better."""

    heading: str
    read: Callable[[Group], Cell]
    better: Callable[..., Any] | None  # max, min, or None where methods do not compete


def cell(value: float | None, std: float | None = None, ci95: Sequence[float] | None = None, digits: int = 3) -> Cell:
    """Returns a number with its standard deviation and 95 % interval as text."""
    if value is None:
        return Cell(None, "–")
    text = f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if std is not None else "")
    return Cell(value, text, f"[{ci95[0]:.{digits}f}, {ci95[1]:.{digits}f}]" if ci95 else "")


def rates(results: Sequence[Result]) -> list[str]:
    """Returns the asked false positive rates of all methods, ascending."""
    return sorted({rate for result in results for rate in result.metrics.thresholds}, key=float)


def mask_rate(results: Sequence[Result]) -> str:
    """Returns the rate of the masks in which lesions, mm and mL are counted: "1 %", or all where methods differ."""
    found = sorted({result.metrics.mask_rate for result in results}, key=float)
    return " or ".join(percent(rate) for rate in found)


def paper_columns(asked: Sequence[str]) -> list[Column]:
    """Returns the columns of the paper's Table 1: Dice at every false positive rate, AUC, time of an iteration."""
    dice = [Column(f"Dice {percent(rate)}", _dice_reader(rate), max) for rate in asked]
    auc = Column("AUC", lambda found: cell(found.auc, None, found.ci95.auc), max)
    return [*dice, auc, Column("s/iteration", _seconds, min)]


def our_columns(mask_rate: str) -> list[Column]:
    """Returns what the paper does not report; all but the first two in the mask at `mask_rate`, as in "1 %"."""
    return [
        Column("AUPRC", lambda found: cell(found.auprc, None, found.ci95.auprc), max),
        Column("oracle Dice", lambda found: cell(found.dice_oracle), max),
        Column(f"FPR at {mask_rate}", lambda found: achieved(found, found.mask_rate), None),
        Column("sensitivity", lambda found: _lesions(found, lambda item: item.sensitivity), max),
        Column("PPV", lambda found: _lesions(found, lambda item: item.ppv), max),
        Column("F1", lambda found: _lesions(found, lambda item: item.f1), max),
        Column("HD95, mm", lambda found: _summary(found.hd95, 1), min),
        Column("detected of lesion, mL", _volumes, None),
        Column("healthy FP, mL", lambda found: _summary(found.healthy_fp_ml, 2), min),
    ]


def false_positive_columns(results: Sequence[Result]) -> list[Column]:
    """Returns the volume detected where nothing is ill: in healthy brains and in those of patients, at every rate."""
    some = {
        "healthy": any(result.metrics.n_subjects > result.metrics.n_with_lesion for result in results),
        "patients": any(result.metrics.n_with_lesion for result in results),
    }
    return [
        Column(f"{who} {percent(rate)}", _volume_reader(who, rate), None)
        for who in ("healthy", "patients")
        if some[who]
        for rate in rates(results)
    ]


def have_intervals(rows: Sequence[Row]) -> bool:
    """Returns whether any number of a table has an interval: of few subjects, none has."""
    return any(cell.interval for row in rows for cell in row.cells)


def false_positives(results: Sequence[Result]) -> str:
    """Returns what the columns of `false_positive_columns` show."""
    rows, few = table(results, false_positive_columns(results)), results[0].metrics.settings.few
    intervals = "with 95 % intervals" if have_intervals(rows) else f"without 95 % intervals: {few}"
    patients = max(result.metrics.n_with_lesion for result in results)
    healthy = max(result.metrics.n_subjects - result.metrics.n_with_lesion for result in results)
    over = [counted(healthy, "healthy brain")] if healthy else []
    over += [f"the lesion-free brain of {counted(patients, 'patient')}"] if patients else []
    return f"False positives, mL at each rate: mean over {', and over '.join(over)}, {intervals}"


def interval_columns(asked: Sequence[str], mask_rate: str) -> list[Column]:
    """Returns the 95 % intervals that fit a terminal: of Dice, AUC and AUPRC."""
    shown = [column for column in [*paper_columns(asked), our_columns(mask_rate)[0]] if column.heading != "s/iteration"]
    return [Column(column.heading, _interval_reader(column.read), None) for column in shown]


def kind_columns(asked: Sequence[str]) -> list[Column]:
    """Returns short columns for groups of subjects: mean Dice, AUC, AUPRC and the achieved false positive rates."""
    dice = [Column(f"Dice {percent(rate)}", _mean_reader(rate), max) for rate in asked]
    achieved = [Column(f"FPR {percent(rate)}", _achieved_reader(rate), None) for rate in asked]
    areas = [
        Column("AUC", lambda found: cell(found.auc), max),
        Column("AUPRC", lambda found: cell(found.auprc), max),
    ]
    return [*dice, *areas, *achieved]


def lesion_columns(asked: Sequence[str], mask_rate: str) -> list[Column]:
    """Returns the columns of one kind of lesion, with intervals: Dice, AUC, AUPRC and the achieved FPR."""
    auprc, _, achieved, *_ = our_columns(mask_rate)
    return [*paper_columns(asked)[:-1], auprc, achieved]


def table(results: Sequence[Result], columns: Sequence[Column], kind: str | None = None) -> list[Row]:
    """Returns a row for each method, the best value of every column marked.

    Args:
      results: the methods.
      columns: what to show.
      kind: restricts the table to one group of subjects.
    """
    sets: list[tuple[str, Group]] = [(result.name, result.metrics) for result in results]
    if kind is not None:
        sets = [(item.name, item.metrics.groups[kind]) for item in results if kind in item.metrics.groups]
    rows = [Row(name, found.n_subjects, [column.read(found) for column in columns]) for name, found in sets]
    return mark(rows, columns)


def mark(rows: list[Row], columns: Sequence[Column]) -> list[Row]:
    """Marks the best of every column where methods differ; as printed, so equal prints are equally good."""
    for place, column in enumerate(columns):
        printed = {_printed(row.cells[place]) for row in rows if row.cells[place].value is not None}
        if column.better is None or len(printed) < 2:
            continue
        best = column.better(printed)
        for row in rows:
            known = row.cells[place].value is not None
            row.cells[place] = row.cells[place]._replace(best=known and _printed(row.cells[place]) == best)
    return rows


def kinds(results: Sequence[Result]) -> list[str]:
    """Returns the groups worth a table of their own: none where all subjects are of one kind."""
    found = sorted({kind for result in results for kind in result.metrics.groups})
    return found if len(found) > 1 else []


def paper_rates(results: Sequence[Result]) -> list[str]:
    """Returns the false positive rates of the paper's Table 1 that were asked here too."""
    return [rate for rate in published.RATES if rate in rates(results)]


def paper_table(asked: Sequence[str]) -> list[Row]:
    """Returns the rows of the paper's Table 1 in the columns of `paper_columns`; no method is marked."""
    return [
        Row(
            f"{entry.printed}{f' {entry.term}' if entry.term else ''} ({entry.method})",
            0,
            [
                *(cell(*(entry.dice[rate] if entry.dice else (None,))) for rate in asked),
                cell(entry.auc),
                cell(entry.seconds),
            ],
        )
        for entry in published.TABLE1
    ]


def difference_headings(asked: Sequence[str]) -> list[str]:
    """Returns the headings of `differences`."""
    return [*(f"Dice {percent(rate)}" for rate in asked), "AUC", "AUPRC"]


def differences(comparison: Comparison, asked: Sequence[str]) -> list[Row]:
    """Returns a row for each other method: Dice at every rate, AUC, AUPRC; marked: the difference is certain."""
    return [
        Row(
            row.method,
            row.n_subjects,
            [_difference(entry) for entry in [*(row.dice.get(rate) for rate in asked), row.auc, row.auprc]],
        )
        for row in comparison.rows
    ]


def kind_differences(comparison: Comparison) -> tuple[list[str], list[Row]]:
    """Returns the kinds of lesion, and a row for each other method: AUPRC of every kind; marked as `differences`."""
    kinds = sorted({kind for row in comparison.rows for kind in row.auprc_by_kind})
    rows = [
        Row(row.method, row.n_subjects, [_difference(row.auprc_by_kind.get(kind)) for kind in kinds])
        for row in comparison.rows
    ]
    return kinds, rows if kinds else []


def title(results: Sequence[Result]) -> str:
    """Returns on what was measured, and on what the models were trained."""
    count = max(results, key=lambda result: result.metrics.n_subjects)
    groups = ", ".join(f"{found.n_subjects} {kind}" for kind, found in count.metrics.groups.items())
    labels = sorted({result.metrics.provenance.labels for result in results})
    trained = by_text({result.name: describe(result.metrics.provenance.trained_on) for result in results})
    number = counted(count.metrics.n_subjects, "subject")
    measured = f"{number} of {', '.join(labels)}" + (f" ({groups})" if groups else "")
    scores = ", ".join(sorted({result.metrics.score for result in results}))
    return f"Measured on {measured}. Trained on {trained}. Score: {scores}."


def tested(comparison: Comparison, mark: str) -> str:
    """Returns what makes a difference of a comparison certain, which bears a mark; or why no difference was tested."""
    entries = [entry for row in comparison.rows for entry in row.entries]
    return _tested(comparison.family_error, comparison.tests, entries, mark)


def kinds_tested(comparison: Comparison, mark: str) -> str:
    """Returns the same as `tested` of the differences by kind of lesion."""
    entries = [entry for row in comparison.rows for entry in row.auprc_by_kind.values()]
    return _tested(comparison.family_error, comparison.kind_tests, entries, mark)


def _tested(family_error: float, tests: int, entries: Sequence[Difference], mark: str) -> str:
    if not tests:
        reasons = dict.fromkeys(entry.reason for entry in entries if entry.reason)
        return f"No test and no 95 % interval: {'; '.join(reasons)}."
    return (
        f"{mark}: p < {family_error:g} after Holm's correction over the {tests} differences of this table (paired t; "
        "Student's t on the paired jackknife for AUC and AUPRC)."
    )


def strange(results: Sequence[Result]) -> list[str]:
    """Tells of which methods other scans were restored than those that lie beside the references."""
    counts = [(each.name, each.metrics.other_scans, each.metrics.n_subjects) for each in results]
    return [
        f"{name}: for {other} of {total} subjects, the scan beside the reference is not the file that was restored. "
        "Check that --labels names the data of --predictions"
        for name, other, total in counts
        if other
    ]


def missed(results: Sequence[Result]) -> list[str]:
    """Returns one line where a lesion lies wholly outside the brain mask, with who has it."""
    found = {item.name: ", ".join(item.metrics.missed_by_brain_mask) for item in results}
    found = {name: subjects for name, subjects in found.items() if subjects}
    if not found:
        return []
    return [
        f"Lesion wholly outside the brain mask, which counts with Dice and sensitivity 0, and which AUC cannot see: "
        f"{by_text(found, len(results))}."
    ]


def conditions(results: Sequence[Result]) -> list[str]:
    """Returns what limits the reading of the tables: times, what was left out, references, what the mask missed."""
    timed = {}
    for result in results:
        time = result.metrics.seconds_per_iteration
        if time.median is not None:
            size = f"of {time.batch_size} slices" if time.batch_size else "of a size not stated"
            grid = " of {}x{}".format(*time.grid) if time.grid else ""
            timed[result.name] = f"batches {size}{grid} on {result.metrics.provenance.device}"
    skipped = {
        result.name: f"1 of {step} axial slices was restored and measured; volumes in mL count these slices only, and "
        "lesion-wise metrics and HD95 know nothing of those between"
        for result in results
        if (step := result.metrics.slice_step) > 1
    }
    lines = [f"s/iteration: median over subjects, {by_text(timed)}."] if timed else []
    lines += [f"Subsampled: {by_text(skipped, len(results))}."] if skipped else []
    displaced = max(result.metrics.displaced_voxels for result in results)
    left_out = f"Left out, as neither lesion nor healthy: {displaced} voxels of tissue that synthetic lesions displace."
    values = ", ".join(f"{value:g}" for value in results[0].metrics.provenance.lesion_labels)
    lesion = [f"Lesion: the values {values} of the references."] if values else []
    lines += lesion + repeated(results) + ([left_out] if displaced else [])
    return lines + [f"{note}." for note in noted(results)] + missed(results)


def repeated(results: Sequence[Result]) -> list[str]:
    """Tells of people of whom several scans were measured; each scan counts as a subject."""
    scans = Counter(subject(row.participant_id) for row in max(results, key=lambda result: len(result.rows)).rows)
    several = [f"{person} ({count})" for person, count in sorted(scans.items()) if count > 1]
    if not several:
        return []
    who = f"{sum(scans.values())} scans are of {counted(len(scans), 'person')}: {shown(several)}"
    return [f"{who}. Each scan counts as a subject, so intervals and tests are too narrow."]


def noted(results: Sequence[Result]) -> list[str]:
    """Returns what should be known of how references were found and read, each note once."""
    notes = dict.fromkeys(note for result in results for note in result.metrics.notes.values())
    return [*notes, *(f"{one.name}: {_renamed(one.metrics.restored_as)}" for one in results if one.metrics.restored_as)]


def _renamed(names: Mapping[str, str]) -> str:
    """Tells of predictions that have other names than their references."""
    pairs = shown(f"{ours} is {theirs}" for theirs, ours in names.items())
    return f"{counted(len(names), 'scan')} matched by content, since the names in --labels are others: {pairs}"


def by_text(texts: Mapping[str, str], everyone: int | None = None) -> str:
    """Returns a text that all methods share, or each different one with the methods it holds for."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    if len(names) == 1 and len(texts) == (everyone or len(texts)):
        return next(iter(names))
    return "; ".join(f"{text} ({', '.join(members)})" for text, members in names.items())


def markdown(results: Sequence[Result], comparisons: Sequence[Comparison] = (), with_paper: bool = False) -> str:
    """Returns all tables, aligned for a terminal and valid as Markdown, the paper's columns first."""
    asked, shown_rate = rates(results), mask_rate(results)
    ours, short = our_columns(shown_rate), interval_columns(asked, shown_rate)
    kind_rows = []
    for result in results:
        shown = [(None, result.name), *((kind, f"- {kind}") for kind in kinds(results))]
        for kind, name in shown:
            rows = [row for row in table(results, kind_columns(asked), kind) if row.name == result.name]
            kind_rows += [row._replace(name=name) for row in rows]
    dice = "Dice: mean ± standard deviation over subjects with a lesion. Bold: best."
    parts = [
        " ".join([title(results), *conditions(results)]),
        _markdown(table(results, paper_columns(asked)), paper_columns(asked)),
        dice,
        _markdown(table(results, ours), ours),
        f"Sensitivity, PPV and F1 count lesions; these, HD95 and mL in the mask at {shown_rate} FPR.",
        *_intervals(table(results, short), short, results[0].metrics.settings.few),
    ]
    false = false_positive_columns(results)
    if false:
        parts += [
            f"{false_positives(results)}.",
            _with_intervals(["method", "n", *(column.heading for column in false)], table(results, false)),
        ]
    for comparison in comparisons:
        parts += _compared(comparison, asked)
    parts += [
        "By kind of subject: mean Dice, AUC, AUPRC, and the false positive rates achieved where those were asked.",
        _markdown(kind_rows, kind_columns(asked)),
    ]
    if with_paper:
        printed = paper_rates(results)
        head = ["method in the paper (ours)", *(column.heading for column in paper_columns(printed))]
        lines = [[row.name, *(item.text for item in row.cells)] for row in paper_table(printed)]
        parts += [f"## {published.HEADING}", published.CONDITIONS, aligned(head, lines)]
    return "\n\n".join([*parts, NOTICE]) + "\n"


def _compared(comparison: Comparison, asked: Sequence[str]) -> list[str]:
    """Returns the differences of one comparison as Markdown, of all subjects and by kind of lesion."""
    minus = f"minus {comparison.reference}"
    told = f"Each method {minus}, same subjects"
    parts = [
        f"{told}. {tested(comparison, '* certain')}",
        _with_intervals([minus, "n", *difference_headings(asked)], differences(comparison, asked)),
    ]
    kinds, rows = kind_differences(comparison)
    if rows:
        parts += [
            f"{told}: AUPRC by kind of lesion. {kinds_tested(comparison, '* certain')}",
            _with_intervals([minus, "n", *kinds], rows),
        ]
    return parts


def _with_intervals(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Returns a table as Markdown whose cells show their intervals; a star marks those that are marked."""
    lines = [
        [row.name, str(row.n), *(f"{cell.text} {cell.interval}".strip() + "*" * cell.best for cell in row.cells)]
        for row in rows
    ]
    return aligned(head, lines)


def _intervals(rows: Sequence[Row], columns: Sequence[Column], few: str) -> list[str]:
    """Returns the 95 % intervals as Markdown, or one line where there are too few subjects for any."""
    if all(item.text == "–" for row in rows for item in row.cells):
        return [f"No 95 % interval: {few}."]
    return ["95 % intervals:", _markdown(rows, columns)]


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns line up in a terminal."""
    lines = [[text.replace("|", "/") for text in line] for line in lines]
    widths = [max(len(line[place]) for line in [head, *lines]) for place in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def _markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    lines = [
        [row.name, str(row.n), *(f"**{item.text}**" if item.best else item.text for item in row.cells)] for row in rows
    ]
    return aligned(["method", "n", *(column.heading for column in columns)], lines)


def achieved(found: Group, rate: str) -> Cell:
    """Returns the achieved false positive rate where a rate was asked, in percent."""
    value = found.dice[rate].achieved_fpr if rate in found.dice else None
    return Cell(value, percentage(value))


def percentage(share: float | None) -> str:
    """Returns a share in per cent as text, "1.67 %" of 0.0167; of none, a dash."""
    return "–" if share is None else f"{100 * share:.2f} %"


def _dice_reader(rate: str) -> Callable[[Group], Cell]:
    return lambda found: _summary(found.dice.get(rate))


def _mean_reader(rate: str) -> Callable[[Group], Cell]:
    return lambda found: cell(found.dice[rate].mean if rate in found.dice else None)


def _achieved_reader(rate: str) -> Callable[[Group], Cell]:
    return lambda found: achieved(found, rate)


def _volume_reader(who: str, rate: str) -> Callable[[Group], Cell]:
    def read(found: Group) -> Cell:
        volume = getattr(found.fp_ml, who).get(rate)
        return cell(volume.mean, None, volume.ci95, 2) if volume else cell(None)

    return read


def _interval_reader(read: Callable[[Group], Cell]) -> Callable[[Group], Cell]:
    return lambda found: Cell(None, read(found).interval or "–")


def _summary(entry: Summary | None, digits: int = 3) -> Cell:
    return cell(entry.mean, entry.std, entry.ci95, digits) if entry else cell(None)


def _volumes(found: Group) -> Cell:
    detected, lesion = found.detected_ml.mean, found.lesion_ml.mean
    return Cell(detected, "–" if detected is None else f"{detected:.1f} of {lesion:.1f}")


def _lesions(found: Group, read: Callable[[Any], Any]) -> Cell:
    return cell(read(found.lesion_wise), None, read(found.lesion_wise.ci95))


def _seconds(found: Group) -> Cell:
    median = found.seconds_per_iteration.median if isinstance(found, Metrics) else None
    return Cell(median, "–" if median is None else f"{median:.3f}" if median >= 0.1 else f"{median:.2g}")


def _difference(entry: Difference | None) -> Cell:
    if entry is None or entry.difference is None:
        return Cell(None, "–")
    interval = "[{:+.3f}, {:+.3f}]".format(*entry.ci95) if entry.ci95 else ""
    return Cell(entry.difference, f"{entry.difference:+.3f}", interval, bool(entry.certain))


def _printed(item: Cell) -> float:
    return float(item.text.split(" ")[0])
