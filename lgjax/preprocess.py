"""Prepares raw scans for training: bias field, brain, histogram, z-score, slices.

    python -m lgjax.preprocess --config=configs/data.py --input=COHORT --output=prepared/cohort
    python -m lgjax.preprocess --recipe=prepared/cohort --input=PATIENTS --output=prepared/patients

Input is a BIDS, Cam-CAN, IXI, BraTS or plain folder, one NIfTI file, or phantom:train. The output is a BIDS
derivative with corrected scans, memory-mapped slices, a split by subject, a summary table and a page to look at,
qc.html. Train on it with --config.data.source=prepared/cohort. Finished subjects are skipped when the command is run
again; several processes, on one host or on many that share the folder, share the subjects. All scans of a person fall
into one split; who is not healthy, as participants.tsv says, is in no split but test. Patients need no preparation,
since lgjax.restore does the same to raw scans; prepared once, they spare it the bias field. Research use only.
"""

import pathlib
import sys
from collections.abc import Collection, Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("preprocess")  # before the imports below, which take seconds

from absl import flags

from lgjax.batch import preparations
from lgjax.batch.preparations import NOBODY, People
from lgjax.cli import app, opening
from lgjax.cli.scans import check_output, inputs_of_flags, scans_of_flags
from lgjax.preparation import additions, audit, dataset
from lgjax.preparation import recipe as recipes
from lgjax.preparation.recipe import Recipe
from lgjax.runtime.errors import UsageError
from lgjax.scans import participants, sources
from lgjax.scans.finding import listing, series
from lgjax.scans.sources import Subject


def preprocess(
    subjects: Sequence[Subject],
    recipe: Recipe,
    config,
    folder: pathlib.Path,
    *,
    given: bool,
    inputs: Sequence[str],
    people: People = NOBODY,
) -> int:
    """Prepares subjects into `folder`.

    Several processes may do the same in one folder: they share the subjects out, and each returns when all are done.

    Args:
      recipe: how; its histogram is learnt from the training subjects unless the recipe is `given`.
      config: of configs/data.py.
      given: whether the recipe is another cohort's: then nobody here is for training.
      inputs: files and folders that the subjects come from.
      people: what the user says of people and of those who are in the folder already.

    Returns:
      The exit code: 0, or 3 if some subjects failed.

    Raises:
      UsageError: the folder was prepared otherwise, or holds subjects that would be dropped, or another process
        prepares other subjects there; nothing is done then.
    """
    percentiles = tuple(config.histogram.percentiles)
    how = {"match": config.histogram.match, "percentiles": percentiles, "given": given}
    plan = preparations.planned(subjects, recipe, folder, **how, inputs=inputs, people=people)
    announce(plan.everybody, plan.splits, {one.subject.identifier for one in plan.kept}, given)
    if plan.changed:
        app.say(f"prepared anew, since their scans changed: {listing.shown(plan.changed)}")
    found = preparations.prepare(plan, series.nameable(inputs, subjects), config.workers)
    corrected, sliced = found.before
    before = f"before: {corrected} corrected, {sliced} sliced"
    done = len(subjects) - len(found.failures)
    print(f"{done} prepared ({before}), {len(found.failures)} failed -> {folder}", flush=True)
    for name, error in found.failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 3 if found.failures else 0


def announce(subjects: Sequence[Subject], splits: dict[str, str], kept: Collection[str], given: bool) -> None:
    """Prints who is about to be prepared, and for what."""
    rows = [
        audit.Row(
            one.identifier,
            one.participant,
            splits[one.identifier],
            one.kind,
            one.identifier in kept,
            one.lesion is not None and not sources.is_phantom(one.source),
        )
        for one in subjects
    ]
    originals = [one.original for one in subjects if not one.person]
    app.say(audit.patients(rows) if given else audit.text(rows))
    for line in () if given else audit.warnings(rows, originals):
        app.note(line)


def main(words: Sequence[str] = ()) -> int:
    """Runs the command line."""
    arguments = flags.FLAGS
    config = arguments.config
    folder = pathlib.Path(arguments.output or pathlib.Path("prepared") / config.name)
    inputs = inputs_of_flags(words)
    if not inputs:
        remedy = "Name the folder of scans: --input=FOLDER"
        raise UsageError(f"there is nothing to prepare. {remedy}; --input=phantom:train:8 are synthetic brains.")
    check_output(folder, inputs)
    scans = scans_of_flags(inputs)
    named = series.nameable(inputs, scans.found)
    app.say(f"{opening.scans(named, len(scans.found))}; output: {folder}")
    recipe = recipes.from_config(config)
    if arguments.recipe:
        path = pathlib.Path(arguments.recipe)
        if path.resolve() == folder.resolve():
            raise UsageError(f"--output={folder} is the data set that --recipe names. Name another folder.")
        recipe = recipes.read(path / dataset.RECIPE if path.is_dir() else path)
    people = people_of_flags(folder)
    subjects = participants.annotate(scans.found, inputs, people.person)
    code = preprocess(subjects, recipe, config, folder, given=bool(arguments.recipe), inputs=inputs, people=people)
    listing.record(folder, scans)
    for line in listing.lines(scans):
        app.note(line)
    return code


def people_of_flags(folder: pathlib.Path) -> People:
    """Returns what the flags say of people; what they leave out is as the folder was begun.

    Raises:
      UsageError: patients are to be calibrated on.
    """
    arguments = flags.FLAGS
    before = additions.settings(folder)
    asked = None if arguments.calibration is None else set(filter(None, arguments.calibration))
    if asked and arguments.recipe:
        raise UsageError("--calibration is for a cohort to train on, and --recipe prepares others. Give one of them.")
    calibration = before.get("calibration", ()) if asked is None else asked
    if asked and arguments.add:
        calibration = asked.union(before.get("calibration", ()))
    person = before.get("person", "") if arguments.person is None else arguments.person
    return People(arguments.add, person, tuple(sorted(calibration)))


if __name__ == "__main__":
    app.run(main, words)
