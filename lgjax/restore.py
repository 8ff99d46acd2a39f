"""Restores scans towards the healthy prior and maps what changed.

    python -m lgjax.restore --workdir=runs/vae --input=scan.nii.gz --output=out
    python -m lgjax.restore                       # the newest calibrated work directory, on phantom patients

Input is one NIfTI file, a BIDS or BraTS folder, a plain folder of NIfTI files, or phantom:test. Outputs lie on the
scan's own grid. Finished subjects are skipped when the command is run again. Research use only.
"""

import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from lgjax import __version__, models
from lgjax.calibration import procedure, scores
from lgjax.cli import app
from lgjax.cli.flags import check_output, define_input_flags, subjects_of_flags
from lgjax.cli.recorded import with_recorded_config
from lgjax.derivatives import write
from lgjax.methods import names as methods
from lgjax.methods import runner as runners
from lgjax.methods.runner import Restored, Runner, restore_scan
from lgjax.preparation import bias, pipeline
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import devices, files, parallel
from lgjax.runtime.errors import InputError
from lgjax.scans import sources
from lgjax.scans.sources import Subject
from lgjax.workdir import calibrations, experiment, weights
from lgjax.workdir.calibrations import Calibration

CONVERGENCE_POINTS = 100  # of a trace that are kept in the sidecar


def restore(name: str, config, workdir: pathlib.Path, subjects: list[Subject], folder: pathlib.Path, mesh) -> int:
    """Restores subjects with one method, which it calibrates first if nobody has.

    Returns:
      The exit code: 0, or 3 if some subjects failed.
    """
    method = methods.parse(name)
    trained = weights.load(config, workdir)
    settings, model = runners.from_config(config), models.from_config(config, config.restore.precision)
    if not calibrations.path(workdir, method.name).exists():
        print(f"{method.name} is not calibrated yet: calibrating on held-out healthy scans first", flush=True)
        procedure.calibrate(
            method,
            settings,
            model,
            trained,
            procedure.prepare(trained, experiment.source(config), config.data.workers),
            goal=procedure.from_config(config),
            digest=calibrations.digest(config),
            workdir=workdir,
            mesh=mesh,
        )
    calibration = calibrations.load(config, workdir, method.name, trained.digest, trained.recipe.digest)
    score = "signed" if method.signed else config.restore.score
    strength = calibration.strength or 0.0
    common = provenance_of_method(method, config, trained, calibration, score)
    runner = Runner(method, settings, model, trained.params, mesh)
    write.describe_dataset(folder, "restorations")
    failures, skipped = [], 0
    prepared = prepare_all(subjects, trained.recipe, config.data.workers, folder, common)
    for subject, digest, result in tqdm(prepared, method.name, len(subjects), unit="scan"):
        if isinstance(result, InputError):
            failures.append((subject.identifier, result))
            tqdm.write(f"failed: {result}")
        elif result is None:
            skipped += 1
        else:
            try:
                restored = restore_scan(runner, result, strength, config.restore.slice_step)
            except InputError as error:
                failures.append((subject.identifier, error))
                tqdm.write(f"failed: {error}")
                continue
            anomaly = scores.anomaly(restored.change, score)
            change = restored.change if method.pictures else None
            found = write.detect(restored.subject, change, anomaly, common["Thresholds"])
            used = bool(method.model) and result.image.sha256 in trained.subjects
            about = provenance(
                {**common, "SourceSHA256": digest, "BatchSize": runner.batch_size, "UsedInTraining": used}, restored
            )
            write.write(folder, subject.identifier, restored.subject, found, about)
    report(len(subjects), skipped, failures, folder)
    return 3 if failures else 0


def provenance_of_method(method, config, trained: weights.Trained, calibration: Calibration, score: str) -> dict:
    """What the sidecars of all subjects say."""
    return {
        "Method": method.name,
        "Score": score,
        "Lambda": calibration.strength,
        "Thresholds": calibration.thresholds[score],
        "TrainedOn": trained.words(method.model),
        "CalibrationSubjects": calibration.subjects,
        "ConfigSHA256": calibration.config_digest,
        "WeightsSHA256": trained.digest,
        "RecipeSHA256": trained.recipe.digest,
        "Preparation": trained.recipe.words(),
        "Version": __version__,
        "Search": calibration.search,
        "SliceStep": config.restore.slice_step,
        "AnomalyUnits": method.unit,
        "Grid": [config.data.height, config.data.width],
        "Seed": config.seed,
        "Device": devices.describe(jax.devices()),
        "JaxVersion": jax.__version__,
        "Notice": "Research use only. Not a medical device.",
    }


