"""From folders of predictions to the files of an evaluation: metrics, tables, the page."""

import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lgjax
from lgjax.derivatives.pages import FOLDER
from lgjax.derivatives.read import Prediction, read_predictions
from lgjax.evaluation import compare, published, records
from lgjax.evaluation.measure import Result, evaluate
from lgjax.evaluation.references import References
from lgjax.evaluation.settings import Settings
from lgjax.preparation import midplane
from lgjax.report import show, tables, text, viewer
from lgjax.report.page import Picture, failures, pictured_subjects, render
from lgjax.report.show import Pages
from lgjax.report.viewer import Line
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.runtime.files import atomic_write
from lgjax.scans import names, sources
from lgjax.scans.pictures import Panels, midline, pixel_aspect, radiological, shown_slice, subject_figure

LOG = logging.getLogger(__name__)


NAMES = {False: ("table.md", "table.json", "report.html"), True: ("table1.md", "table1.json", "table1.html")}


class Written(NamedTuple):
    """What an evaluation tells beside the files that it wrote."""

    table: str  # Markdown
    page: pathlib.Path
    failures: list[str]  # what could not be evaluated; empty: everything was
    warnings: list[str]  # what was evaluated and yet should be looked at


def picture(prediction: Prediction, subject: sources.Subject, values: Sequence[float] = ()) -> Panels:
    """Returns the slice of one subject that the report shows; `values` of its reference are lesion."""
    shown = show.of(prediction, subject, values)
    affine, (reference, brain) = shown.affine, (shown.reference, shown.brain)
    index = shown_slice(*(radiological(mask, affine) for mask in (reference & brain, brain)))
    parts = (shown.scan, shown.restored, shown.anomaly, shown.detected, reference, brain)
    cut: list = [None if part is None else radiological(part, affine)[..., index] for part in parts]
    plane, line = prediction.sidecar.midplane, None
    if plane and midplane.fits(plane.score):
        line = midline(plane.normal, plane.offset_mm, affine, brain.shape, index)
    threshold = shown.thresholds.get(shown.rate, 0.0)
    return Panels(*[*cut, pixel_aspect(affine), shown.rate, threshold, line, shown.unit])


def save(result: Result, folder: pathlib.Path) -> None:
    """Writes metrics.json and subjects.tsv."""
    rows = records.lines(result.rows, result.metrics.failed)
    lines = ["\t".join(rows[0])] + ["\t".join(text.cell(row.get(key)) for key in rows[0]) for row in rows]
    atomic_write(folder / "subjects.tsv", "\n".join(lines) + "\n")
    atomic_write(folder / "metrics.json", json.dumps(records.to_json(result.metrics), indent=2, allow_nan=False) + "\n")


def run_evaluation(
    folders: Sequence[pathlib.Path],
    known: References,
    output: pathlib.Path,
    settings: Settings,
    against: str | None = None,
    with_paper: bool = False,
    command: str = "",
    with_viewer: bool = True,
) -> Written:
    """Evaluates folders of predictions and writes everything.

    Args:
      folders: what lgjax.restore wrote, a method each.
      known: the references.
      output: where metrics.json, tables and report go.
      settings: of the evaluation.
      against: the method that every other one is compared with; None: the references of `settings` that are there.
      with_paper: appends the paper's own numbers, and names the outputs table1.
      command: how this was started, for the record.
      with_viewer: writes a page for each subject that opens its volumes.

    Returns:
      What a person is told.

    Raises:
      UsageError: nothing of what was asked makes sense; before anything is computed where that can be known.
      EnvironmentFault: `output` cannot be written.
    """
    present = [folder for folder in folders if any(names.places(folder))] or folders[:1]
    named = _names(present)
    chosen = _compared(against, settings.references, list(named.values()))
    _probe(output)
    found: dict[pathlib.Path, Result] = {}
    remedy = "Run lgjax.restore again, or name another folder"
    faults = [InputError(path, "holds no sub-*/anat folder", remedy) for path in folders if path not in present]
    for folder, name in named.items():
        try:
            found[folder] = evaluate(folder, known, settings)._replace(name=name)
        except InputError as error:
            faults.append(error)
        else:
            save(found[folder], output / name if len(folders) > 1 else output)
    if not found:
        raise faults[0]
    found = dict(sorted(found.items(), key=lambda item: published.place(item[1].metrics.method)))
    pages = _viewer(found, known, chosen, output) if with_viewer else Pages([], [], [])
    table, page = _save_comparison(found, known, chosen, output, settings, with_paper, command, pages.written)
    results = list(found.values())
    warnings = [*tables.noted(results), *tables.missed(results), *tables.strange(results)]
    unseen = [f"{name}: {problem}" for name, problem in pages.failures]
    return Written(table, page, [str(fault) for fault in faults] + failures(results) + unseen, warnings)


