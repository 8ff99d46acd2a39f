"""What every value of a config may be: one table, checked before anything is read or computed."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lgjax.runtime.errors import UsageError

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")  # of `models.precision`, which would import JAX


class Bound(NamedTuple):
    """What one value may be."""

    expected: str  # in words
    holds: Callable[[Any], bool]
    choices: tuple = ()  # all values, where they can be listed


def whole(low: int, high: int = 2**31 - 1) -> Bound:
    """Returns the bound of a whole number."""
    ends = f"from {low} to {high}" if high < 2**31 - 1 else f"{low} or more"
    return Bound(f"a whole number {ends}", lambda value: _is_whole(value) and low <= value <= high)


def number(low: float = -math.inf, high: float = math.inf, above: bool = False, below: bool = False) -> Bound:
    """Returns the bound of a finite number; with `above` and `below`, the ends themselves are no such number."""
    ends = [f"above {low:g}" if above else f"{low:g} or more"] if low > -math.inf else []
    ends += [f"below {high:g}" if below else f"at most {high:g}"] if high < math.inf else []

    def holds(value: Any) -> bool:
        inside = _is_number(value) and low <= value <= high
        return inside and not (above and value == low) and not (below and value == high)

    return Bound(" ".join(["a number", ", ".join(ends)]).strip(), holds)


def choice(*values: Any) -> Bound:
    """Returns the bound of a value that is one of a few, of their type."""
    return Bound(f"one of {', '.join(map(str, values))}", lambda value: _among(value, values), values)


def several(bound: Bound, ascending: bool = False, least: int = 1) -> Bound:
    """Returns the bound of a tuple, of `least` values or more that each keep to a bound."""

    def holds(values: Any) -> bool:
        if not isinstance(values, tuple | list) or len(values) < least or not all(map(bound.holds, values)):
            return False
        return not ascending or all(a < b for a, b in itertools.pairwise(values))

    order = ", each larger than the one before" if ascending else ""
    return Bound(f"{least} or more values in brackets{order}, each {bound.expected}", holds)


SWITCH = Bound("True or False", lambda value: isinstance(value, bool), (True, False))
TEXT = Bound("some text", lambda value: isinstance(value, str) and bool(value.strip()))
NAME = Bound(
    "letters, digits, -, _ and . (it names a folder)",
    lambda value: isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value, re.ASCII) is not None,
)
SIZES, COUNT, POSITIVE, NOT_NEGATIVE = several(whole(1, 65536)), whole(1), number(0, above=True), number(0)
PIXELS, SHARE = whole(1, 8192), number(0, 1, above=True)
MM = number(0, 1000, above=True)
SATURATION = Bound(
    "() for none, or two numbers in brackets, the first below 0 and the second above",
    lambda ends: ends == () or (several(number(), least=2).holds(ends) and len(ends) == 2 and ends[0] < 0 < ends[1]),
)
RATE = Bound(
    "a number from 0.0001 to below 1, of at most six digits",
    lambda value: isinstance(value, float) and 1e-4 <= value < 1 and float(f"{value:g}") == value,
)
RATES = Bound(
    f"one or more values in brackets, each once, each {RATE.expected}",
    lambda values: several(RATE).holds(values) and len(set(values)) == len(values),
)
VOLUMES = Bound(
    "values in brackets, each once, each a number of mL from 0.01 to 1000, of at most six digits; () for none",
    lambda values: (
        several(number(0.01, 1000), least=0).holds(values)
        and len(set(values)) == len(values)
        and all(float(f"{value:g}") == value for value in values)
    ),
)
BOUNDS: dict[str, Bound] = {
    # of every experiment
    "name": NAME,
    "seed": whole(0),
    "data.source": TEXT,
    "data.train_subjects": COUNT,
    "data.calibration_subjects": COUNT,
    "data.height": PIXELS,
    "data.width": PIXELS,
    "data.spacing": MM,
    "data.saturation": SATURATION,
    "data.workers": whole(1, 1024),
    "data.resident": choice("auto", "always", "never"),
    "data.read_processes": whole(0, 1024),
    "train.batch_size": COUNT,
    "train.steps": COUNT,
    "train.learning_rate": POSITIVE,
    "train.momentum": number(0, 1, below=True),
    "train.schedule": choice("constant", "cosine"),
    "train.precision": choice(*PRECISIONS),
    "train.flip": choice(0.0, 0.5),
    "train.intensity": NOT_NEGATIVE,
    "train.steps_per_dispatch": whole(0),
    "train.log_every": COUNT,
    "train.checkpoint_every": COUNT,
    "train.noise_cells": PIXELS,
    "train.noise_std": POSITIVE,
    "model.name": NAME,
    "model.channels": SIZES,
    "model.latent_channels": whole(1, 65536),
    "model.latent_size": whole(1, 65536),
    "model.reconstruction_weight": POSITIVE,
    "model.variance_channels": SIZES,
    "model.variance_target": choice("likelihood", "absolute"),
    "model.variance_floor": NOT_NEGATIVE,
    "model.discriminator_features": SIZES,
    "model.adversarial_weight": NOT_NEGATIVE,
    "model.gradient_penalty": NOT_NEGATIVE,
    "model.clusters": whole(1, 65536),
    "model.w_channels": whole(1, 65536),
    "model.prior_channels": whole(1, 65536),
    "model.cluster_free_nats": NOT_NEGATIVE,
    "restore.method": NAME,
    "restore.score": choice("absolute", "positive", "relative"),
    "restore.false_positive_rates": RATES,
    "restore.false_positive_volumes": VOLUMES,
    "restore.mask_rate": RATE,
    "restore.slice_step": COUNT,
    "restore.precision": choice(*PRECISIONS),
    "restore.checkpoint": choice("best", "last"),
    "restore.batch_size": whole(0),
    "restore.cuda_graphs": SWITCH,
    "restore.variance_at": choice("restored", "observed"),
    "restore.variance_form": choice("auto", "plain"),
    "restore.decoder_form": choice("auto", "plain"),
    "restore.deviation_limit": NOT_NEGATIVE,
    "restore.optimizer": choice("adam", "gradient", "proximal"),
    "restore.learning_rate": POSITIVE,
    "restore.iterations": COUNT,
    "restore.refreshes": COUNT,
    "restore.dual_steps": COUNT,
    "restore.closed_steps": COUNT,
    "restore.reconstruction_variance": POSITIVE,
    "restore.tolerance": NOT_NEGATIVE,
    "restore.traced": SWITCH,
    "restore.samples_est": whole(2),  # since lg_est takes the variance of the samples
    "restore.samples_neural": COUNT,
    "restore.feature_weight": number(0, 1),
    "calibrate.strength": NOT_NEGATIVE,
    "calibrate.ssim": number(0, 1, above=True, below=True),
    "calibrate.slices": COUNT,
    "calibrate.smallest_lambda": POSITIVE,
    "calibrate.largest_lambda": POSITIVE,
    "calibrate.lambdas": COUNT,
    "calibrate.tolerance": number(0.001),
    "gmm.atlas": choice("mni152", "none"),
    "gmm.classes": whole(1, 100),
    "gmm.kappa": POSITIVE,
    "gmm.iterations": COUNT,
    # of configs/data.py
    "height": PIXELS,
    "width": PIXELS,
    "spacing": MM,
    "saturation": SATURATION,
    "workers": whole(1, 1024),
    "brain.stripper": choice("auto", "hd-bet", "mri_synthstrip", "none"),
    "bias_field.correct": SWITCH,
    "bias_field.spacing": MM,
    "bias_field.levels": whole(1, 10),
    "bias_field.iterations": COUNT,
    "bias_field.threshold": POSITIVE,
    "histogram.match": SWITCH,
    "histogram.percentiles": several(number(0, 100), ascending=True, least=2),
    # of configs/eval.py
    "connectivity": choice(6, 18, 26),
    "lesion_share": SHARE,
    "detection_share": SHARE,
    "least_subjects": whole(2),
    "family_error": number(0, 1, above=True, below=True),
    "references": several(NAME, least=0),
    # of configs/bench.py
    "as_paper": SWITCH,
    "precision": choice(*PRECISIONS),
    "volume_slices": COUNT,
    "repeats": COUNT,
    "run_seconds": POSITIVE,
    "short_iterations": COUNT,
    "further_solvers": several(choice("adam", "gradient", "proximal"), least=0),
    "train_models": several(choice("vae", "aae", "gmvae", "anogan"), least=0),
    "train_slices": COUNT,
    "peak_sizes": SIZES,
    "peak_length": COUNT,
}


def check(config: Mapping[str, Any], prefix: str = "") -> None:
    """Raises UsageError for the first value of a config that is out of its bounds, or that another value rules out.

    Args:
      config: of an experiment, or of configs/data.py, eval.py or bench.py.
      prefix: of the names in messages, where the config is a part of another one.
    """
    values = dict(leaves({name: part for name, part in config.items() if name != "experiments"}))
    for path, value in values.items():
        bound = BOUNDS.get(path)
        if bound and not bound.holds(value):
            raise UsageError(f"--config.{prefix}{path}={_shown(value)}: expected {bound.expected}.")
    for problem in _clashes(values):
        raise UsageError(f"--config.{prefix}{problem}.")
    for name, part in config.get("experiments", {}).items():
        check(part, f"{prefix}experiments.{name}.")


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Lists the values of a config with their dotted names."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _clashes(values: Mapping[str, Any]) -> Iterable[str]:
    """Says which values do not go together; each by itself is within its bounds."""
    if "model.channels" in values and "data.height" in values:
        halvings = len(values["model.channels"]) - (values.get("model.name") in ("dae", "restorer"))
        for side in ("data.height", "data.width"):
            if values.get(side, 0) % 2**halvings:
                why = f"since model.channels halve it {halvings} times"
                yield f"{side}={values[side]}: expected a multiple of {2**halvings}, {why}"
    low, high = (values.get(f"calibrate.{name}_lambda") for name in ("smallest", "largest"))
    if low is not None and high is not None and low >= high:
        yield f"calibrate.smallest_lambda={low}: expected a number below calibrate.largest_lambda, {high}"
    if values.get("gmm.atlas") == "mni152" and values.get("gmm.classes", 3) != 3:
        yield f"gmm.classes={values['gmm.classes']}: mni152 has 3. Add --config.gmm.atlas=none"
    rates, shown = values.get("restore.false_positive_rates"), values.get("restore.mask_rate")
    if rates and shown not in rates:
        yield f"restore.mask_rate={shown}: expected one of the false positive rates {_shown(rates)}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) and value else str(value)


def _among(value: Any, values: tuple) -> bool:
    return not isinstance(value, bool) and value in values


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
