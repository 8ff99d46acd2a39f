"""Whether a scan is like the healthy scans of a calibration: a traffic light, with reasons in words.

Each measure is held against the prediction interval of one more healthy scan, of Student's t on the healthy values. The
chances below are those of a whole scan: the measures share them out (Bonferroni). The spread of healthy values is at
least that which scans of other scanners have, since a cohort of one scanner, or of synthetic brains, varies less.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

AMBER, RED = 0.05, 0.005  # chances, at most, that a scan like the healthy ones is at least amber, or red
LEAST_SCANS = 5  # fewer healthy values tell nothing
LEAST = 1e-3  # below this, what is held against others by its logarithm counts as this much
UNLIKE = ("amber", "red")
_UNSURE = "Thresholds may not hold for the scan."
LIGHTS = ("green", *UNLIKE, "unknown")
MEANINGS = {  # of the lights, for people
    "green": "in no measure unlike the healthy scans of the calibration",
    "amber": f"unlike the healthy scans of the calibration: at most {100 * AMBER:g} % of such scans are. {_UNSURE}",
    "red": f"unlike the healthy scans of the calibration: at most {100 * RED:g} % of such scans are. {_UNSURE}",
    "unknown": f"nobody knows whether the scan is like the healthy scans of the calibration. {_UNSURE}",
}
_OTHER = "another sequence than T2?"


class Measure(NamedTuple):
    """A number of every scan, and what is said where a scan differs in it."""

    words: str
    spread: float  # least standard deviation of healthy scans, of the value or of its natural logarithm
    cause: str  # what to look for
    unit: str = ""
    log: bool = False  # whether the measure is held against others by its logarithm
    low: bool = True  # whether a low value is unlike
    high: bool = True  # whether a high value is


MEASURES = {  # the spreads: see docs/method.md
    "dark": Measure("median minus 5th percentile", 0.25, f"{_OTHER} a mask that is too wide?", " sd"),
    "bright": Measure("99th percentile minus median", 0.5, f"{_OTHER} saturated?", " sd"),
    "cortex": Measure("cortex minus deeper tissue", 0.12, _OTHER, " sd"),
    "noise": Measure("noise", 0.25, "a noisy scan? motion?", " sd", log=True, low=False),
    "error": Measure("median |Y - X|", 0.2, "a scan that the method restores badly everywhere", log=True, low=False),
    "volume": Measure("brain", 150.0, "a part of a brain? a mask that cuts or leaks?", " mL"),
    "bottom": Measure("lowest cross-section", 0.1, "cut at the bottom?", " of the largest", low=False),
    "top": Measure("highest cross-section", 0.1, "cut at the top?", " of the largest", low=False),
    "voxel": Measure("longest side of a voxel", 0.4, "coarse voxels", " mm", log=True, low=False),
    "symmetry": Measure("score of the mid-sagittal plane", 0.05, "sides that are unlike each other", high=False),
    "tilt": Measure("tilt", 4.0, "a tilted head", " degrees", low=False),
}


class Likeness(NamedTuple):
    """What a scan is said to be."""

    light: str  # of LIGHTS
    reasons: tuple[str, ...]  # the measures that differ, the most first; or why nothing can be said


def judge(measures: Mapping[str, float], healthy: Mapping[str, Sequence[float]] | None) -> Likeness:
    """Says whether a scan is like the healthy ones.

    Args:
      measures: of the scan, from `measures.measure`.
      healthy: the same of the healthy scans of the calibration, by measure; None: nobody measured them.
    """
    if healthy is None:
        return Likeness("unknown", ("the calibration has no values of healthy scans: calibrate again",))
    known = [name for name in MEASURES if name in measures and len(healthy.get(name, ())) >= LEAST_SCANS]
    if not known:
        return Likeness("unknown", (f"fewer than {LEAST_SCANS} healthy scans tell nothing",))
    chances = {name: chance(MEASURES[name], measures[name], healthy[name]) for name in known}
    unlike = sorted((name for name in known if chances[name] * len(known) < AMBER), key=lambda name: chances[name])
    reasons = tuple(_reason(MEASURES[name], measures[name], healthy[name]) for name in unlike)
    if not unlike:
        return Likeness("green", ())
    return Likeness("red" if chances[unlike[0]] * len(known) < RED else "amber", reasons)


def chance(measure: Measure, value: float, healthy: Sequence[float]) -> float:
    """Returns the chance that one more healthy scan is as far off, on the sides that count.

    That is P(|T| >= |x - m| / (s sqrt(1 + 1 / n))) of Student's T with n - 1 degrees of freedom, where the n healthy
    values have the mean m and the standard deviation s; P(T >= ...) where one side counts.

    Args:
      measure: what the values are.
      value: of the scan.
      healthy: of the n healthy scans.
    """
    x, *others = (math.log(max(each, LEAST)) if measure.log else each for each in (value, *healthy))
    n = len(others)
    spread = max(float(np.std(others, ddof=1)), measure.spread)
    t = (x - float(np.mean(others))) / (spread * math.sqrt(1 + 1 / n))
    sides = [-t] * measure.low + [t] * measure.high
    return len(sides) * min(float(special.stdtr(n - 1, -side)) for side in sides)


def _reason(measure: Measure, value: float, healthy: Sequence[float]) -> str:
    """Returns "tilt 24.1 degrees, of healthy scans 1.2 to 6.9: a tilted head"."""
    seen, least, most = map(_number, (value, min(healthy), max(healthy)))
    return f"{measure.words} {seen}{measure.unit}, of healthy scans {least} to {most}: {measure.cause}"


def _number(value: float) -> str:
    """Writes a value for a person."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"
