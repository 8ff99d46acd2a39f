"""What a paper says of a folder of maps: methods.md, ready to paste, and citations.bib, of what was used."""

import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from lgjax.methods.local import Settings
from lgjax.methods.names import Method
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import files
from lgjax.runtime.counting import counted

TEXT, BIBLIOGRAPHY = "methods.md", "citations.bib"
LITERATURE = pathlib.Path(__file__).with_name("literature.bib")
MODELS = {  # by name
    "vae": "a variational auto-encoder [@kingma2014]",
    "aae": "an adversarial auto-encoder [@makhzani2016]",
    "gmvae": "a variational auto-encoder with a mixture of Gaussians for its prior [@you2019]",
    "anogan": "a generative adversarial network [@schlegl2017]",
    "dae": "a denoising auto-encoder [@kascenas2022]",
    "restorer": "a U-Net that learnt to undo synthetic anomalies [compare @kascenas2022; @marimont2023]",
}
BRAINS = {  # by their origin
    "given": "a mask beside the scan",
    "background": "the empty background of a skull-stripped scan",
    "hd-bet": "HD-BET [@isensee2019]",
    "mri_synthstrip": "SynthStrip [@hoopes2022]",
}
SCORES = {
    "absolute": "|Y - X|",
    "positive": "the positive part of Y - X",
    "relative": "the positive part of Y - X over the median |Y - X| of the scan's brain",
}
DUAL = "accelerated projected gradient on the dual problem [@beck2009; @pock2011]"


class Used(NamedTuple):
    """What a folder of maps was made with."""

    versions: Mapping[str, str]  # of lgjax, jax, flax, nibabel and SimpleITK
    device: str
    method: Method
    settings: Settings
    recipe: Recipe
    trained_on: str  # "nothing", or in words
    score: str
    unit: str  # of the score
    strength: float | None  # lambda
    ssim: float | None  # that lambda was searched for; None: lambda was given
    reached: bool  # whether a lambda reaches it
    rate: str  # of false positives, whose mask is shown
    threshold: float  # for this rate
    subjects: int  # that calibrated
    healthy: str  # what they are: healthy scans, or synthetic healthy brains
    pvalues: tuple[int, int] | None  # healthy voxels that they come from, and strata; None: there are none
    promised: tuple[tuple[float, float], ...]  # volumes of false positives, mL, and the thresholds that promise them
    cap: int  # times that volume: what a scan counts at most
    slice_step: int  # one of so many axial slices was restored
    brains: frozenset[str]  # origins of the brain masks, of `BRAINS`
    others: int  # maps in the folder that were made otherwise, which the text does not speak of


def write(folder: pathlib.Path, used: Used) -> None:
    """Writes methods.md and citations.bib of a folder of maps."""
    told = text(used)
    files.atomic_write(folder / TEXT, told)
    files.atomic_write(folder / BIBLIOGRAPHY, bibliography(told, used.versions))


def remove(folder: pathlib.Path) -> None:
    """Removes methods.md and citations.bib of an earlier run, which may not speak of what is about to be written."""
    for name in (TEXT, BIBLIOGRAPHY):
        (folder / name).unlink(missing_ok=True)


def text(used: Used) -> str:
    """Returns the methods section, Markdown with citations as Pandoc reads them."""
    parts = (_software(used), _preparation(used), _restoration(used), _detection(used), *_others(used), NOTICE)
    return "\n\n".join(["# Methods", *parts]) + "\n"


NOTICE = (
    "---\n\n*lgjax wrote this text from the settings that were used. You may paste the text, changed or not, into a "
    "paper (CC0). The entries of the citations are in `citations.bib`. Research use only. Not a medical device.*"
)


def bibliography(told: str, versions: Mapping[str, str]) -> str:
    """Returns the entries of all that a text cites, BibTeX.

    Args:
      told: the text.
      versions: of software, by the key of its entry.
    """
    entries = literature()
    found = {key: entries[key] for key in sorted(cited(told))}
    for key in found.keys() & versions.keys():
        found[key] = f"{found[key].removesuffix('}').rstrip()},\n  version = {{{versions[key]}}}\n}}"
    return "\n\n".join(found.values()) + "\n"


