"""Compares restored outputs with reference segmentations: metrics, tables and a report.

    python -m lgjax.eval --predictions=runs/vae/restored --labels=phantom:test --output=runs/vae/evaluation

Several folders, separated by commas, are compared in one report. Subjects are matched by identifier. Lesion
is where the reference label is above 0, inside the brain mask that restoration used; negatives are all its
other voxels. One of the methods is held against every other one (--against): differences with paired intervals.
--paper appends the numbers that the paper's authors published, in a table of their own.
"""

import json
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

import lgjax
from lgjax import comparison, figures, paper, report, tables
from lgjax.data import nifti, sources
from lgjax.errors import InputError, LgjaxError, UsageError
from lgjax.evaluation import MASK_RATE, Result, evaluate, reference_mask
from lgjax.files import atomic_write
from lgjax.predictions import Prediction, read_predictions

AGAINST = "vae_lg_neural_tv"  # the paper's best method, held against the others where it is among them
NAMES = {False: ("table.md", "table.json", "report.html"), True: ("table1.md", "table1.json", "table1.html")}


def picture(prediction: Prediction, subject: sources.Subject) -> figures.Panels:
    """Returns the slice of one subject that the report shows."""
    image = subject.image()
    anomaly = prediction.read("desc-anomaly_T2w")
    nifti.check_same_grid(anomaly, image)
    brain = prediction.mask("desc-brain_mask", anomaly)
    reference = reference_mask(subject, anomaly)
    index = figures.shown_slice(*(figures.radiological(mask, anomaly.affine) for mask in (reference & brain, brain)))
    has_mask = MASK_RATE in prediction.sidecar["Thresholds"]
    detected = prediction.detected(MASK_RATE, anomaly) if has_mask else None
    has_restored = prediction.path("desc-restored_T2w").exists()  # GMM and others restore nothing
    restored = prediction.read("desc-restored_T2w").data if has_restored else None
    parts = (image.data, restored, anomaly.data, detected, reference, brain)
    cut: list = [None if part is None else figures.radiological(part, anomaly.affine)[..., index] for part in parts]
    return figures.Panels(*[*cut, figures.pixel_aspect(anomaly.affine)])


def save(result: Result, folder: pathlib.Path) -> None:
    """Writes metrics.json and subjects.tsv."""
    failed = [{"participant_id": name, "status": text} for name, text in result.metrics["failed"].items()]
    rows = [{**row, "status": "ok"} for row in result.rows] + failed
    lines = ["\t".join(rows[0])] + ["\t".join(_cell(row.get(key)) for key in rows[0]) for row in rows]
    atomic_write(folder / "subjects.tsv", "\n".join(lines) + "\n")
    atomic_write(folder / "metrics.json", json.dumps(result.metrics, indent=2, allow_nan=False) + "\n")


def run_evaluation(
    folders: Sequence[pathlib.Path],
    labels: str,
    output: pathlib.Path,
    assume_ras: bool = False,
    against: str | None = None,
    with_paper: bool = False,
    command: str = "",
) -> int:
    """Evaluates folders of predictions, writes everything, prints the tables.

    Args:
      folders: what lgjax.restore wrote, a method each.
      labels: scans with references.
      output: where metrics.json, tables and report go.
      assume_ras: takes references that state no orientation as RAS.
      against: the method that is compared with every other; None: `AGAINST` where it is there.
      with_paper: appends the paper's own numbers, and names the outputs table1.
      command: how this was started, for the record.

    Returns:
      The exit code: 0, or 3 if something could not be evaluated.

    Raises:
      UsageError: nothing of what was asked makes sense; before anything is computed where that can be known.
      EnvironmentFault: `output` cannot be written.
    """
    present = [folder for folder in folders if any(folder.glob("sub-*/anat"))] or folders[:1]
    named = _names(present)
    against = _compared(against, list(named.values()))
    subjects = sources.find(labels, assume_ras=assume_ras)
    _probe(output)
    found: dict[pathlib.Path, Result] = {}
    remedy = "Run lgjax.restore again, or name another folder"
    faults = [InputError(path, "holds no sub-*/anat folder", remedy) for path in folders if path not in present]
    for folder, name in named.items():
        try:
            found[folder] = evaluate(folder, subjects, labels)._replace(name=name)
        except InputError as error:
            faults.append(error)
        else:
            save(found[folder], output / name if len(folders) > 1 else output)
    if not found:
        raise faults[0]
    found = dict(sorted(found.items(), key=lambda item: paper.place(item[1].metrics["method"])))
    results = list(found.values())
    evaluated = any(result.name == against for result in results)
    differences = comparison.compare(results, against) if against and evaluated else None
    table_name, json_name, page_name = NAMES[with_paper]
    table = tables.markdown(results, differences, with_paper)
    atomic_write(output / table_name, table)
    record = as_json(results, differences, with_paper, command)
    atomic_write(output / json_name, json.dumps(record, indent=2, allow_nan=False) + "\n")
    page = report.render(results, _pictures(found, subjects, against), differences, with_paper)
    atomic_write(output / page_name, page)
    print(table)
    print(f"Report: {output / page_name}")
    for line in [str(fault) for fault in faults] + report.failures(results):
        print(f"failed: {line}", file=sys.stderr)
    return 3 if faults or any(result.metrics["failed"] for result in results) else 0