def _save_comparison(
    found: Mapping[pathlib.Path, Result],
    known: References,
    chosen: Sequence[str],
    output: pathlib.Path,
    settings: Settings,
    with_paper: bool,
    command: str,
    viewed: Sequence[str],
) -> tuple[str, pathlib.Path]:
    """Writes the tables and the page of all methods; returns the table as Markdown and the path of the page.

    The page links to those subjects, by identifier, that are `viewed`: that have pages in the viewer.
    """
    results = list(found.values())
    evaluated = [name for name in chosen if any(result.name == name for result in results)]
    differences = [compare.compare(results, name, settings) for name in evaluated]
    table_name, json_name, page_name = NAMES[with_paper]
    table = tables.markdown(results, differences, with_paper)
    atomic_write(output / table_name, table)
    record = as_json(results, differences, with_paper, command)
    atomic_write(output / json_name, json.dumps(record, indent=2, allow_nan=False) + "\n")
    addresses = {name: f"{FOLDER}/{viewer.address(name)}" for name in viewed}
    page = render(results, _pictures(found, known, evaluated), differences, with_paper, addresses)
    atomic_write(output / page_name, page)
    return table, output / page_name


def as_json(
    results: Sequence[Result], differences: Sequence[records.Comparison], with_paper: bool, command: str
) -> dict[str, Any]:
    """Returns the table for programs: a row is metrics.json of a method with its name."""
    record = {
        "title": tables.title(results),
        "conditions": tables.conditions(results),
        "notice": text.NOTICE,
        "device": sorted({result.metrics.provenance.device for result in results}),
        "rows": [{"name": result.name, **records.to_json(result.metrics)} for result in results],
        "comparisons": [records.to_json(comparison) for comparison in differences],
        "provenance": {
            "command": command,
            "version": lgjax.__version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "predictions": [result.metrics.provenance.predictions for result in results],
        },
    }
    if with_paper:
        rows = [entry._asdict() for entry in published.TABLE1]
        record["paper"] = {
            "heading": published.HEADING,
            "source": published.SOURCE,
            "conditions": published.CONDITIONS,
            "rows": rows,
        }
    return record


def _names(folders: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns folders by name: the method, with the folder's own name where two share a method."""
    methods = {}
    for folder in folders:
        finished = read_predictions(folder)[0]
        methods[folder] = next(iter(finished.values())).sidecar.method if finished else folder.resolve().name
    found = {}
    for folder, method in methods.items():
        several = list(methods.values()).count(method) > 1
        own = names.identifier(folder.resolve().name).removeprefix("sub-")
        found[folder] = f"{method}-{own}" if several else method
    if len(set(found.values())) < len(found):
        raise UsageError("two folders of predictions have one name and one method. Rename one of the folders.")
    return found


def _compared(against: str | None, references: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns the methods to hold against the others; [] where there are no others."""
    if against and against not in names:
        raise UsageError(f"--against={against} is not among the methods. Give one of {', '.join(names)}.")
    chosen = [against] if against else references
    return [name for name in chosen if name in names and len(names) > 1]


def _probe(output: pathlib.Path) -> None:
    """Makes sure that the results can be written, before the work is done."""
    probe = output / ".lgjax-eval"
    atomic_write(probe, "")
    probe.unlink()


def _viewer(
    results: Mapping[pathlib.Path, Result], known: References, compared: Sequence[str], output: pathlib.Path
) -> Pages:
    """Writes the viewer's pages of one method: the first reference, or else the first; pages of others go."""
    result = min(results.values(), key=lambda each: each.name not in compared[:1])
    lines = {row.participant_id: _line(row, result.metrics.mask_rate, result.predictions) for row in result.rows}
    return show.write(output, result.predictions, known.subjects, lines.__contains__, lines, known.values)


def _line(row: records.Row, rate: str, finished: Mapping[str, Prediction]) -> Line:
    """Returns what the list of the viewer tells of an evaluated subject; the detection is that at `rate`."""
    name, warnings = row.participant_id, len(finished[row.participant_id].sidecar.warnings)
    return Line(name, row.kind, row.lesion_ml, row.detected_ml, row.dice.get(rate), rate, row.light, warnings)


def _pictures(results: Mapping[pathlib.Path, Result], known: References, compared: Sequence[str]) -> list[Picture]:
    """Returns the pictures of a few subjects of every kind; a subject that cannot be pictured is left out.

    Which ones is decided by the first reference, or else the first method.
    """
    pictures = []
    for name, caption in pictured_subjects(sorted(results.values(), key=lambda item: item.name not in compared[:1])):
        panels = {}
        for result in results.values():
            try:
                panels[result.name] = picture(result.predictions[name], known.subjects[name], known.values)
            except LgjaxError as error:
                LOG.warning("no picture of %s: %s", name, error)
        if panels:
            pictures.append(Picture(name, caption, subject_figure(panels)))
    return pictures