def cited(told: str) -> set[str]:
    """Returns the keys of all that a text cites."""
    return set(re.findall(r"@([a-z]+[0-9]*)", told))


def literature() -> dict[str, str]:
    """Reads all entries that can be cited, by key."""
    entries = LITERATURE.read_text(encoding="utf-8").strip().split("\n\n")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def _software(used: Used) -> str:
    versions = used.versions
    flax = f" and Flax {versions['flax']} [@flax]" if used.method.model else ""
    return (
        f"Lesions were detected without lesion labels by the method `{used.method.name}` of lgjax {versions['lgjax']} "
        f"[@lgjax], which builds on the restoration of Chen et al. [@chen2019]. It ran with JAX {versions['jax']} "
        f"[@jax]{flax} on {used.device}. Scans were read with NiBabel {versions['nibabel']} [@nibabel]."
    )


def _preparation(used: Used) -> str:
    recipe, said = used.recipe, []
    if used.brains:
        said.append(f"The brain came from {_or([BRAINS.get(one, one) for one in sorted(used.brains)])}.")
    if field := recipe.bias_field:
        said.append(
            f"The bias field was removed by N4 [@tustison2010] of SimpleITK {used.versions['simpleitk']} [@simpleitk], "
            f"on voxels of about {field.spacing:g} mm, at {field.levels} levels of at most {field.iterations} "
            f"iterations each, down to a convergence of {field.threshold:g}."
        )
    if histogram := recipe.histogram:
        marks = ", ".join(f"{percentile:g}" for percentile in histogram.percentiles)
        said.append(f"Intensities were matched to those of the training scans [@nyul1999] at the percentiles {marks}.")
    clipped = ""
    if recipe.saturation:
        clipped = ", clipped at {:g} and {:g} standard deviations".format(*recipe.saturation)
    grid = recipe.grid
    said.append(
        f"Intensities were z-scored within the brain{clipped}, and cut into axial slices of {grid.height} x "
        f"{grid.width} pixels of {grid.spacing:g} mm."
    )
    if used.slice_step > 1:
        said.append(f"One of {used.slice_step} axial slices was restored and judged.")
    return " ".join(said)


def _restoration(used: Used) -> str:
    """Says how the healthy counterpart X of a scan Y was found."""
    method, settings = used.method, used.settings
    said = [f"The method looked at {MODELS[method.model]}, trained on {used.trained_on}."] if method.model else []
    if method.closed:
        said += [_closed(used), _strength(used)]
    elif method.iterates and method.restores:
        said += [_ascent(used), _strength(used)]
    elif method.prior == "search":
        said.append(
            f"The healthy counterpart X of each slice Y is the generated slice that came closest to Y in "
            f"{settings.iterations} iterations of Adam [@kingma2015] with the learning rate {settings.learning_rate:g} "
            f"[@schlegl2017]."
        )
    elif method.prior == "reconstruction":
        said.append("The healthy counterpart X of each slice Y is the model's reconstruction of Y.")
    elif method.name == "gmm":
        said.append(_mixture(used))
    else:
        said.append("No healthy counterpart was made: the score of a voxel is its z-score.")
    return " ".join(said)


def _closed(used: Used) -> str:
    means = {
        "intensity": "the mean intensity of the brain",
        "mirror": f"the mirror image of Y, {_mirror(used)}",
        "reconstruction": f"the model's reconstruction of Y, with the variance "
        f"{used.settings.reconstruction_variance:.3g}",
    }
    return (
        f"The healthy counterpart X of each scan Y is the mode of log N(X) - lambda R(Y, X), where N is a Gaussian "
        f"around {means[used.method.prior]}, and R is {_cost(used)}. "
        f"{_product(used)}The mode was found by {used.settings.closed_steps} steps of {DUAL}."
    )


def _mirror(used: Used) -> str:
    variance = f"{used.settings.mirror_variance:.3g}"
    return f"reflected at the mid-sagittal plane found in each scan, with the variance {variance} from healthy scans"


def _product(used: Used) -> str:
    """Says what the prior of a network was multiplied with."""
    if not used.method.mirror or not used.method.model:
        return ""
    return (
        f"This Gaussian was multiplied with one around the mirror image of Y, {_mirror(used)}, and with one around the "
        "mean intensity of the brain [@hinton2002]. "
    )