def prepare_all(
    subjects: list[Subject], recipe: Recipe, workers: int, folder: pathlib.Path, common: dict
) -> Iterator[tuple[Subject, str, Prepared | InputError | None]]:
    """Prepares subjects in the background, a few ahead; yields each with its digest, None where it is finished."""

    def attempt(subject: Subject):
        digest = ""
        try:
            files.check_contained(folder, write.file(folder, subject.identifier, "").parent)
            digest = sources.digest(subject)
            if write.is_done(folder, subject.identifier, {**common, "SourceSHA256": digest}):
                return subject, digest, None
            return subject, digest, pipeline.prepare(subject, recipe, folder)
        except InputError as error:
            return subject, digest, error

    return parallel.ahead(attempt, subjects, workers)


def provenance(common: dict, restored: Restored) -> dict:
    """What the sidecars of one subject say."""
    prepared = restored.subject
    image, convergence = prepared.image, None
    if restored.traces is not None and restored.taken is not None:
        means = {field: np.mean(values, axis=0) for field, values in restored.traces._asdict().items()}
        kept = np.unique(np.linspace(0, len(means["change"]) - 1, CONVERGENCE_POINTS).round().astype(int))
        taken = {"median": float(np.median(restored.taken)), "most": int(restored.taken.max())}  # until they stopped
        values = {name: [float(f"{v:.6g}") for v in mean[kept]] for name, mean in means.items()}
        convergence = {"iterations_of_slices": taken, "iteration": kept.tolist(), **values}
    return {
        "Sources": [image.source],
        "InputSHA256": image.sha256,
        **common,
        "BrainFrom": prepared.brain_from,
        "BiasFieldRemoved": prepared.field is not None,
        "N4Threads": None if prepared.field is None else bias.THREADS,
        "HistogramMatched": prepared.transfer is not None,
        "FilledVoxels": prepared.filled,
        "Slices": len(prepared.slices.index),
        "SecondsPerIteration": restored.seconds_per_iteration,
        "Warnings": list(image.warnings),
        "Convergence": convergence,
    }


def report(total: int, skipped: int, failures: list[tuple[str, InputError]], folder: pathlib.Path) -> None:
    """Says what was done; failures come last."""
    done = total - skipped - len(failures)
    print(
        f"{done} restored, {skipped} finished before, {len(failures)} failed of {total} scans -> {folder}",
        flush=True,
    )
    for name, error in failures:
        print(f"failed: {name}: {error}", file=sys.stderr)


def define_flags() -> None:
    """The command line of this binary."""
    config_flags.DEFINE_config_file("config", None, "Default: the config recorded in the work directory.")
    flags.DEFINE_string("workdir", None, "Folder of a trained and calibrated model; default: the newest in runs/.")
    define_input_flags("phantom:test")
    flags.DEFINE_string("output", None, "Folder for the results; default: <workdir>/restored.")
    flags.DEFINE_list("method", None, "Methods, separated by commas; several get a folder each in the output.")


def main(_) -> int:
    """Runs the command line."""
    arguments = flags.FLAGS
    config = arguments.config
    workdir = pathlib.Path(arguments.workdir or experiment.default_workdir(config))
    experiment.check_same_networks(config, experiment.get_config(str(workdir / "config.json")), workdir)
    folder = pathlib.Path(arguments.output or workdir / "restored")
    check_output(folder)
    subjects = subjects_of_flags()
    mesh = app.start()
    names = arguments.method or [config.restore.method]
    folders = [folder / name if len(names) > 1 else folder for name in names]
    for name in names:  # a mistyped one is found before the others are done
        methods.check_model(methods.parse(name), config.model.name)
    code = 0
    for name, place in zip(names, folders, strict=True):
        try:
            code = max(code, restore(name, config, workdir, subjects, place, mesh))
        except InputError as error:  # the other methods go on
            print(f"failed: {name}: {error}", file=sys.stderr)
            code = max(code, error.exit_code)
    return code


if __name__ == "__main__":
    app.run(main, define_flags, with_recorded_config)
