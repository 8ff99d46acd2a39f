"""Prepares raw scans for training: bias field, brain, histogram, z-score, slices.

    python -m lgjax.preprocess --config=configs/data.py --input=COHORT --output=prepared/cohort
    python -m lgjax.preprocess --recipe=prepared/cohort --input=PATIENTS --output=prepared/patients

Input is a BIDS, Cam-CAN, IXI, BraTS or plain folder, one NIfTI file, or phantom:train. The output is a BIDS
derivative with corrected scans, memory-mapped slices, a split by subject, a summary table and a page to look at,
qc.html. Train on it with --config.data.source=prepared/cohort. Finished subjects are skipped when the command is run
again. Patients need no preparation, since lgjax.restore does the same to raw scans; prepared once, they spare it the
bias field. Research use only.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from lgjax import __version__
from lgjax.cli import app
from lgjax.cli.configs import define_config
from lgjax.cli.flags import check_output, define_input_flags, subjects_of_flags
from lgjax.derivatives import description
from lgjax.preparation import cohort, dataset, passes
from lgjax.preparation import recipe as recipes
from lgjax.preparation.brain import find_tool
from lgjax.preparation.passes import Job
from lgjax.preparation.recipe import Recipe
from lgjax.report import quality
from lgjax.runtime import files, parallel
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.sources import Subject


def preprocess(
    subjects: Sequence[Subject], recipe: Recipe, config, folder: pathlib.Path, *, given: bool, source: str
) -> int:
    """Prepares subjects into `folder`.

    Args:
      recipe: how; its histogram is learnt from the training subjects unless the recipe is `given`.
      config: of configs/data.py.
      given: whether the recipe is another cohort's: then nobody here is for training.
      source: where the subjects come from, for people.

    Returns:
      The exit code: 0, or 3 if some subjects failed.
    """
    splits = {subject.identifier: "test" if given else cohort.split_of(subject) for subject in subjects}
    percentiles = recipe.histogram.percentiles if recipe.histogram else tuple(config.histogram.percentiles)
    tool = find_tool(recipe.stripper)  # before anything is written
    settle(folder, {"given": given, "match": config.histogram.match, "percentiles": percentiles}, recipe)
    describe(folder, splits, subjects)
    key = f"{__version__} {recipes.bias_json(recipe)} {tool} {percentiles}"
    jobs = [Job(folder, recipe, percentiles, subject, key) for subject in subjects]
    with parallel.processes(config.workers) as pool:
        scans = passes.correct_all(jobs, config.workers, pool)
        if config.histogram.match and not given and scans.records:
            recipe = recipe._replace(histogram=passes.learn(scans.records, splits))
        recipes.write(folder / dataset.RECIPE, recipe)
        slices = passes.slice_all(slicing(jobs, recipe, scans.records), config.workers, pool)
    dataset.write_index(folder, passes.index(recipe, splits, scans.records, slices.records))
    failures = {**scans.failures, **slices.failures}
    for name in failures:  # what an earlier run left of them counts no more
        dataset.retract(folder, name)
    rows = [passes.row(name, splits[name], scans.records[name], found) for name, found in slices.records.items()]
    about = {"Source": source, "Preparation": recipe.describe(), "Version": f"lgjax {__version__}"}
    report(folder, rows, failures, about)
    before = f"before: {scans.before} corrected, {slices.before} sliced"
    print(f"{len(rows)} prepared ({before}), {len(failures)} failed -> {folder}", flush=True)
    for name, error in failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 3 if failures else 0


def slicing(jobs: Sequence[Job], recipe: Recipe, scans: dict[str, dict]) -> list[Job]:
    """Lists the jobs of the second pass: those whose scan was corrected."""
    kept = [job for job in jobs if job.subject.identifier in scans]
    found = sources.prepared(str(kept[0].folder)) if kept else []
    corrected = {subject.identifier: subject for subject in found}
    return [
        job._replace(
            recipe=recipe,
            key=passes.slices_key(recipe, scans[job.subject.identifier]),
            corrected=corrected[job.subject.identifier],
        )
        for job in kept
    ]


def settle(folder: pathlib.Path, choices: dict, recipe: Recipe) -> None:
    """Notes how the folder is prepared before anything else is written, and refuses to mix two preparations.

    Args:
      choices: what the recipe does not say before its histogram is learnt.

    Raises:
      UsageError: the folder holds scans that were prepared otherwise.
    """
    path, wanted = folder / "settings.json", json.loads(json.dumps({**choices, "recipe": recipes.as_json(recipe)}))
    try:
        before = json.loads(path.read_text()) if path.exists() else wanted
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", "Use another --output") from error
    if before != wanted:
        names = ", ".join(name for name in wanted if before.get(name) != wanted[name])
        raise UsageError(f"{folder} was prepared otherwise ({names}). Use another --output.")
    files.atomic_write(path, json.dumps(wanted, indent=2) + "\n")


def describe(folder: pathlib.Path, splits: dict[str, str], subjects: Sequence[Subject]) -> None:
    """Writes what makes the folder a BIDS derivative; until the index is written again, it counts as incomplete."""
    (folder / "index.json").unlink(missing_ok=True)
    description.describe(folder, "prepared scans")
    rows = [(subject.identifier, splits[subject.identifier], subject.kind) for subject in subjects]
    description.write_participants(folder, rows)


def report(folder: pathlib.Path, rows: list[dict], failures: dict[str, InputError], about: dict[str, str]) -> None:
    """Writes summary.tsv and qc.html and prints the short table."""
    failed = [quality.Failure(name, error.problem, error.remedy) for name, error in failures.items()]
    files.atomic_write(folder / "summary.tsv", quality.summary_tsv(rows))
    files.atomic_write(folder / "qc.html", quality.page(f"Prepared scans: {folder.name}", rows, failed, about))
    print(quality.summary_text(rows, failed))
    print(f"look at {folder / 'qc.html'}", flush=True)


def define_flags() -> None:
    """Defines the command line of this binary."""
    define_config("data", "Preparation: FILE[:variant], or a name: data[:variant].")
    define_input_flags("phantom:train:8")
    flags.DEFINE_string("output", None, "Folder for the prepared data set; default: prepared/<config name>.")
    flags.DEFINE_string("recipe", None, "Prepare as this prepared data set, work directory or preprocessing.json says.")


def main(_) -> int:
    """Runs the command line."""
    arguments = flags.FLAGS
    config = arguments.config
    folder = pathlib.Path(arguments.output or pathlib.Path("prepared") / config.name)
    check_output(folder)
    subjects = subjects_of_flags()
    recipe = recipes.from_config(config)
    if arguments.recipe:
        path = pathlib.Path(arguments.recipe)
        if path.resolve() == folder.resolve():
            raise UsageError(f"--output={folder} is the data set that --recipe names. Name another folder.")
        recipe = recipes.read(path / dataset.RECIPE if path.is_dir() else path)
    return preprocess(subjects, recipe, config, folder, given=bool(arguments.recipe), source=arguments.input)


if __name__ == "__main__":
    app.run(main, define_flags)