def _ascent(used: Used) -> str:
    method, settings = used.method, used.settings
    what = "scan" if method.volume else "slice"
    gaussian = "approximated around every X by a Gaussian"
    priors = {
        "lg_neural": f"{gaussian} whose variance a network predicts (latent samples a step: {settings.samples_neural})",
        "lg_est": f"{gaussian} with the moments of decoded samples (samples a step: {settings.samples_est})",
        "elbo": "approached by its evidence lower bound",
    }
    return (
        f"The healthy counterpart X of each {what} Y climbed log P(X) - lambda R(Y, X) from X = Y [@chen2019], where P "
        f"is the model's density, {priors[method.prior]}, and R is {_cost(used)}. "
        f"{_product(used)}{_solver(used)}"
    )


def _cost(used: Used) -> str:
    costs = {
        "tv": "the total variation of Y - X in the slice [@rudin1992]",
        "tv3d": "the total variation of Y - X in three dimensions [@rudin1992]",
        "l1": "the sum of |Y - X|",
    }
    return costs[used.method.term]


def _solver(used: Used) -> str:
    settings = used.settings
    adam = f"{settings.iterations} iterations of Adam [@kingma2015] with the learning rate {settings.learning_rate:g}"
    told = {
        "adam": f"The ascent took {adam}.",
        "gradient": f"The ascent took {settings.iterations} gradient steps of size {settings.learning_rate:g}.",
        "proximal": f"The ascent took {settings.refreshes} implicit steps, as far as {adam} would go.",
    }[settings.optimizer]
    if settings.optimizer == "proximal" and used.method.term != "l1":
        told += f" Each was solved by {settings.dual_steps} steps of {DUAL}."
    if settings.tolerance:
        told += f" It ended early where X moved by less than {settings.tolerance:g} a step."
    return told


def _strength(used: Used) -> str:
    if used.ssim is None:
        return f"The weight lambda was set to {used.strength:g}."
    if not used.reached:
        return (
            f"The weight lambda = {used.strength:.4g} is the one at which restored slices of held-out healthy scans "
            f"kept the highest mean structural similarity [@wang2004], below the wanted {used.ssim:g}."
        )
    return (
        f"The weight lambda = {used.strength:.4g} is the smallest at which restored slices of held-out healthy scans "
        f"kept a mean structural similarity of {used.ssim:g} [@wang2004]."
    )


def _mixture(used: Used) -> str:
    mixture = used.settings.mixture
    atlas = "" if mixture.atlas == "none" else f", with the priors of the atlas {mixture.atlas}"
    return (
        f"A mixture of {mixture.classes} Gaussians was fitted to each scan by {mixture.iterations} iterations of "
        f"robust EM [@vanleemput2001] with kappa = {mixture.kappa:g}{atlas}. The score of a voxel is its "
        "distance from the nearest class."
    )


def _detection(used: Used) -> str:
    return " ".join([_threshold(used), *_pvalues(used), *_promises(used)])


def _threshold(used: Used) -> str:
    score = f"The score of a voxel is {SCORES[used.score]}. " if used.score in SCORES and used.method.pictures else ""
    return (
        f"{score}Voxels with a score above {used.threshold:.4g} {used.unit} were detected, the smallest threshold that "
        f"at most {100 * float(used.rate):g} % of the brain voxels of {used.subjects} {used.healthy} exceed."
    )


def _pvalues(used: Used) -> list[str]:
    if used.pvalues is None:
        return []
    voxels, strata = used.pvalues
    return [
        "The p-value of a voxel is the share of healthy voxels of like depth and height in the brain that score as "
        f"high [@vovk2005], out of {voxels} voxels of these scans in {strata} strata, uncorrected for their number."
    ]


def _promises(used: Used) -> list[str]:
    return [
        f"A further threshold, {threshold:.4g}, bounds the expected volume of false positives of a healthy scan by "
        f"{volume:g} mL, each scan counted up to {used.cap} times that volume [@angelopoulos2024]."
        for volume, threshold in used.promised
    ]


def _others(used: Used) -> list[str]:
    if not used.others:
        return []
    maps = f"{counted(used.others, 'other map')} in the folder {'is' if used.others == 1 else 'are'}"
    return [f"*{maps} of other weights, settings or versions: this text does not speak of them.*"]


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
