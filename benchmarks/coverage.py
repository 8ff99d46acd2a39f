"""How often 95 % intervals hold the true value: Student's t on the jackknife, as lgjax states it, and two bootstraps.

    python benchmarks/coverage.py           # half a minute on one idle CPU core

Means of normal and of Dice-like values, and pooled AUC and AUPRC of made-up patients, with 2 to 20 subjects.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lgjax import __version__
from lgjax.evaluation import intervals
from lgjax.runtime import files

SUBJECTS = (2, 3, 5, 6, 12, 20)
AREA_SUBJECTS = (6, 12, 20)
RESAMPLES = 500
EDGES = np.linspace(8, -4, 97)  # of score bins, highest first
MEANS: dict[str, tuple[Callable, float]] = {  # draws of one value a subject, and their true mean
    "normal(.3, .15)": (lambda rng, n: rng.normal(0.3, 0.15, n), 0.3),
    "beta(2, 3)": (lambda rng, n: rng.beta(2, 3, n), 0.4),
    "beta(1, 2), 30 % zeros": (lambda rng, n: rng.beta(1, 2, n) * (rng.random(n) > 0.3), 0.7 / 3),
    "beta(.5, 2)": (lambda rng, n: rng.beta(0.5, 2, n), 0.2),
}


def patients(rng: np.random.Generator, n: int) -> np.ndarray:
    """Returns expected counts of healthy and lesion voxels by score, [n, 2, B]: volumes and contrasts vary widely."""
    volume = np.exp(rng.normal(np.log(40), 0.8, n))[:, None]
    contrast, shift = rng.normal(1.6, 0.8, n)[:, None], rng.normal(0, 0.15, n)[:, None]
    scale = np.exp(rng.normal(0, 0.15, n))[:, None]
    healthy = -np.diff(stats.norm.cdf((EDGES - shift) / scale)) * 1300
    lesion = -np.diff(stats.norm.cdf((EDGES - shift - contrast) / (1.3 * scale))) * volume
    return np.stack([healthy, lesion], axis=1)


def bootstraps(statistic: Callable[[np.ndarray], np.ndarray], subjects: int, rng: np.random.Generator):
    """Returns percentile and BCa intervals (Efron 1987) of a statistic of weights [n, S] -> [n]."""
    resampled = statistic(rng.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES).astype(float))
    value, *left_out = statistic(intervals.leave_one_out(subjects))
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    spread = np.mean(left_out) - np.array(left_out)
    scale = 6 * (spread @ spread) ** 1.5
    acceleration = np.sum(spread**3) / scale if scale else 0.0
    z = bias + stats.norm.ppf([0.025, 0.975])
    levels = stats.norm.cdf(bias + z / (1 - acceleration * z))
    return np.quantile(resampled, [0.025, 0.975]), np.quantile(resampled, levels)


def of_mean(draw: Callable, true: float, subjects: int, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Returns the share of intervals of a mean that hold the true one, by kind of interval."""
    hits = {"student": 0, "percentile": 0, "bca": 0}
    for _ in range(trials):
        values = draw(rng, subjects)
        ours = intervals.student(values.mean(), values.std(ddof=1) / np.sqrt(subjects), subjects)
        found = (ours, *bootstraps(lambda weights: weights @ values / weights.sum(axis=1), subjects, rng))  # noqa: B023
        for kind, (low, high) in zip(hits, found, strict=True):
            hits[kind] += bool(low <= true <= high)
    return {kind: round(count / trials, 3) for kind, count in hits.items()}


def of_area(place: int, true: float, subjects: int, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Returns the share of intervals of pooled AUC (place 0) or AUPRC (1) that hold the true one, by kind."""
    hits = {"student": 0, "percentile": 0, "bca": 0}
    for _ in range(trials):
        histograms = patients(rng, subjects)
        areas = intervals.pooled(histograms, intervals.leave_one_out(subjects))[place]
        both = bootstraps(lambda weights: intervals.pooled(histograms, weights)[place], subjects, rng)  # noqa: B023
        found = (intervals.area_interval(areas, subjects), *both)
        for kind, (low, high) in zip(hits, found, strict=True):
            hits[kind] += bool(low <= true <= high)
    return {kind: round(count / trials, 3) for kind, count in hits.items()}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=600, help="samples of each kind of mean")
    parser.add_argument("--area_trials", type=int, default=300, help="samples of patients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="benchmarks/coverage.json")
    arguments = parser.parse_args()
    rng, start, found = np.random.default_rng(arguments.seed), time.perf_counter(), {}
    for name, (draw, true) in MEANS.items():
        found[f"mean of {name}"] = {n: of_mean(draw, true, n, arguments.trials, rng) for n in SUBJECTS}
    everyone = patients(np.random.default_rng(arguments.seed + 1), 40_000).sum(axis=0, keepdims=True)
    for place, name in enumerate(("AUC", "AUPRC")):
        true = float(intervals.pooled(everyone, np.ones((1, 1)))[place][0])
        rows = {n: of_area(place, true, n, arguments.area_trials, rng) for n in AREA_SUBJECTS}
        found[f"pooled {name}, {true:.3f}"] = rows
    record = {
        "what": "share of nominal 95 % intervals that hold the true value, by number of subjects",
        "command": f"python benchmarks/coverage.py --trials={arguments.trials} --area_trials={arguments.area_trials}",
        "trials": {"means": arguments.trials, "areas": arguments.area_trials},
        "resamples": RESAMPLES,
        "seed": arguments.seed,
        "version": __version__,
        "coverage": found,
    }
    files.atomic_write(pathlib.Path(arguments.output), json.dumps(record, indent=1) + "\n")
    for name, rows in found.items():
        for subjects, kinds in rows.items():
            print(f"{name:32} n = {subjects:2}  " + "  ".join(f"{kind} {share:.3f}" for kind, share in kinds.items()))
    print(f"{time.perf_counter() - start:.0f} s, all in {arguments.output}")


if __name__ == "__main__":
    main()
