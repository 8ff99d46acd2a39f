"""Trials of lambda on healthy subjects: how like themselves their slices stay when they are restored."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lgjax.calibration.strength import Search, data_range, masked_ssim, smallest_strength
from lgjax.methods import volumes
from lgjax.methods.mirror import Seen
from lgjax.methods.names import Method
from lgjax.methods.runner import Runner
from lgjax.methods.volumes import Volume
from lgjax.preparation import cohort
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Slices, evenly_spaced
from lgjax.runtime import progress
from lgjax.runtime.errors import UsageError

# lambdas, [K] -> the restorations with each of them, [N, H, W, 1], and the slices that were restored
Trial = Callable[[np.ndarray], Iterator[tuple[np.ndarray, Slices]]]


class Goal(NamedTuple):
    """What the search for lambda aims at, and how it goes there."""

    ssim: float  # least mean SSIM of restored healthy slices
    slices: int  # healthy slices that lambda is searched on
    smallest_lambda: float
    largest_lambda: float
    lambdas: int  # tried first, spaced evenly in log lambda
    tolerance: float  # share by which lambda may be larger than one that misses the SSIM
    strength: float = 0.0  # lambda, where it is above 0: then none is searched


def search(
    method: Method, runner: Runner, prepared: Sequence[Prepared], seen: Sequence[Seen | None], goal: Goal
) -> Search:
    """Finds lambda on a fixed, evenly spaced choice of healthy slices, or of volumes of at least as many slices.

    Args:
      method: with a lambda.
      runner: of the method.
      prepared: healthy subjects.
      seen: their mirror images; None where the method needs none.
      goal: of the search.

    Raises:
      UsageError: the restoration diverged.
    """
    everything = cohort.pool([subject.slices for subject in prepared])
    span = data_range(everything.y[everything.mask > 0])
    bar = progress.track(None, f"lambda of {method.name}", 0, "slice")
    if method.volume:
        trial = _of_volumes(runner, _chosen(prepared, seen, goal.slices), bar)
    else:
        trial = _of_slices(runner, _spaced(everything, goal.slices), bar)

    def evaluate(strengths: np.ndarray) -> np.ndarray:
        found = []
        for x, slices in trial(strengths):
            if not np.isfinite(x).all():
                problem = f"{method.name}: its restoration of healthy slices diverged"
                raise UsageError(f"{problem}. Lower --config.restore.learning_rate.")
            found.append(mean_ssim(x, slices, span))
        return np.array(found)

    with bar:
        candidates = np.geomspace(goal.smallest_lambda, goal.largest_lambda, goal.lambdas)
        return smallest_strength(evaluate, list(candidates), goal.ssim, goal.tolerance)


def _spaced(everything: Slices, count: int) -> Slices:
    """Chooses slices evenly spaced among all."""
    chosen = evenly_spaced(len(everything.number), count)
    return Slices(*(part[chosen] for part in everything))


def _of_slices(runner: Runner, slices: Slices, bar) -> Trial:
    """Returns the trial on slices: a vector of lambdas is one batched program."""

    def trial(strengths: np.ndarray) -> Iterator[tuple[np.ndarray, Slices]]:
        tiled = Slices(*(np.concatenate([part] * len(strengths)) for part in slices))
        bar.total += len(tiled.number)  # how many lambdas will be tried is not known before
        restored = []
        for x, _ in runner(tiled, np.repeat(strengths, len(slices.number)).astype(np.float32)):
            restored.append(x)
            bar.update(len(x))
        found = np.concatenate(restored).reshape(len(strengths), *slices.y.shape)
        yield from ((x, slices) for x in found)

    return trial


def _chosen(prepared: Sequence[Prepared], seen: Sequence[Seen | None], count: int) -> list[Volume]:
    """Chooses the fewest volumes, evenly spaced, that hold `count` slices if each has as many as the mean."""
    mean = np.mean([len(subject.slices.number) for subject in prepared])
    wanted = min(int(np.ceil(count / mean)), len(prepared))
    places = np.linspace(0, len(prepared) - 1, wanted).round().astype(int)
    pairs = [(prepared[i], seen[i]) for i in places]
    return [volumes.volume(subject, known.mirror if known else None) for subject, known in pairs]


def _of_volumes(runner: Runner, chosen: Sequence[Volume], bar) -> Trial:
    """Returns the trial on whole volumes, one lambda after the other."""
    slices = Slices(*(np.concatenate(parts) for parts in zip(*(whole[:3] for whole in chosen), strict=True)))

    def restored(whole: Volume, strength: float) -> np.ndarray:
        every = np.full(len(whole.number), strength, np.float32)
        x = np.concatenate([x for x, _ in runner(Slices(*whole[:3]), every, whole)])
        bar.update(len(x))
        return x

    def trial(strengths: np.ndarray) -> Iterator[tuple[np.ndarray, Slices]]:
        bar.total += len(strengths) * len(slices.number)
        for strength in strengths:
            yield np.concatenate([restored(whole, strength) for whole in chosen]), slices

    return trial


def mean_ssim(x: np.ndarray, slices: Slices, span: float) -> float:
    """Returns the mean over slices of the SSIM of restored ones, [N, H, W, 1]."""
    triples = zip(x[..., 0], slices.y[..., 0], slices.mask[..., 0], strict=True)
    return float(np.mean([masked_ssim(restored, y, mask, span) for restored, y, mask in triples]))
