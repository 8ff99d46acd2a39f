"""Restores scans towards the healthy prior and maps what changed.

    python -m lgjax.restore --workdir=runs/vae --input=scan.nii.gz --output=out
    python -m lgjax.restore --workdir=runs/vae --output=out scan1.nii.gz scan2.nii.gz
    python -m lgjax.restore --method=mirror_tv3d --input=scan.nii.gz --output=out    # needs no training

Input is NIfTI files, a table of scans (.tsv, .csv), a folder (BIDS, Cam-CAN, IXI, BraTS, nnU-Net, plain, or a folder
for each patient), a prepared data set, or phantom:test. Without an input, after a training on synthetic brains, the
command restores the embedded synthetic test patients. Outputs lie on the scan's own grid. Finished subjects are skipped
when the command is run again. Research use only.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("restore")  # before the imports below, which take seconds

import jax
from absl import flags

from lgjax.calibration import procedure
from lgjax.cli import app, opening
from lgjax.cli.scans import check_output, inputs_of_flags, scans_of_flags
from lgjax.derivatives import description, occupied, read, runs, write
from lgjax.detector import Detector, from_config
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import parallel, progress
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.finding import listing
from lgjax.scans.sources import Subject
from lgjax.workdir import calibrations, experiment, preparation
from lgjax.workdir.recorded import SHIPPED

ADDED_ROWS = {  # by model: what the paper's table lacks, where it is more than one method
    "none": ("intensity_tv3d", "mirror_tv3d"),
    "restorer": (
        "restorer_reconstruction",
        "restorer_reconstruction_tv3d",
        "restorer_lg_neural_tv3d",
        "restorer_reconstruction_mirror_tv3d",
        "restorer_lg_neural_mirror_tv3d",
    ),
}


def restore(detector: Detector, subjects: list[Subject], folder: pathlib.Path, workers: int) -> int:
    """Restores subjects with one method; those that are finished are skipped, those that fail do not stop the others.

    Returns:
      The exit code: 0, or 3 if some subjects failed.
    """
    failures, skipped = [], 0
    if others := occupied.outdated(folder, [subject.identifier for subject in subjects], detector.about):
        maps = f"{counted(len(others), 'map')} in {folder} of other weights or settings"
        print(f"made anew: {maps}: {listing.shown(others)}")
    description.describe(folder, "restorations")
    pairs = zip(subjects, prepare_all(detector, subjects, folder, workers), strict=True)
    for subject, result in progress.track(pairs, detector.method.name, len(subjects), "scan"):
        try:
            if isinstance(result, InputError):
                raise result
            if result is None:
                skipped += 1
            else:
                detector.detect(subject, *result).save(folder)
        except InputError as error:
            failures.append((subject.identifier, error))
    report(len(subjects), skipped, failures, folder)
    return 3 if failures else 0


def prepare_all(
    detector: Detector, subjects: list[Subject], folder: pathlib.Path, workers: int
) -> Iterator[tuple[Prepared, str] | InputError | None]:
    """Prepares subjects in the background, a few ahead; yields each with its digest, None where it is finished."""

    def prepared(subject: Subject) -> tuple[Prepared, str] | None:
        write.check_place(folder, subject.identifier)
        digest = sources.digest(subject)
        if write.is_done(folder, subject.identifier, {**detector.about, "SourceSHA256": digest}):
            return None
        return detector.prepare(subject, folder), digest

    return parallel.attempts(prepared, subjects, workers)


def calibrated(name: str, config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> Detector:
    """Loads a method, which is calibrated first if nobody has."""
    if not calibrations.path(workdir, name).exists():
        print(f"{name} is not calibrated yet: calibrating on held-out healthy scans first", flush=True)
        procedure.from_config(config, workdir, mesh)(methods.parse(name))
    return from_config(config, workdir, name, mesh)


def rows(config) -> list[str]:
    """Lists a model's methods in the table of all methods: the paper's, plain intensity, or else the config's own."""
    paper = published.methods(config.model.name)
    added = ADDED_ROWS.get(config.model.name, [config.restore.method])
    return [*(["intensity"] if "gmm" in paper else []), *paper] or list(added)


