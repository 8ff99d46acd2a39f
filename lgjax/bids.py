"""Finds lesions in the T2w scans of a BIDS data set, as BIDS-Apps do, and tells of the cohort.

    lgjax bids BIDS_DIR OUTPUT_DIR participant
    lgjax bids BIDS_DIR OUTPUT_DIR participant --participant-label 01 02 --session-label 1 -w WORK
    lgjax bids BIDS_DIR OUTPUT_DIR group

Outputs are the BIDS derivative that `lgjax restore` writes. Finished scans are skipped when the command is run again.
Research use only.
"""

import os
import pathlib
import sys

from lgjax.cli import early

if __name__ == "__main__":
    options = early.begin_bids()  # before the imports below, which take seconds

from absl import flags

from lgjax.batch import calibrated, restorations
from lgjax.cli import app, closing, opening
from lgjax.cli.bids_app import PARTICIPANT, Options
from lgjax.derivatives import description, pages, read
from lgjax.methods import names as methods
from lgjax.report import group, group_page, show
from lgjax.runtime import files, hosts
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError, UsageError, printable
from lgjax.scans import sources, validator
from lgjax.scans.finding import choosing, datasets, listing
from lgjax.scans.finding.choosing import Wanted
from lgjax.scans.finding.listing import Listing
from lgjax.scans.sources import Reading, Subject
from lgjax.workdir import experiment, preparation

SHOWN = 10  # errors of the validator


def main(options: Options) -> int:
    """Runs the command line."""
    check_places(options)
    work = participant if options.level == PARTICIPANT else tell_of_group
    return work(options, chosen(options))


def participant(options: Options, scans: Listing[Subject]) -> int:
    """Restores scans as `lgjax restore` does, and returns the exit code."""
    if options.work_dir:
        options.work_dir.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(options.work_dir.resolve())
    config, workdir, folder = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir), options.output_dir
    name, inputs = (flags.FLAGS.method or [config.restore.method])[0], [str(options.bids_dir)]
    experiment.check_used(config, workdir)
    experiment.check_output(workdir, folder)
    methods.check_model(methods.parse(name), config.model.name)
    experiment.check_step(config, methods.parse(name))
    if not options.skip_validation:
        validate(options)
    if app.speaks():
        app.say(f"{opening.scans(inputs, len(scans.found))}; {opening.taken(config, workdir, [name])}")
    with app.joined() as mesh:
        for line in opening.restoring(mesh, config, workdir, [name]):
            app.say(line)
        hosts.first_alone(preparation.begin, config, workdir)
        before = restorations.checked_place(folder, name, scans.found, inputs)
        detector = calibrated.from_config(config, workdir, name, mesh)
        workers, scratch = config.data.workers, options.work_dir
        outcome = restorations.run(detector, scans, inputs, folder, workers, scratch, before=before)
        for line in listing.lines(scans):
            app.note(line)
        closing.tell(*outcome, folder)
        viewed = show.write_of_folder(folder, scans.found if flags.FLAGS.viewer else ())
        closing.tell_pages(*viewed, pages.index(folder))
    return max(outcome.code, viewed.code)


def tell_of_group(options: Options, scans: Listing[Subject]) -> int:
    """Writes the table and the report of all results, and returns the exit code: 3 where scans lack results."""
    folder = options.output_dir
    if not read.is_output(folder):
        again = f"lgjax bids {options.bids_dir} {folder} participant"
        raise UsageError(f"{folder} holds no results. Make them first: {again}")
    everything = not (options.participants or options.sessions or options.filter_file)
    cohort = group.survey(folder, [subject.identifier for subject in scans.found], everything)
    description.describe(folder, "restorations")
    files.atomic_write(folder / f"{group.NAME}.json", group.dictionary(cohort))
    files.atomic_write(folder / f"{group.NAME}.html", group_page.render(cohort))
    files.atomic_write(folder / f"{group.NAME}.tsv", group.table(cohort))
    for name, problem in cohort.unfinished.items():
        print(f"unfinished: {name}: {problem}", file=sys.stderr)
    print(f"{counted(len(cohort.finished), 'scan')}, {len(cohort.unfinished)} unfinished -> {folder / group.NAME}.html")
    return InputError.exit_code if cohort.unfinished else 0


def check_places(options: Options) -> None:
    """Raises UsageError where a folder is not what it should be, before anything is read or written."""
    data, output, work = options.bids_dir, options.output_dir, options.work_dir
    if not data.is_dir():
        raise UsageError(f"{data} is no folder. Give that of a BIDS data set.")
    if not datasets.is_bids(data):
        raise UsageError(f"{data} is no BIDS data set: it holds no sub-*/anat. `lgjax restore` takes other layouts.")
    files.check_folder(output)
    if _is_among_raw(data.resolve(), output.resolve()):
        place = "is BIDS_DIR" if output.resolve() == data.resolve() else f"{output} lies among the data of BIDS_DIR"
        remedy = f"Name another, such as {data / 'derivatives' / 'lgjax'}"
        raise UsageError(f"OUTPUT_DIR {place}, which is only read. {remedy}.")
    if work and work.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"--work-dir={work} lies in BIDS_DIR, which is only read. Name another.")


def _is_among_raw(data: pathlib.Path, output: pathlib.Path) -> bool:
    """Returns whether a folder lies in a data set, but for those in its derivatives/; both without links."""
    return output.is_relative_to(data) and data / "derivatives" not in output.parents


def chosen(options: Options) -> Listing[Subject]:
    """Lists the scans that the command line asks for."""
    entities = choosing.read_filter(options.filter_file) if options.filter_file else {}
    wanted = Wanted(options.participants, options.sessions, entities)
    return choosing.choose(options.bids_dir, sources.survey(str(options.bids_dir), Reading()), wanted)


def validate(options: Options) -> None:
    """Raises UsageError where the BIDS validator has an error against the data set; says where there is none."""
    command = validator.executable()
    if command is None:
        if app.speaks():
            app.note(f"{validator.NAME} is not installed: nobody asks whether {options.bids_dir} is valid BIDS")
        return
    problems = validator.errors(command, options.bids_dir, options.participants)
    if problems:
        lines = [f"  {one.code} {one.location or '/'} {one.message}".rstrip() for one in problems[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        told = "\n".join([*map(printable, lines), *more])
        remedy = f"Mend them ({validator.NAME} {options.bids_dir} tells all), or --skip-bids-validation."
        raise UsageError(f"{options.bids_dir} is no valid BIDS: {counted(len(problems), 'error')}.\n{told}\n{remedy}")


if __name__ == "__main__":
    app.run(lambda _: main(options))
