"""Adam's 800 iterations against the proximal solver: each calibrated by the product, then judged on the same scans.

    python benchmarks/solver.py --workdir=W --folder=K --input=phantom:test:3 --slice_step=3 --output=F.json
    python benchmarks/solver.py --workdir=W --folder=K --input=BRATS_FOLDER --slice_step=16 --output=F.json

W is a trained work directory; its calibrations are left alone. Adam's schedule is the paper's (800 iterations of 5e-3)
at the model's own size; the proximal solver is the same config with restore.optimizer changed alone. Calibrations are
kept in --folder, so that a second data set is judged with the same. Seconds are those of a batch.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import aae, gmvae, vae
from configs import eval as eval_config
from lgjax.batch import calibrated, restorations
from lgjax.derivatives import read
from lgjax.detector import from_config
from lgjax.evaluation import compare as evaluation_compare
from lgjax.evaluation import measure, records, references
from lgjax.evaluation import settings as evaluation_settings
from lgjax.methods import names
from lgjax.methods import runner as runners
from lgjax.preparation import cohort
from lgjax.runtime import devices, files
from lgjax.runtime.errors import UsageError
from lgjax.scans import sources
from lgjax.workdir import calibrations, experiment

CONFIGS = {"aae": aae, "gmvae": gmvae, "vae": vae}
KEPT = ("dice", "auc", "auprc", "ci95", "n_subjects", "n_with_lesion")


def configuration(arguments, optimizer: str):
    """The config of one side: the paper's schedule, and its optimizer."""
    name, _, variant = pathlib.PurePath(arguments.config).name.partition(".py:")
    config = CONFIGS[name].get_config(variant)
    config.restore.learning_rate, config.restore.iterations = 5e-3, 800
    config.restore.optimizer = optimizer
    config.restore.slice_step = arguments.slice_step
    config.data.calibration_subjects = arguments.calibration_subjects
    config.calibrate.slices = arguments.calibration_slices
    config.calibrate.lambdas = arguments.lambdas
    config.calibrate.smallest_lambda = arguments.smallest_lambda
    config.calibrate.largest_lambda = arguments.largest_lambda
    config.restore.batch_size = arguments.batch_size
    return config


def judging() -> evaluation_settings.Settings:
    """How both sides are judged."""
    return evaluation_settings.from_config(eval_config.get_config())


def judge(method: str, optimizer: str, arguments, subjects, mesh) -> measure.Result:
    """Calibrates one side, restores all subjects with it and evaluates them."""
    folder = pathlib.Path(arguments.folder) / optimizer
    workdir = folder / "workdir"
    if not workdir.exists():
        workdir.mkdir(parents=True)
        for part in ("training.json", "preprocessing.json"):
            shutil.copy(pathlib.Path(arguments.workdir) / part, workdir)
        shutil.copytree(pathlib.Path(arguments.workdir) / "checkpoints", workdir / "checkpoints")
    config = configuration(arguments, optimizer)
    output = restored_by(method, optimizer, arguments)
    detector = calibrated.from_config(config, workdir, method, mesh)
    if restorations.restore(detector, subjects, output, config.data.workers).failures:
        raise UsageError(f"{output}: some subjects failed")
    result = measure.evaluate(output, references.by_identifier(arguments.input, subjects), judging())
    return result._replace(name=optimizer)


def restored_by(method: str, optimizer: str, arguments) -> pathlib.Path:
    """Where the restorations of one side are."""
    data = files.digest([arguments.input, arguments.slice_step])[:8]
    return pathlib.Path(arguments.folder) / optimizer / f"{method}-{data}"