def report(total: int, skipped: int, failures: list[tuple[str, InputError]], folder: pathlib.Path) -> None:
    """Says what was done; failures come last."""
    done = total - skipped - len(failures)
    print(
        f"{done} restored, {skipped} finished before, {len(failures)} failed of {counted(total, 'scan')} -> {folder}",
        flush=True,
    )
    for name, error in failures:
        print(f"failed: {name}: {error}", file=sys.stderr)


def named(words: Sequence[str], config) -> list[str]:
    """Lists what is restored; the embedded test patients where nobody named scans or a model, and none is of people.

    Raises:
      UsageError: there is nothing to restore.
    """
    if names := inputs_of_flags(words):
        return names
    if not flags.FLAGS["workdir"].using_default_value or not sources.is_phantom(config.data.source):
        remedy = "Name scans, as in `lgjax restore scan.nii.gz`, or a folder: --input=FOLDER"
        raise UsageError(f"there is nothing to restore. {remedy}; --input=phantom:test are synthetic patients.")
    print(
        "NO INPUT WAS GIVEN: these are SYNTHETIC test patients, no scans of people. Name yours: --input=SCAN", end="; "
    )
    return ["phantom:test"]


def check_place(folder: pathlib.Path, method: str, subjects: Sequence[Subject], inputs: Sequence[str]) -> None:
    """Raises UsageError where a folder holds other results than those that are about to be written there."""
    identifiers = [subject.identifier for subject in subjects]
    occupied.check_folder(folder, method)
    read.check_names(folder, identifiers)
    if changed := runs.changed(folder, inputs, subjects, occupied.scans(folder, identifiers)):
        print(f"restored anew, since their scans changed: {listing.shown(changed)}", flush=True)


def opened(config, workdir: pathlib.Path, names: Sequence[str]) -> str:
    """Says which model is taken, or that none is, and whose brains the thresholds are from."""
    if experiment.has_model(config):
        return opening.model(workdir, given=not flags.FLAGS["workdir"].using_default_value)
    if not calibrations.path(workdir, names[0]).exists():
        return opening.untrained(workdir, None)
    subjects = len(calibrations.read(workdir, names[0]).subjects)
    return opening.untrained(workdir, subjects, "" if workdir == SHIPPED else config.data.source)


def main(words: Sequence[str] = ()) -> int:
    """Runs the command line."""
    arguments = flags.FLAGS
    config = arguments.config
    workdir = pathlib.Path(arguments.workdir)
    experiment.check_used(config, workdir)
    whole = arguments.method == ["table1"]
    names = rows(config) if whole else arguments.method or [config.restore.method]
    for name in names:  # a mistyped one is found before anything is read
        methods.check_model(methods.parse(name), config.model.name)
        experiment.check_step(config, methods.parse(name))
    inputs = named(words, config)
    place = experiment.default_workdir(config) if workdir == SHIPPED else workdir
    folder = pathlib.Path(arguments.output or place / "restored")
    check_output(folder, inputs)
    scans = scans_of_flags(inputs)
    print(f"{opening.scans(inputs, len(scans.found))}; {opened(config, workdir, names)}", flush=True)
    preparation.begin(config, workdir)
    mesh = app.start()
    folders = [folder / name if whole or len(names) > 1 else folder for name in names]
    for name, place in zip(names, folders, strict=True):
        check_place(place, name, scans.found, inputs)
    code = 0
    for name, place in zip(names, folders, strict=True):
        try:
            detector = calibrated(name, config, workdir, mesh)
            runs.write(place, inputs)  # first: it resolves the BIDS URIs, and eval asks it after an interruption too
            code = max(code, restore(detector, scans.found, place, config.data.workers))
            listing.record(place, scans)
        except InputError as error:  # the other methods go on
            print(f"failed: {name}: {error}", file=sys.stderr)
            code = max(code, error.exit_code)
    for line in listing.lines(scans):
        print(line, flush=True)
    return code


if __name__ == "__main__":
    app.run(main, words)
