"""From a folder of raw scans to a prepared data set: two passes over the subjects, each resumable.

The first finds each brain and removes its bias field; then the training subjects' intensities give the reference
histogram; the second matches every scan to it and cuts the slices.
"""

import functools
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lgjax import __version__
from lgjax.preparation import bias, dataset, histogram, mosaic, pipeline
from lgjax.preparation.recipe import Recipe
from lgjax.preparation.slices import pixel_affine
from lgjax.runtime import files, parallel, places, progress
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError, UsageError
from lgjax.runtime.waiting import Waiting
from lgjax.scans import orientation, sources
from lgjax.scans.sources import Subject


class Job(NamedTuple):
    """One subject in one pass, as a worker process gets it."""

    folder: pathlib.Path  # of the data set
    recipe: Recipe
    percentiles: tuple[float, ...]  # of the brain's intensities
    subject: Subject  # the raw scan
    key: str  # what the result depends on, as a digest
    corrected: Subject | None = None  # in the second pass, what the first one wrote


class Outcome(NamedTuple):
    """What became of the subjects."""

    records: dict[str, dict[str, Any]]  # by identifier
    failures: dict[str, InputError]
    before: int  # finished by an earlier run, or by another process during this one


Step = Callable[[Job], tuple[dict[str, Any], bool]]  # one pass over one subject: `correct` or `cut`


def correct_all(
    jobs: Sequence[Job], workers: int, pool: ProcessPoolExecutor, claims: Claims, kept: Mapping[str, dict[str, Any]]
) -> Outcome:
    """Runs the first pass; two files with one content are one scan, so the second is refused.

    Args:
      jobs: of the subjects, shared with other processes in the folder.
      workers: that work at once.
      pool: of them.
      claims: of this process in the folder.
      kept: records of subjects that an earlier command prepared, by identifier.
    """
    outcome = _run(correct, jobs, workers, pool, claims, "correcting")
    seen = {digest: name for name, record in kept.items() for digest in _contents(record)}
    shown = {job.subject.identifier: job.subject.said for job in jobs}
    for name, record in list(outcome.records.items()):
        others = [seen.setdefault(digest, name) for digest in _contents(record)]
        if other := next((other for other in others if other != name), ""):
            problem = f"is the same scan as {other}"
            outcome.failures[name] = InputError(shown[name], problem, "Keep one of the two")
            del outcome.records[name]
    return outcome


def _contents(record: dict[str, Any]) -> tuple[str, str]:
    """Returns what is equal where two scans are one: the raw file, or the corrected scan, packed otherwise or not."""
    return record["InputSHA256"], record["SHA256"]


def slice_all(jobs: Sequence[Job], workers: int, pool: ProcessPoolExecutor, claims: Claims) -> Outcome:
    """Runs the second pass; arguments as in `correct_all`."""
    return _run(cut, jobs, workers, pool, claims, "slicing")


def _run(step: Step, jobs: Sequence[Job], workers: int, pool, claims: Claims, label: str) -> Outcome:
    """Takes one step for every subject; what another process finishes meanwhile is found done, in the same order."""

    def attempt(some: Sequence[Job]) -> Generator[tuple[dict[str, Any], bool] | InputError | None, None, None]:
        taken = (job if claims.take(job.subject.identifier) else None for job in some)
        results = parallel.attempts(functools.partial(_if_taken, step), taken, workers, pool)
        for job, result in zip(some, results, strict=True):
            held = claims.confirm(job.subject.identifier)  # not where another process is, or was first
            claims.release(job.subject.identifier)
            yield result if held else None

    def wait(some: Sequence[Job]) -> None:
        waiting.tell([job.subject.identifier for job in some])

    done: dict[str, tuple[dict[str, Any], bool] | InputError] = {}
    waiting = Waiting(claims.holder)
    if jobs:
        for job, result in progress.track(parallel.until_done(attempt, jobs, wait), label, len(jobs), "scan"):
            done[job.subject.identifier] = result
    outcome = Outcome({}, {}, sum(result[1] for result in done.values() if not isinstance(result, InputError)))
    for name in (job.subject.identifier for job in jobs):
        result = done[name]
        if isinstance(result, InputError):
            outcome.failures[name] = result
        else:
            outcome.records[name] = result[0]
    return outcome


def _if_taken(step: Step, job: Job | None) -> tuple[dict[str, Any], bool] | None:
    """Takes a step for a subject; None where another process is at work on the subject."""
    return None if job is None else step(job)


