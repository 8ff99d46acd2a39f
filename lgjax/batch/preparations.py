"""A cohort prepared on disk: what is to be done, both passes over the subjects, and what all subjects share."""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lgjax import __version__
from lgjax.derivatives import description, runs
from lgjax.preparation import additions, dataset, passes
from lgjax.preparation import recipe as recipes
from lgjax.preparation.additions import Kept
from lgjax.preparation.brain import find_tool
from lgjax.preparation.dataset import Index
from lgjax.preparation.passes import Job
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.splits import assign
from lgjax.report import quality
from lgjax.runtime import files, parallel
from lgjax.runtime.claims import Claims, at_work
from lgjax.runtime.errors import InputError
from lgjax.scans import sources
from lgjax.scans.finding import series
from lgjax.scans.sources import Subject

LOG = logging.getLogger(__name__)
SHARED = "files of all subjects"  # the name of a lock


class People(NamedTuple):
    """What the user says of people."""

    add: bool = False  # to those who are in the folder already
    person: str = ""  # column or pattern, see `participants.annotate`
    calibration: tuple[str, ...] = ()  # names of those to calibrate on; without any, a hash decides


NOBODY = People()


class Plan(NamedTuple):
    """What one command prepares, and how; nothing is written yet."""

    folder: pathlib.Path
    subjects: Sequence[Subject]  # to prepare
    kept: Sequence[Kept]  # who are in the folder already, and stay
    splits: dict[str, str]  # of both, by identifier
    recipe: Recipe
    percentiles: tuple[float, ...]  # of the brain's intensities
    learns: bool  # whether the recipe's histogram is learnt from the subjects
    key: str  # what the first pass depends on, beside the scan
    asked: dict[str, Any]  # the settings of the folder
    task: str  # digest of what several processes at a time must have in common
    changed: Sequence[str]  # subjects, by identifier, whose scans are others than those that were prepared

    @property
    def everybody(self) -> list[Subject]:
        """The subjects that the folder will hold."""
        return [*self.subjects, *(one.subject for one in self.kept)]


class Prepared(NamedTuple):
    """What became of the subjects of a plan."""

    recipe: Recipe  # with its histogram
    records: dict[str, tuple[dict, dict]]  # of both passes, by identifier; of who are kept, too
    failures: dict[str, InputError]
    before: tuple[int, int]  # subjects whose passes another run or process had done


def planned(
    subjects: Sequence[Subject],
    recipe: Recipe,
    folder: pathlib.Path,
    *,
    match: bool,
    percentiles: tuple[float, ...],
    given: bool,
    inputs: Sequence[str],
    people: People = NOBODY,
) -> Plan:
    """Says what is to be done; nothing is written yet.

    Args:
      subjects: to prepare.
      recipe: how; its histogram is learnt from the training subjects unless the recipe is `given`.
      folder: for the prepared subjects.
      match: whether intensities are matched to a histogram.
      percentiles: of the brain's intensities that a histogram knows.
      given: whether the recipe is another cohort's: then nobody here is for training.
      inputs: files and folders that the subjects come from.
      people: what the user says of people and of those who are in the folder already.

    Raises:
      UsageError: the folder was prepared otherwise, or holds subjects that would be dropped.
    """
    percentiles = recipe.histogram.percentiles if recipe.histogram else percentiles
    tool = find_tool(recipe.stripper)  # before anything is written
    asked = settings({"given": given, "match": match, "percentiles": percentiles}, recipe, people)
    additions.check_settings(folder, asked)
    done = ((one.identifier, dataset.record(folder, one.identifier, dataset.SCAN)) for one in subjects)
    changed = runs.changed(folder, inputs, subjects, {name: found["InputSHA256"] for name, found in done if found})
    others = additions.held(folder, {subject.identifier for subject in subjects})
    if not people.add:
        additions.refuse(folder, others)
    kept = additions.keep(folder, others)
    if people.add and (kept or (folder / dataset.RECIPE).exists()):
        recipe = additions.recipe(folder)  # with the histogram that those who stay were matched to
    everybody = [*subjects, *(one.subject for one in kept)]
    splits = {one.identifier: "test" for one in everybody} if given else assign(everybody, people.calibration)
    learns = match and not given and recipe.histogram is None
    key = f"{__version__} {recipes.bias_json(recipe)} {tool} {percentiles}"
    task = files.digest([asked, people.add, sorted(splits)])
    return Plan(folder, subjects, kept, splits, recipe, percentiles, learns, key, asked, task, changed)


def prepare(plan: Plan, named: Sequence[str], workers: int) -> Prepared:
    """Prepares the subjects of a plan, and writes what they share.

    Several processes may do the same in one folder: they share the subjects out, and each returns when all are done.

    Args:
      plan: what is to be done.
      named: inputs, as the records may name them.
      workers: processes at work at once.

    Raises:
      UsageError: another process prepares other subjects in the folder.
    """
    with at_work(plan.folder, plan.task, "prepared scans") as claims:
        begin(plan, named, claims)
        found = work(plan, workers, claims)
        end(plan, named, found, claims)
    return found


