"""Methods by name: `<model>_<prior>_<term>`, or a method without a network.

vae_lg_neural_tv = the VAE's local Gaussian with the variance network, and total variation as the data term
vae_lg_neural_mirror_tv3d = that Gaussian times the mirror image's, and total variation of the volume
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lgjax.models import MODELS
from lgjax.restoration.data_terms import DATA_TERMS
from lgjax.runtime.errors import UsageError

VOLUME_TERM = "tv3d"  # the term that joins the slices of a volume
MIRROR = "mirror"
CLOSED = ("intensity", MIRROR, "reconstruction")  # Gaussians that do not depend on X: one step finds their mode
KERNELS = OURS, XLAS = ("lgjax", "XLA")  # whose kernels can compute a restoration
SCORES = ("absolute", "positive", "relative", "signed")  # what a method's change Y - X can be scored by
NEEDS = {"elbo": "evidence lower bound", "lg_est": "posterior to draw from", "lg_neural": "variance network"}


class Method(NamedTuple):
    """A method taken apart: model and prior, and the data term where there is a lambda."""

    name: str
    model: str  # "" where no network is asked
    prior: str  # "" for plain intensity and gmm
    term: str  # "" where no prior is climbed
    mirror: bool = False  # whether the mirror image is an expert

    @property
    def restores(self) -> bool:
        """Whether it climbs a prior, and so has a lambda to calibrate."""
        return bool(self.term)

    @property
    def volume(self) -> bool:
        """Whether it restores whole volumes, whose slices the data term joins."""
        return self.term == VOLUME_TERM

    @property
    def closed(self) -> bool:
        """Whether its Gaussian does not depend on X, so that one proximal step ends at the mode."""
        return self.restores and self.prior in CLOSED

    @property
    def iterates(self) -> bool:
        """Whether it has a loop that asks networks again and again."""
        return self.prior not in ("", "reconstruction") and not self.closed

    @property
    def signed(self) -> bool:
        """Whether the score is Y - X with its sign (plain intensity) rather than a distance."""
        return self.name == "intensity"

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that have thresholds, of `SCORES`."""
        return ("signed",) if self.signed else ("absolute", "positive", "relative")

    def scored(self, score: str) -> str:
        """Returns the score in use: the wanted one where the method has a choice."""
        return score if score in self.scores else self.scores[0]

    @property
    def unit(self) -> str:
        """Of the score."""
        return "standard deviations of the nearest tissue" if self.name == "gmm" else "standard deviations of the brain"

    @property
    def pictures(self) -> bool:
        """Whether Y - score is a picture of a healthy brain (not for the distance to the tissue classes of gmm)."""
        return self.name != "gmm"


BASELINES = (  # nothing is trained for them
    Method("intensity", "", "", ""),
    Method("gmm", "", "", ""),
    Method("intensity_tv3d", "", "intensity", VOLUME_TERM),
    Method("mirror_tv3d", "", MIRROR, VOLUME_TERM, mirror=True),
)


def available() -> dict[str, Method]:
    """Lists all methods by name; a model that is searched (anogan) gives its own name to the method."""
    found = [*BASELINES]
    for model, module in MODELS.items():
        for prior in module.SUPPORTS:
            found += _of_prior(model, prior)
    return {method.name: method for method in found}


def _of_prior(model: str, prior: str) -> Iterator[Method]:
    """Lists the methods that one prior of a model has."""
    if prior == "search":
        yield Method(model, model, prior, "")
        return
    if prior == "reconstruction":
        yield Method(f"{model}_{prior}", model, prior, "")
    for term in [VOLUME_TERM] if prior == "reconstruction" else DATA_TERMS:
        yield Method(f"{model}_{prior}_{term}", model, prior, term)
    if prior != "elbo":  # which is no Gaussian that another one could be multiplied with
        yield Method(f"{model}_{prior}_{MIRROR}_{VOLUME_TERM}", model, prior, VOLUME_TERM, mirror=True)


def parse(name: str) -> Method:
    """Takes a method's name apart.

    Raises:
      UsageError: there is no such method; the message says why, and lists those of the same model.
    """
    methods = available()
    if name in methods:
        return methods[name]
    model, _, rest = name.partition("_")
    why = _reason(model, rest)
    close = _close(name, bool(why), methods)
    meant = f" Did you mean {close}?" if close else ""
    raise UsageError(f"there is no method {name!r}{why}.{meant} {_choice(model, methods)}")


def _close(name: str, explained: bool, methods: dict[str, Method]) -> str:
    """Returns the method that was probably meant, among those of the model that is named; "" where none is close."""
    first, *others = name.split("_")
    if first == MIRROR or (first == "intensity" and MIRROR in others):
        return f"{MIRROR}_{VOLUME_TERM}"
    if explained:
        return ""
    own = [other for other, method in methods.items() if first not in MODELS or method.model == first]
    return next(iter(difflib.get_close_matches(name, own, 1)), "")


def _reason(model: str, rest: str) -> str:
    """Says why a model has no method of that name; "" where nothing is known."""
    if model in MODELS:
        if rest and "search" in MODELS[model].SUPPORTS:
            return f": {model} is searched, and has no other prior"
        for prior, need in NEEDS.items():
            if rest.startswith(prior) and prior not in MODELS[model].SUPPORTS:
                return f": {model} has no {need}"
    *parts, term = rest.split("_")
    if MIRROR in parts and "elbo" in parts:
        return ": the bound is no Gaussian, which the mirror's could be multiplied with"
    if (MIRROR in parts or model == MIRROR) and term != VOLUME_TERM:
        return f": the mirror image is one of a whole volume, and goes with {VOLUME_TERM} alone"
    if parts == ["reconstruction"] and term in DATA_TERMS:
        return f": a reconstruction goes with {VOLUME_TERM} alone"
    if model == "gmm" and rest:
        return ": gmm's score is a distance from tissues, and no Gaussian to restore by"
    return ""


def _choice(model: str, methods: dict[str, Method]) -> str:
    """Lists the methods of a model, or those without a network and the models."""
    own = [name for name, method in methods.items() if method.model == model != ""]
    if own:
        return f"Choose among {', '.join(own)}."
    listed = ", ".join(method.name for method in BASELINES)
    return f"Choose among {listed}, or one of a model ({', '.join(MODELS)}), such as vae_lg_neural_tv."


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
