"""Restores scans towards the healthy prior and maps what changed.

    python -m lgjax.restore --workdir=runs/vae --input=scan.nii.gz --output=out
    python -m lgjax.restore                       # the newest calibrated work directory, on phantom patients

Input is one NIfTI file, a BIDS or BraTS folder, a plain folder of NIfTI files, or phantom:test. Outputs lie on the
scan's own grid. Finished subjects are skipped when the command is run again. Research use only.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from lgjax import __version__, calibrate, calibrations, detection, experiment, methods, outputs, runtime, weights
from lgjax.data import cohort, nifti, sources
from lgjax.data.cohort import Prepared
from lgjax.data.sources import Subject
from lgjax.data.volume import Volume
from lgjax.errors import InputError

CONVERGENCE_POINTS = 100  # of a trace that are kept in the sidecar


def restore(name: str, config, workdir: pathlib.Path, subjects: list[Subject], folder: pathlib.Path, mesh) -> int:
    """Restores subjects with one method, which it calibrates first if nobody has.

    Returns:
      The exit code: 0, or 3 if some subjects failed.
    """
    method = methods.parse(name)
    trained = weights.load(config, workdir)
    if not calibrations.path(workdir, method.name).exists():
        print(f"{method.name} is not calibrated yet: calibrating on held-out healthy scans first", flush=True)
        calibrate.calibrate([name], config, workdir, mesh)
    calibration = calibrations.load(config, workdir, method.name, trained.digest)
    score = "signed" if method.signed else config.restore.score
    strength = calibration["Lambda"] or 0.0
    common = {
        "Method": method.name,
        "Score": score,
        "Lambda": calibration["Lambda"],
        "Thresholds": calibration["Thresholds"][score],
        "TrainedOn": trained.words(method.model),
        "CalibrationSubjects": calibration["CalibrationSubjects"],
        "ConfigSHA256": calibration["ConfigSHA256"],
        "WeightsSHA256": trained.digest,
        "Version": __version__,
        "Search": calibration["Search"],
        "SliceStep": config.restore.slice_step,
        "AnomalyUnits": method.unit,
        "Grid": [config.data.height, config.data.width],
        "Seed": config.seed,
        "Device": runtime.describe(jax.devices()),
        "JaxVersion": jax.__version__,
        "Notice": "Research use only. Not a medical device.",
    }
    runner = methods.runner(method, config, trained.params, mesh)
    outputs.describe_dataset(folder)
    failures, skipped = [], 0
    bar = tqdm(prepare_all(subjects, config, folder, common), method.name, len(subjects), unit="scan")
    for subject, result in bar:
        if isinstance(result, InputError):
            failures.append((subject.identifier, result))
            tqdm.write(f"failed: {result}")
        elif isinstance(result, Volume):
            skipped += 1
        else:
            try:
                restored = methods.restore(runner, result, strength, config.restore.slice_step)
            except InputError as error:
                failures.append((subject.identifier, error))
                tqdm.write(f"failed: {error}")
                continue
            anomaly = detection.anomaly(restored.change, score)
            change = restored.change if method.pictures else None
            found = outputs.detect(restored.subject, change, anomaly, common["Thresholds"])
            used = bool(method.model) and result.image.sha256 in trained.subjects
            about = provenance({**common, "BatchSize": runner.batch_size, "UsedInTraining": used}, restored)
            outputs.write(folder, subject.identifier, restored.subject, found, about)
    report(len(subjects), skipped, failures, folder)
    return 3 if failures else 0


def prepare_all(
    subjects: list[Subject], config, folder: pathlib.Path, common: dict
) -> Iterator[tuple[Subject, Prepared | Volume | InputError]]:
    """Prepares subjects in the background, a few ahead: the bare volume where the subject is finished already."""
    grid = cohort.grid(config.data)

    def attempt(subject: Subject):
        try:
            image = subject.image()
            if outputs.is_done(folder, subject.identifier, {**common, "InputSHA256": image.sha256}):
                return image
            return cohort.prepare(dataclasses.replace(subject, image=lambda: image), grid)
        except InputError as error:
            return error

    return zip(subjects, cohort.ahead(attempt, subjects, config.data.workers), strict=True)


def provenance(common: dict, restored: methods.Restored) -> dict:
    """What the sidecars of one subject say."""
    prepared = restored.subject
    image, convergence = prepared.image, None
    if restored.traces is not None:
        means = {field: np.mean(values, axis=0) for field, values in restored.traces._asdict().items()}
        kept = np.unique(np.linspace(0, len(means["change"]) - 1, CONVERGENCE_POINTS).round().astype(int))
        convergence = {"iteration": kept.tolist()} | {k: [float(f"{v:.6g}") for v in m[kept]] for k, m in means.items()}
    return {
        "Sources": [image.source],
        "InputSHA256": image.sha256,
        **common,
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
    flags.DEFINE_string("input", "phantom:test", "NIfTI file, BIDS, BraTS or plain folder, or phantom:test[:COUNT].")
    flags.DEFINE_string("output", None, "Folder for the results; default: <workdir>/restored.")
    flags.DEFINE_list("method", None, "Methods, separated by commas; several get a folder each in the output.")
    flags.DEFINE_string("mask", None, "Brain mask of a single scan; default: what is not zero in a stripped scan.")
    flags.DEFINE_integer("max_voxels", nifti.MAX_VOXELS, "Refuse scans that declare more voxels.", lower_bound=1)
    flags.DEFINE_bool("assume_ras", False, "Take a scan that states no orientation as RAS.")
    flags.DEFINE_integer("volume", None, "Which volume of a 4-D scan, from 0.", lower_bound=0)
    flags.DEFINE_bool("slice", False, "Accept 2-D scans: one axial slice.")


def main(_) -> int:
    """Runs the command line."""
    arguments = flags.FLAGS
    config = arguments.config
    workdir = pathlib.Path(arguments.workdir or experiment.default_workdir(config))
    experiment.check_same_networks(config, experiment.get_config(str(workdir / "config.json")), workdir)
    folder = pathlib.Path(arguments.output or workdir / "restored")
    subjects = sources.find(
        arguments.input,
        mask=arguments.mask,
        max_voxels=arguments.max_voxels,
        assume_ras=arguments.assume_ras,
        volume=arguments.volume,
        single_slice=arguments.slice,
    )
    mesh = runtime.start()
    names = arguments.method or [config.restore.method]
    folders = [folder / name if len(names) > 1 else folder for name in names]
    for name in names:  # a mistyped one is found before the others are done
        methods.check_model(methods.parse(name), config)
    code = 0
    for name, place in zip(names, folders, strict=True):
        try:
            code = max(code, restore(name, config, workdir, subjects, place, mesh))
        except InputError as error:  # the other methods go on
            print(f"failed: {name}: {error}", file=sys.stderr)
            code = max(code, error.exit_code)
    return code


if __name__ == "__main__":
    define_flags()
    experiment.use_recorded_config()
    runtime.run(main)