def begin(plan: Plan, named: Sequence[str], claims: Claims) -> None:
    """Writes what the folder is, before the first subject; for `named` inputs."""
    with claims.lock(SHARED):
        additions.write_settings(plan.folder, plan.asked)
        runs.write(plan.folder, named)
        describe(plan.folder, plan.splits, plan.everybody)
        if plan.learns and claims.is_first:  # from now on, a histogram in the folder is that of these subjects
            (plan.folder / dataset.RECIPE).unlink(missing_ok=True)


def work(plan: Plan, workers: int, claims: Claims) -> Prepared:
    """Runs both passes, with as many `workers`, and writes the recipe between them."""
    jobs = [Job(plan.folder, plan.recipe, plan.percentiles, subject, plan.key) for subject in plan.subjects]
    with parallel.processes(workers) as pool:
        known = {one.subject.identifier: one.scan for one in plan.kept}
        scans = passes.correct_all(jobs, workers, pool, claims, known)
        with claims.lock(SHARED):
            recipe = learnt(plan.folder, plan.recipe, scans.records, plan.splits) if plan.learns else plan.recipe
            recipes.write(plan.folder / dataset.RECIPE, recipe)
        slices = passes.slice_all(slicing(jobs, recipe, scans.records), workers, pool, claims)
    records = {one.subject.identifier: (one.scan, one.slices) for one in plan.kept}
    records |= {name: (scans.records[name], found) for name, found in slices.records.items()}
    return Prepared(recipe, records, {**scans.failures, **slices.failures}, (scans.before, slices.before))


def end(plan: Plan, named: Sequence[str], found: Prepared, claims: Claims) -> None:
    """Writes what all subjects share, the index last; what another process could do counts no more as failed."""
    source = ", ".join(named) or series.UNNAMED
    about = {"Source": source, "Preparation": found.recipe.describe(), "Version": f"lgjax {__version__}"}
    with claims.lock(SHARED):
        for name in listed(plan.folder) & found.failures.keys():
            scan, cut = (dataset.record(plan.folder, name, part) for part in (dataset.SCAN, dataset.SLICES))
            if scan and cut:
                found.records[name] = scan, cut
                del found.failures[name]
        index = passes.index(found.recipe, plan.splits, found.records)
        finish(plan.folder, index, found.records, found.failures, about, alone=not claims.others())
        claims.leave()  # the next process in this block is to know that this one has finished


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


def settings(choices: dict, recipe: Recipe, people: People) -> dict[str, Any]:
    """Returns what decides how a folder is prepared, as plain JSON types.

    Args:
      choices: what the recipe does not say before its histogram is learnt.
      recipe: how scans are prepared.
      people: what the user says of people.
    """
    said = {"person": people.person, "calibration": list(people.calibration)}
    found = {**choices, "recipe": recipes.as_json(recipe), **{name: value for name, value in said.items() if value}}
    return json.loads(json.dumps(found))


def describe(folder: pathlib.Path, splits: dict[str, str], subjects: Sequence[Subject]) -> None:
    """Writes what makes the folder a BIDS derivative; until the index is written again, it counts as incomplete."""
    (folder / "index.json").unlink(missing_ok=True)
    description.describe(folder, "prepared scans")
    rows = [(subject.identifier, splits[subject.identifier], subject.kind) for subject in subjects]
    description.write_participants(folder, rows)


def learnt(folder: pathlib.Path, recipe: Recipe, scans: dict[str, dict], splits: dict[str, str]) -> Recipe:
    """Completes a recipe: with the histogram that another process of the same command has learnt, or by learning it."""
    path = folder / dataset.RECIPE
    shared = recipes.read(path).histogram if path.exists() else None
    return recipe._replace(histogram=shared or (passes.learn(scans, splits) if scans else None))


def listed(folder: pathlib.Path) -> set[str]:
    """Returns who is in the index, by identifier: since `describe`, only processes of the same command write one."""
    index = dataset.read_index(folder) if dataset.is_prepared(folder) else None
    return {entry.identifier for entry in index.subjects} if index else set()


def finish(
    folder: pathlib.Path,
    index: Index,
    records: Mapping[str, tuple[dict, dict]],
    failures: dict[str, InputError],
    about: dict[str, str],
    *,
    alone: bool,
) -> None:
    """Writes what all subjects share, the index last, unless another process has just done so for the same subjects.

    Where this process is not `alone` at work, another one may still prepare what failed here.
    """
    for name in failures if alone else ():  # what an earlier run left of them, or the first pass, counts no more
        dataset.retract(folder, name)
    if listed(folder) >= {entry.identifier for entry in index.subjects} and dataset.is_prepared(folder):
        return
    rows = [passes.row(entry.identifier, entry.split, *records[entry.identifier]) for entry in index.subjects]
    report(folder, rows, failures, about)
    dataset.write_index(folder, index)


def report(folder: pathlib.Path, rows: list[dict], failures: dict[str, InputError], about: dict[str, str]) -> None:
    """Writes summary.tsv and qc.html, and says what is in the short table."""
    failed = [quality.Failure(name, error.problem, error.remedy) for name, error in failures.items()]
    files.atomic_write(folder / "summary.tsv", quality.summary_tsv(rows))
    files.atomic_write(folder / "qc.html", quality.page(f"Prepared scans: {folder.name}", rows, failed, about))
    LOG.info(quality.summary_text(rows, failed))
    LOG.info("look at %s", folder / "qc.html")