def times(method: str, arguments, mesh) -> dict[str, Any]:
    """Seconds of one full batch of healthy slices, both sides in turns after a run that compiles; and per volume."""
    samples: dict[str, list[float]] = {"adam": [], "proximal": []}
    runs = {}
    for optimizer in samples:
        config = configuration(arguments, optimizer)
        detector = from_config(config, pathlib.Path(arguments.folder) / optimizer / "workdir", method, mesh)
        found = detector.prepare(cohort.healthy(experiment.source(config), "calibration")[0]).slices
        batch = type(found)(*(part[: config.restore.batch_size] for part in found))
        runs[optimizer] = (detector.runner, batch, np.full(len(batch.number), detector.strength, np.float32))
    for repeat in range(arguments.repeats + 1):
        for optimizer, (runner, batch, strength) in runs.items():
            began = time.perf_counter()
            list(runner(batch, strength))
            if repeat:
                samples[optimizer].append(time.perf_counter() - began)
    medians = {optimizer: float(np.median(values)) for optimizer, values in samples.items()}
    return {
        "slices_of_the_volume": len(runs["adam"][1].number),
        "seconds_per_volume": medians,
        "adam_over_proximal": medians["adam"] / medians["proximal"],
        "samples": samples,
    }


def correlations(method: str, arguments) -> list[float]:
    """Pearson correlation of the two anomaly maps in the brain, of each subject."""
    sides = [read.read_predictions(restored_by(method, name, arguments))[0] for name in ("adam", "proximal")]
    found = []
    for name in sides[0]:
        maps = [side[name].read("desc-anomaly_T2w") for side in sides]
        brain = sides[0][name].mask("desc-brain_mask", maps[0])
        found.append(float(np.corrcoef(*(one.data[brain] for one in maps))[0, 1]))
    return found


def compare(method: str, arguments, subjects, mesh) -> dict[str, Any]:
    """The record of one method."""
    results = {name: judge(method, name, arguments, subjects, mesh) for name in ("proximal", "adam")}
    sides = {}
    for name, result in results.items():
        config = configuration(arguments, name)
        workdir = pathlib.Path(arguments.folder) / name / "workdir"
        record = calibrations.read(workdir, method)
        evaluations = config.restore[runners.length(names.parse(method), runners.from_config(config))]
        measured = records.to_json(result.metrics)
        sides[name] = {
            "network_evaluations_per_slice": evaluations,
            "seconds_per_batch": result.metrics.seconds_per_iteration.median * evaluations,
            "lambda": record.strength,
            "ssim": record.search["ssim"],
            "lambda_curve": record.search["curve"],
            "thresholds": record.thresholds[config.restore.score],
            **{key: measured[key] for key in KEPT},
        }
    against = evaluation_compare.compare(list(results.values()), "adam", judging()).rows[0]
    return {
        **sides,
        "proximal_minus_adam": {key: value for key, value in records.to_json(against).items() if key != "method"},
        "correlation_of_maps": correlations(method, arguments),
        "time": times(method, arguments, mesh) if arguments.repeats else None,
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--config", default="configs/vae.py:smoke")
    parser.add_argument("--methods", default="vae_lg_neural_tv")
    parser.add_argument("--input", default="phantom:test:2")
    parser.add_argument("--kinds", help="of the phantom, separated by commas; default: all")
    parser.add_argument("--slice_step", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--calibration_subjects", type=int, default=3)
    parser.add_argument("--calibration_slices", type=int, default=10)
    parser.add_argument("--smallest_lambda", type=float, default=0.4)
    parser.add_argument("--largest_lambda", type=float, default=6.4)
    parser.add_argument("--lambdas", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=0, help="timed runs of a volume; 0: none")
    parser.add_argument("--folder", required=True, help="where calibrations and restorations are kept")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    mesh = devices.start("auto")
    subjects = sources.find(arguments.input)
    if arguments.kinds:
        subjects = [subject for subject in subjects if subject.kind in arguments.kinds.split(",")]
    record = {
        "what": __doc__.splitlines()[0],
        "versions": devices.versions(),
        "cores": os.cpu_count(),
        "input": pathlib.PurePath(arguments.input).name,
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("workdir", "folder", "input", "output")},
        "methods": {},
    }
    for method in arguments.methods.split(","):
        record["methods"][method] = compare(method, arguments, subjects, mesh)
        files.atomic_write(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
