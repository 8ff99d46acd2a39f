"""Compares three ways to bring scans to one scale before the methods without training see them.

    python benchmarks/tissue.py --patients=../shared/data/brats18 --output=benchmarks/tissue_brats18.json
    python benchmarks/tissue.py --patients=phantom@2+1:hard-dev/contrast+tilted:3:LABEL_MAPS --output=F.json

z          z-scores of the brain, clipped to -2 and 1.5 (the detection preset)
histogram  landmarks matched to those of healthy synthetic brains first (the paper), then as z
tissue     a robust mixture of three classes, with MNI152's priors, is fitted to min(Y, mY), from which a one-sided
           bright lesion is gone; the means of white and grey matter and CSF go to those of healthy brains,
           piecewise linearly; what lies above the middle of grey matter and CSF is clipped

Rows are `intensity_tv3d` and `mirror_tv3d` with the preset's lambda. Labels of the patients are read for the figures
alone.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from configs import detection
from lgjax.methods import atlas, gmm, mirror, names
from lgjax.methods import runner as runners
from lgjax.methods.queue import restore_scan
from lgjax.preparation import cohort, histogram, pipeline, recipe
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import saturate
from lgjax.runtime import devices, places
from lgjax.scans import sources
from lgjax.workdir import experiment

PERCENTILES = (1.0, *map(float, range(10, 100, 10)), 99.0)
ROWS = ("intensity_tv3d", "mirror_tv3d")


def tissues(subject: Prepared) -> np.ndarray:
    """Finds the mean z-scores of white matter, grey matter and CSF, ascending, [3]."""
    slices, seen = subject.slices, mirror.of(subject).mirror
    inside, known = slices.mask > 0, np.isfinite(seen.spread)
    darker = np.minimum(slices.y, seen.mirrored)[known]
    priors = atlas.tissue_priors(subject.placement, subject.image.affine)[:, known[inside]]
    fit = jax.jit(gmm.fit)(darker, np.ones_like(darker), priors)
    return np.sort(np.asarray(fit.means, float))


def by_tissue(subject: Prepared, wanted: np.ndarray) -> np.ndarray:
    """Maps the slices' z-scores so that the classes' means are the wanted ones, with the slopes of the ends beyond."""
    found = tissues(subject)
    ends = np.array([-10.0, 10.0])
    slopes = np.diff(wanted)[[0, -1]] / np.diff(found)[[0, -1]]
    outer = wanted[[0, -1]] + slopes * (ends - found[[0, -1]])
    knots, values = np.array([ends[0], *found, ends[1]]), np.array([outer[0], *wanted, outer[1]])
    return np.interp(subject.slices.y, knots, values).astype(np.float32)


def ways(healthy: list[Prepared]):
    """Returns a function of a subject's two preparations, plain and matched, to its slices' y by way."""
    wanted = np.mean([tissues(subject) for subject in healthy], axis=0)
    top = float(wanted[1:].mean())
    print("class means of healthy brains", wanted.round(2), flush=True)

    def made(plain: Prepared, matched: Prepared) -> dict[str, np.ndarray]:
        return {
            "z": saturate(plain.slices.y, (-2.0, 1.5)),
            "histogram": saturate(matched.slices.y, (-2.0, 1.5)),
            "tissue": saturate(by_tissue(plain, wanted), (-2.0, top)),
        }

    return made


def figures(scores: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
    """Computes AUC, AUPRC and oracle Dice over all brain voxels together."""
    score, label = np.concatenate(scores), np.concatenate(labels)
    precision, recall, _ = precision_recall_curve(label, score)
    dice = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    found = roc_auc_score(label, score), average_precision_score(label, score), dice.max()
    return dict(zip(("auc", "auprc", "oracle_dice"), np.round(found, 4).tolist(), strict=True))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", required=True)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    config = detection.get_config()
    config.data.calibration_subjects = 8
    plain = recipe.bare(experiment.grid(config))
    healthy = [pipeline.prepare(one, plain) for one in cohort.healthy(experiment.source(config), "calibration")]
    marks = [histogram.landmarks(one.image.data[one.placement.brain], PERCENTILES) for one in healthy]
    matched, made = plain._replace(histogram=histogram.learn(marks, PERCENTILES)), ways(healthy)
    again = [pipeline.prepare(one, matched) for one in cohort.healthy(experiment.source(config), "calibration")]
    slices = [made(one, other) for one, other in zip(healthy, again, strict=True)]
    variances = {}
    for way in ("z", "histogram", "tissue"):
        ready = [
            one._replace(slices=one.slices._replace(y=found[way])) for one, found in zip(healthy, slices, strict=True)
        ]
        variances[way] = mirror.variance(ready, [mirror.of(one) for one in ready])
    mesh, settings = devices.chosen("cpu"), runners.from_config(config)
    programs = {
        (way, row): runners.Runner(names.parse(row), settings._replace(mirror_variance=variance), None, None, mesh)
        for way, variance in variances.items()
        for row in ROWS
    }
    scores: dict[tuple[str, str], list] = {key: [] for key in programs}
    labels = []
    for subject in sources.find(arguments.patients):
        one, other = pipeline.prepare(subject, plain), pipeline.prepare(subject, matched)
        labels.append((subject.lesion().data > 0)[one.placement.brain])
        ways_of_one = made(one, other)
        for (way, row), program in programs.items():
            ready = one._replace(slices=one.slices._replace(y=ways_of_one[way]))
            change = restore_scan(program, ready, config.calibrate.strength).change
            scores[way, row].append(np.maximum(change[one.placement.brain], 0))
        print(subject.identifier, flush=True)
    rows = {row: {way: figures(scores[way, row], labels) for way in variances} for row in ROWS}
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "mirror_variance": variances,
        "rows": rows,
    }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