def as_json(
    results: Sequence[Result], differences: Mapping[str, Any] | None, with_paper: bool, command: str
) -> dict[str, Any]:
    """Returns the table for programs: a row is metrics.json of a method with its name."""
    record = {
        "title": tables.title(results),
        "conditions": tables.conditions(results),
        "notice": tables.NOTICE,
        "device": sorted({result.metrics["provenance"]["device"] for result in results}),
        "rows": [{"name": result.name, **result.metrics} for result in results],
        "comparison": differences,
        "provenance": {
            "command": command,
            "version": lgjax.__version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "predictions": [result.metrics["provenance"]["predictions"] for result in results],
        },
    }
    if with_paper:
        rows = [entry._asdict() for entry in paper.TABLE1]
        record["paper"] = {
            "heading": paper.HEADING,
            "source": paper.SOURCE,
            "conditions": paper.CONDITIONS,
            "rows": rows,
        }
    return record


def _names(folders: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns folders by name: the method, with the folder's own name where two share a method."""
    methods = {}
    for folder in folders:
        finished = read_predictions(folder)[0]
        methods[folder] = next(iter(finished.values())).sidecar["Method"] if finished else folder.resolve().name
    names = {}
    for folder, method in methods.items():
        several = list(methods.values()).count(method) > 1
        own = sources.identifier(folder.resolve().name).removeprefix("sub-")
        names[folder] = f"{method}-{own}" if several else method
    if len(set(names.values())) < len(names):
        raise UsageError("two folders of predictions have one name and one method. Rename one of the folders.")
    return names


def _compared(against: str | None, names: Sequence[str]) -> str | None:
    """Returns the method to hold against the others; None: there is none."""
    if against and against not in names:
        raise UsageError(f"--against={against} is not among the methods. Give one of {', '.join(names)}.")
    chosen = against or AGAINST
    return chosen if chosen in names and len(names) > 1 else None


def _probe(output: pathlib.Path) -> None:
    """Makes sure that the results can be written, before the work is done."""
    probe = output / ".lgjax-eval"
    atomic_write(probe, "")
    probe.unlink()


def _pictures(
    results: Mapping[pathlib.Path, Result], subjects: Sequence[sources.Subject], against: str | None
) -> list[report.Picture]:
    """Returns the pictures of a few subjects of every kind; a subject that cannot be pictured is left out.

    Which ones is decided by the method that is compared, or else the first.
    """
    references = {subject.identifier: subject for subject in subjects}
    predictions = {folder: read_predictions(folder)[0] for folder in results}
    pictures = []
    for name, caption in report.pictured_subjects(sorted(results.values(), key=lambda item: item.name != against)):
        panels = {}
        for folder, result in results.items():
            try:
                panels[result.name] = picture(predictions[folder][name], references[name])
            except LgjaxError as error:
                print(f"no picture of {name}: {error}", file=sys.stderr)
        if panels:
            pictures.append(report.Picture(name, caption, figures.subject_figure(panels)))
    return pictures


def _cell(value) -> str:
    """Returns a value as BIDS writes it in a table."""
    if value is None:
        return "n/a"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()) or "n/a"  # no tabs and line breaks


def _newest_predictions() -> list[str]:
    found = [*pathlib.Path("runs").glob("*/restored*/dataset_description.json")]
    found += pathlib.Path("runs").glob("*/restored/*/dataset_description.json")
    return [str(max(found, key=lambda path: path.stat().st_mtime).parent)] if found else []


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command line; not on import, since other binaries define flags of the same names."""
    text = "Folders that lgjax.restore wrote, separated by commas; default: the newest in runs/."
    flags.DEFINE_list("predictions", None, text, flag_values=values)
    text = "Scans with reference segmentations: a BIDS or BraTS folder, or phantom:test."
    flags.DEFINE_string("labels", "phantom:test", text, flag_values=values)
    text = "Folder for the results; default: evaluation, beside the predictions."
    flags.DEFINE_string("output", None, text, flag_values=values)
    text = f"Method that is compared with every other one; default: {AGAINST} where it is among them."
    flags.DEFINE_string("against", None, text, flag_values=values)
    text = "Append the paper's own Table 1, and name the outputs table1.md, table1.json and table1.html."
    flags.DEFINE_bool("paper", False, text, flag_values=values)
    text = "Take references that state no orientation as RAS."
    flags.DEFINE_bool("assume_ras", False, text, flag_values=values)


def main(argv: Sequence[str]) -> int:
    """Runs the command line."""
    if len(argv) > 1:
        raise UsageError(f"unexpected argument {argv[1]!r}. Give flags as --name=value.")
    chosen = flags.FLAGS.predictions or _newest_predictions()
    if not chosen:
        raise UsageError("there are no predictions in runs/. Run lgjax.restore, or give --predictions=FOLDER.")
    folders = [pathlib.Path(name) for name in dict.fromkeys(chosen)]
    if not any(folder.is_dir() for folder in folders):
        raise UsageError(f"{folders[0]} is no folder. Give the output folder of lgjax.restore.")
    output = pathlib.Path(flags.FLAGS.output or folders[0].parent / "evaluation")
    command = shlex.join(["python", "-m", "lgjax.eval", *sys.argv[1:]])
    values = flags.FLAGS
    return run_evaluation(
        folders, values.labels, output, values.assume_ras, values.against, values.paper, command=command
    )


if __name__ == "__main__":
    from lgjax import runtime

    define_flags(flags.FLAGS)
    runtime.run(main)