def correct(job: Job) -> tuple[dict[str, Any], bool]:
    """Corrects one scan and writes it, unless it is done; returns its record, and whether it was done before."""
    name = job.subject.identifier
    for path in (dataset.file(job.folder, name, ""), dataset.figure(job.folder, name, "")):
        files.check_contained(job.folder, path.parent)
    key = files.digest([job.key, sources.digest(job.subject), dataset.FORMAT])
    done = dataset.record(job.folder, name, dataset.SCAN)
    files_of = {f"{dataset.SCAN}.nii.gz": "SHA256", f"{dataset.BRAIN}.nii.gz": "BrainSHA256"}
    if done and _intact(job.folder, name, done, key, files_of):
        if done.get("Participant") != job.subject.participant:  # who that is may be told anew
            done = dataset.note(job.folder, name, dataset.SCAN, {**done, "Participant": job.subject.participant})
        return done, True
    found = pipeline.correct(job.subject, job.recipe, job.folder)
    data, inside = found.intensities(), found.brain.mask
    brain = data[inside]
    settings = job.recipe.bias_field
    about = {
        "Key": key,
        "Sources": [job.subject.source],
        "InputSHA256": found.image.sha256,
        "Participant": job.subject.participant,
        "SkullStripped": found.brain.origin == "background",  # voxels outside the brain mask are kept
        "BrainFrom": found.brain.origin,
        "BrainMl": round(float(inside.sum() * found.image.voxel_ml), 1),
        "BiasField": settings and settings._asdict(),
        "BiasRange": None if found.field is None else _range(found.field[inside]),
        "N4Threads": bias.THREADS,
        "Percentiles": job.percentiles,
        "Landmarks": [float(f"{value:.6g}") for value in histogram.landmarks(brain, job.percentiles)],
        "Quantiles": [float(f"{value:.6g}") for value in np.percentile(brain, (1, 50, 99))],
        "FilledVoxels": found.filled,
        "Warnings": [places.told(warning) for warning in found.image.warnings],
        "Shape": list(data.shape),
        "Zooms": [round(float(zoom), 4) for zoom in found.image.zooms],
        "Orientation": orientation.codes(found.image.affine),
        "Version": __version__,
    }
    return dataset.write_scan(job.folder, name, found.image, data, inside, about), False


def cut(job: Job) -> tuple[dict[str, Any], bool]:
    """Matches one corrected scan, cuts and writes its slices, unless they are done; returns as `correct`."""
    assert job.corrected is not None
    name = job.subject.identifier
    done = dataset.record(job.folder, name, dataset.SLICES)
    files_of = {f"{dataset.SLICES}.npy": "SHA256", f"{dataset.SLICES_MASK}.npy": "MaskSHA256"}
    if done and _intact(job.folder, name, done, job.key, files_of):
        return done, True
    found = pipeline.prepare(job.corrected, job.recipe)
    image = found.image
    affine = orientation.slice_affine(image.affine, image.data.shape) @ pixel_affine(found.placement)
    about = {
        "Key": job.key,
        "RecipeSHA256": job.recipe.digest,
        "Mean": found.placement.mean,
        "Std": found.placement.std,
        "Affine": affine.tolist(),
        "Version": __version__,
    }
    raw = job.subject.image()
    picture = mosaic.mosaic(raw.data, found.placement.brain, raw.affine, found.slices)
    return dataset.write_slices(job.folder, name, found.slices, picture, about), False


def slices_key(recipe: Recipe, scan: dict[str, Any]) -> str:
    """Hashes what the second pass depends on: the version, the recipe and what the first pass wrote."""
    return files.digest([__version__, recipe.digest, scan["SHA256"], scan["BrainSHA256"]])


def learn(records: dict[str, dict[str, Any]], splits: dict[str, str]) -> histogram.Histogram:
    """Learns the reference histogram of the training subjects.

    Raises:
      UsageError: there is none to learn from.
    """
    marks = [r["Landmarks"] for name, r in records.items() if splits[name] == "train"]
    marks = [m for m in marks if m[-1] > m[0]]
    if not marks:
        raise UsageError(
            "no usable subject falls into the training split, so there is no histogram to match to. Give more "
            "subjects, --recipe=FOLDER of the training cohort, or --config.histogram.match=False."
        )
    return histogram.learn(marks, next(iter(records.values()))["Percentiles"])


def row(name: str, split: str, scan: dict[str, Any], slices: dict[str, Any]) -> dict[str, Any]:
    """Makes one line of the summary from the records of both passes."""
    low, high = scan["BiasRange"] or (None, None)
    p01, p50, p99 = scan["Quantiles"]
    return {
        "participant_id": name,
        "split": split,
        "voxels": " x ".join(map(str, scan["Shape"])),
        "zooms": " x ".join(f"{zoom:g}" for zoom in scan["Zooms"]),
        "orientation": scan["Orientation"],
        "brain_ml": scan["BrainMl"],
        "brain_from": scan["BrainFrom"],
        "bias_low": low,
        "bias_high": high,
        "p01": p01,
        "p50": p50,
        "p99": p99,
        "mean": slices["Mean"],
        "std": slices["Std"],
        "slices": len(slices["Slices"]),
        "filled": scan["FilledVoxels"],
        "warnings": scan["Warnings"],
    }


def index(recipe: Recipe, splits: dict[str, str], records: Mapping[str, tuple[dict, dict]]) -> dataset.Index:
    """Makes the index of a data set from the records of both passes, by identifier."""
    return dataset.Index(
        recipe,
        tuple(
            dataset.Entry(
                name,
                splits[name],
                scan["InputSHA256"],
                slices["SHA256"],
                slices["MaskSHA256"],
                tuple(slices["Slices"]),
                tuple(slices["MaskFraction"]),
                slices["Affine"],
            )
            for name, (scan, slices) in sorted(records.items())
        ),
    )


def _intact(folder: pathlib.Path, name: str, done: dict[str, Any], key: str, hashes: dict[str, str]) -> bool:
    """Returns whether a record has this key and the files are those of the record.

    `hashes` are the record's fields by file.
    """
    if done.get("Key") != key:
        return False
    paths = {dataset.file(folder, name, suffix): done.get(field) for suffix, field in hashes.items()}
    return all(path.is_file() and files.sha256(path) == digest for path, digest in paths.items())


def _range(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in (values.min(), values.max())]
