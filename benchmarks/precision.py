"""What the precision of the networks does to anomaly maps: float32 against TensorFloat-32 (emulated) and bfloat16.

    python benchmarks/precision.py --workdir=W --output=benchmarks/precision_phantom_smoke_cpu.json

W is a work directory trained with configs/vae.py:smoke. Lambda and thresholds are calibrated with float32, for all
modes alike, and left in W. Synthetic patients are restored with vae_lg_neural_tv in each mode:

float32                       the reference
float32_other_batch           the same in other batches: what a user may change at will
float32_nudged                every pixel of the scan moved to the next float32: what the least change grows to
tensorfloat32_emulated        inputs of every convolution rounded to 10 bits of mantissa, sums in float32, as tensor
                              cores do; for a CPU, which has no such mode
bfloat16                      config.restore.precision=bfloat16
float32_gpu_forms             float32 in the forms that a GPU has, with merged convolutions
bfloat16_gpu_forms            both

Differences are |anomaly map - that of float32| over all voxels of the brain, in standard deviations of the brain.
"""

import argparse
import contextlib
import json
import pathlib
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import vae as experiment
from lgjax import models
from lgjax.batch import calibrated
from lgjax.calibration import scores
from lgjax.evaluation import metrics, tally
from lgjax.methods import names
from lgjax.methods import runner as runners
from lgjax.methods.queue import restore_scan
from lgjax.models import convolutions
from lgjax.preparation import slices
from lgjax.runtime import devices, files, places
from lgjax.scans import sources

METHOD = names.parse("vae_lg_neural_tv")
SHARES = (0.5, 0.9, 0.99, 0.999)  # quantiles of the differences
SLICE_STEP, BATCH, OTHER_BATCH = 3, 24, 7
MODES = (
    "float32",
    "float32_other_batch",
    "float32_nudged",
    "tensorfloat32_emulated",
    "bfloat16",
    "float32_gpu_forms",
    "bfloat16_gpu_forms",
)


@contextlib.contextmanager
def emulated_tensorfloat32():
    """Within it, what is traced has the inputs of its convolutions rounded to 10 bits of mantissa."""
    convolve = jax.lax.conv_general_dilated

    def rounded(x, kernel, *arguments, **options):
        x, kernel = (jax.lax.reduce_precision(part, 8, 10) for part in (x, kernel))
        return convolve(x, kernel, *arguments, **options)

    jax.lax.conv_general_dilated = rounded
    try:
        yield
    finally:
        jax.lax.conv_general_dilated = convolve


def restore_all(mode: str, config, params, mesh, patients, strength: float) -> list[np.ndarray]:
    """The anomaly map of every patient inside the brain, each [voxels]."""
    config = config.copy_and_resolve_references()
    config.restore.precision = "bfloat16" if mode.startswith("bfloat16") else "float32"
    config.restore.batch_size = OTHER_BATCH if mode == "float32_other_batch" else BATCH
    settings, model = runners.from_config(config), models.from_config(config, config.restore.precision)
    runner = runners.Runner(METHOD, settings, model, params, mesh)
    found = []
    emulated = emulated_tensorfloat32() if mode == "tensorfloat32_emulated" else contextlib.nullcontext()
    with emulated, convolutions.forms("any GPU" if mode.endswith("gpu_forms") else ""):
        for patient in patients:
            if mode == "float32_nudged":
                y = np.nextafter(patient.slices.y, np.float32(np.inf))
                patient = patient._replace(slices=patient.slices._replace(y=y))
            restored = restore_scan(runner, patient, strength, SLICE_STEP)
            brain = restored.subject.placement.brain
            found.append(scores.anomaly(restored.change, "absolute")[brain])
    return found


def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> dict:
    """How far anomaly maps lie from those expected."""
    ours, theirs = np.concatenate(found), np.concatenate(expected)
    difference = np.abs(ours - theirs)
    return {
        "max": float(difference.max()),
        "mean": float(difference.mean()),
        "quantiles": {f"{share:g}": float(np.quantile(difference, share)) for share in SHARES},
        "correlation": float(np.corrcoef(ours, theirs)[0, 1]),
    }


def judge(found: list[np.ndarray], lesions: list[np.ndarray], kinds: list[str], thresholds: dict) -> dict:
    """Dice (mean over patients) at every threshold and AUC (pooled), by kind of lesion."""
    result = {}
    for kind in dict.fromkeys(kinds):
        pairs = [(a, lesion) for a, lesion, k in zip(found, lesions, kinds, strict=True) if k == kind]
        dice = {
            rate: float(np.mean([metrics.dice(a > threshold, lesion) for a, lesion in pairs]))
            for rate, threshold in thresholds.items()
        }
        counts = tally.merge([tally.count(a, lesion) for a, lesion in pairs])
        result[kind] = {"dice": dice, "auc": metrics.auc(tally.ranking(counts))}
    return result


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--input", default="phantom:test:2")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    mesh, config = devices.start("cpu"), experiment.smoke()
    config.restore.precision = "float32"
    detector = calibrated.from_config(config, options.workdir, METHOD.name, mesh)
    trained, strength, thresholds = detector.trained, detector.strength, detector.about["Thresholds"]
    subjects = [subject for subject in sources.find(options.input) if subject.kind != "healthy"]
    patients, lesions = [], []
    for subject in subjects:
        patient = detector.prepare(subject)
        _, placement = slices.every(patient.slices, patient.placement, SLICE_STEP)
        patients.append(patient)
        lesions.append((subject.lesion().data > 0)[placement.brain])
    kinds, maps, record = [subject.kind for subject in subjects], {}, {}
    for mode in MODES:
        maps[mode] = restore_all(mode, config, trained.params, mesh, patients, strength)
        record[mode] = {
            "difference": compare(maps[mode], maps["float32"]),
            **judge(maps[mode], lesions, kinds, thresholds),
        }
        print(mode, json.dumps(record[mode]), flush=True)
    report = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "input": options.input,
        "patients": len(patients),
        "slices": int(sum((p.slices.number % SLICE_STEP == 0).sum() for p in patients)),
        "voxels": int(sum(map(len, lesions))),
        "iterations": config.restore.iterations,
        "learning_rate": config.restore.learning_rate,
        "lambda": strength,
        "thresholds": thresholds,
        "trained_on": trained.trained_on,
        "weights_sha256": trained.digest,
        "modes": record,
    }
    files.atomic_write(options.output, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
