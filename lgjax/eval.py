"""Compares restored outputs with reference segmentations: metrics, tables and a report.

    python -m lgjax.eval --predictions=runs/vae/restored --labels=phantom:test --output=runs/vae/evaluation

Several folders, separated by commas, are compared in one report. Subjects are matched by identifier. Lesion
is where the reference label is above 0, inside the brain mask that restoration used; negatives are all its
other voxels.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from lgjax import figures, report
from lgjax.data import nifti, sources
from lgjax.errors import InputError, LgjaxError, UsageError
from lgjax.evaluation import LESION_WISE_RATE, evaluate, reference_mask
from lgjax.files import atomic_write
from lgjax.predictions import Prediction, read_predictions


def picture(prediction: Prediction, subject: sources.Subject) -> figures.Panels:
    """Returns the slice of one subject that the report shows."""
    image = subject.image()
    anomaly = prediction.read("desc-anomaly_T2w")
    nifti.check_same_grid(anomaly, image)
    brain = prediction.mask("desc-brain_mask", anomaly)
    reference = reference_mask(subject, anomaly)
    index = figures.shown_slice(*(figures.radiological(mask, anomaly.affine) for mask in (reference, brain)))
    has_mask = LESION_WISE_RATE in prediction.sidecar["Thresholds"]
    detected = prediction.detected(LESION_WISE_RATE, anomaly) if has_mask else None
    has_restored = prediction.path("desc-restored_T2w").exists()  # GMM and others restore nothing
    restored = prediction.read("desc-restored_T2w").data if has_restored else None
    parts = (image.data, restored, anomaly.data, detected, reference, brain)
    cut: list = [None if part is None else figures.radiological(part, anomaly.affine)[..., index] for part in parts]
    return figures.Panels(*[*cut, figures.pixel_aspect(anomaly.affine)])


def save(result: report.Result, folder: pathlib.Path) -> None:
    """Writes metrics.json and subjects.tsv."""
    failed = [{"participant_id": name, "status": text} for name, text in result.metrics["failed"].items()]
    rows = [{**row, "status": "ok"} for row in result.rows] + failed
    lines = ["\t".join(rows[0])] + ["\t".join(_cell(row.get(key)) for key in rows[0]) for row in rows]
    atomic_write(folder / "subjects.tsv", "\n".join(lines) + "\n")
    atomic_write(folder / "metrics.json", json.dumps(result.metrics, indent=2, allow_nan=False) + "\n")


def run_evaluation(folders: Sequence[pathlib.Path], labels: str, output: pathlib.Path, assume_ras: bool = False) -> int:
    """Evaluates folders of predictions, writes everything, prints the table; returns the exit code."""
    subjects = sources.find(labels, assume_ras=assume_ras)
    results: dict[pathlib.Path, report.Result] = {}
    faults: list[InputError] = []
    for folder in folders:
        try:
            results[folder] = evaluate(folder, subjects, labels)
        except InputError as error:
            faults.append(error)
    if not results:
        raise faults[0]
    named = _distinct_names(results)
    for result in named:
        save(result, output / result.name if len(folders) > 1 else output)
    table = report.markdown_table(named)
    atomic_write(output / "table.md", table)
    pictures = _pictures(dict(zip(results, named, strict=True)), subjects)
    atomic_write(output / "report.html", report.render(named, pictures))
    print(table)
    print(f"Report: {output / 'report.html'}")
    for line in [str(fault) for fault in faults] + report.failures(named):
        print(f"failed: {line}", file=sys.stderr)
    return 3 if faults or any(result.metrics["failed"] for result in named) else 0


def _distinct_names(results: Mapping[pathlib.Path, report.Result]) -> list[report.Result]:
    """Returns the results, each under its method's name, with the folder's where two share a method."""
    methods = [result.name for result in results.values()]
    named = []
    for folder, result in results.items():
        name = result.name
        if methods.count(name) > 1:
            name = f"{name}-{sources.identifier(folder.resolve().name).removeprefix('sub-')}"
        named.append(result._replace(name=name))
    if len({result.name for result in named}) < len(named):
        raise UsageError("two folders of predictions have one name and one method. Rename one of the folders.")
    return named


def _pictures(
    results: Mapping[pathlib.Path, report.Result], subjects: Sequence[sources.Subject]
) -> list[report.Picture]:
    """Returns the pictures of a few subjects of every kind; a subject that cannot be pictured is left out."""
    references = {subject.identifier: subject for subject in subjects}
    predictions = {folder: read_predictions(folder)[0] for folder in results}
    pictures = []
    for name, caption in report.pictured_subjects(list(results.values())):
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
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder. Give the output folder of lgjax.restore.")
    output = pathlib.Path(flags.FLAGS.output or folders[0].parent / "evaluation")
    return run_evaluation(folders, flags.FLAGS.labels, output, flags.FLAGS.assume_ras)


if __name__ == "__main__":
    from lgjax import runtime

    define_flags(flags.FLAGS)
    runtime.run(main)
