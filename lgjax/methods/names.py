"""Methods by name: `<model>_<prior>_<term>`, or a baseline.

vae_lg_neural_tv = the VAE local Gaussian with the variance network, and TV as the data term
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from lgjax.models import MODELS
from lgjax.restoration.data_terms import DATA_TERMS
from lgjax.runtime.errors import UsageError

BASELINES = ("intensity", "gmm")  # nothing is trained for them
SCORES = ("absolute", "positive", "signed")  # what a method's change Y - X can be scored by


class Method(NamedTuple):
    """A method taken apart: model and prior, and the data term where there is a restoration loop."""

    name: str
    model: str  # "" for baselines
    prior: str  # "" for baselines
    term: str  # "" where no prior is climbed

    @property
    def restores(self) -> bool:
        """Whether it climbs a prior, and so has a lambda to calibrate."""
        return bool(self.term)

    @property
    def signed(self) -> bool:
        """Whether the score is Y - X with its sign (plain intensity) rather than a distance."""
        return self.name == "intensity"

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that have thresholds, of `SCORES`."""
        return ("signed",) if self.signed else ("absolute", "positive")

    @property
    def unit(self) -> str:
        """Of the score."""
        return "standard deviations of the nearest tissue" if self.name == "gmm" else "standard deviations of the brain"

    @property
    def pictures(self) -> bool:
        """Whether Y - score is a picture of a healthy brain (not for the distance to the tissue classes of gmm)."""
        return self.name != "gmm"


def available() -> dict[str, Method]:
    """Lists all methods by name; a model that is searched (anogan) gives its own name to the method."""
    found = [Method(name, "", "", "") for name in BASELINES]
    for model, module in MODELS.items():
        for prior in module.SUPPORTS:
            if prior == "search":
                found.append(Method(model, model, prior, ""))
            elif prior == "reconstruction":
                found.append(Method(f"{model}_{prior}", model, prior, ""))
            else:
                found += [Method(f"{model}_{prior}_{term}", model, prior, term) for term in DATA_TERMS]
    return {method.name: method for method in found}


def parse(name: str) -> Method:
    """Takes a method's name apart.

    Raises:
      UsageError: there is no such method; the message lists those that exist.
    """
    methods = available()
    if name in methods:
        return methods[name]
    why = ""
    model, _, rest = name.partition("_")
    for prior, need in (("elbo", "evidence lower bound"), ("lg_est", "posterior to draw from")):
        if model in MODELS and rest.startswith(prior) and prior not in MODELS[model].SUPPORTS:
            why = f": {model} has no {need}"
    close = difflib.get_close_matches(name, methods, 1)
    meant = f" Did you mean {close[0]}?" if close and not why else ""
    raise UsageError(f"there is no method {name!r}{why}.{meant} Choose among {', '.join(methods)}.")


def rate_names(rates: Sequence[float]) -> tuple[str, ...]:
    """Returns what thresholds, masks and their files are named by: false positive rates as text, ascending.

    Raises:
      UsageError: there is none, one is there twice, or one is no decimal of at most six digits in [0.0001, 1).
    """
    if not rates or len(set(rates)) < len(rates) or not all(map(_is_rate, rates)):
        expected = "one or more numbers from 0.0001 to below 1, of at most six digits, each once"
        raise UsageError(f"--config.restore.false_positive_rates={_listed(rates)}: expected {expected}.")
    return tuple(f"{rate:g}" for rate in sorted(rates))


def mask_rate(rate: float, rates: Sequence[str]) -> str:
    """Returns the name of the rate whose mask is shown, and whose lesions are listed.

    Raises:
      UsageError: it is none of those that there are thresholds for, from `rate_names`.
    """
    name = f"{rate:g}"
    if name not in rates:
        expected = f"one of the false positive rates {_listed(rates)}"
        raise UsageError(f"--config.restore.mask_rate={rate}: expected {expected}.")
    return name


def _is_rate(rate: object) -> bool:
    return isinstance(rate, float) and 1e-4 <= rate < 1 and float(f"{rate:g}") == rate


def _listed(rates: Sequence[object]) -> str:
    return ", ".join(map(str, rates))


def check_model(method: Method, model: str) -> None:
    """Raises UsageError where a method needs another model than the one that a config describes, by its name."""
    if method.model not in ("", model):
        raise UsageError(
            f"{method.name} needs the model {method.model}, and the config describes {model}. "
            f"Train it: python -m lgjax.train --config=configs/{method.model}.py"
        )
