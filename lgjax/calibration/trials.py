"""Trials of lambda on healthy subjects: how like themselves their slices stay when they are restored."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
from lgjax.runtime.shares import Share

# lambdas, [K] -> with each of them, the restored slices of this host's scans, each [N, H, W, 1]
Trial = Callable[[np.ndarray], Iterator[list[np.ndarray]]]


class Goal(NamedTuple):
    """What the search for lambda aims at, and how it goes there."""

    ssim: float  # least mean SSIM of restored healthy slices
    slices: int  # healthy slices that lambda is searched on
    smallest_lambda: float
    largest_lambda: float
    lambdas: int  # tried first, spaced evenly in log lambda
    tolerance: float  # share by which lambda may be larger than one that misses the SSIM
    strength: float = 0.0  # lambda, where it is above 0: then none is searched


def search(method: Method, runner: Runner, healthy: Share[Prepared], seen: Sequence[Seen | None], goal: Goal) -> Search:
    """Finds lambda on a fixed, evenly spaced choice of healthy slices, or of volumes of at least as many slices.

    Every host restores what is chosen of its own scans, and all find the same lambda.

    Args:
      method: with a lambda.
      runner: of the method.
      healthy: subjects.
      seen: the mirror images of this host's; None where the method needs none.
      goal: of the search.

    Raises:
      UsageError: the restoration diverged.
    """
    inside = [subject.slices.y[subject.slices.mask > 0] for subject in healthy.own]
    span = data_range(np.concatenate(healthy.pooled_arrays(inside)))
    counts = healthy.pooled([len(subject.slices.number) for subject in healthy.own])
    bar = progress.track(None, f"lambda of {method.name}", 0, "slice")
    chosen: Share[Any]  # of Slices, or of volumes
    if method.volume:
        chosen = _whole(healthy, seen, counts, goal.slices)
        trial = _of_volumes(runner, chosen.own, bar)
    else:
        chosen = _spaced(healthy, counts, goal.slices)
        trial = _of_slices(runner, chosen.own, bar)

    def evaluate(strengths: np.ndarray) -> np.ndarray:
        tried = [[*map(functools.partial(similarities, span=span), each, chosen.own)] for each in trial(strengths)]
        every = chosen.pooled([*zip(*tried, strict=True)])  # of every scan: of every lambda: of every slice
        found = np.array([np.mean([value for scan in every for value in scan[k]]) for k in range(len(strengths))])
        if np.isnan(found).any():
            problem = f"{method.name}: its restoration of healthy slices diverged"
            raise UsageError(f"{problem}. Lower --config.restore.learning_rate.")
        return found

    with bar:
        candidates = np.geomspace(goal.smallest_lambda, goal.largest_lambda, goal.lambdas)
        return smallest_strength(evaluate, list(candidates), goal.ssim, goal.tolerance)


def _spaced(healthy: Share[Prepared], counts: Sequence[int], count: int) -> Share[Slices]:
    """Chooses slices evenly spaced among those of all scans, each of which has so many: those of each, or none."""
    starts = np.cumsum([0, *counts])
    rows = evenly_spaced(starts[-1], count)
    within = [rows[(rows >= low) & (rows < high)] - low for low, high in itertools.pairwise(starts)]
    own = zip(healthy.own, healthy.of(within), strict=True)
    return healthy.having([Slices(*(part[kept] for part in subject.slices)) for subject, kept in own])


def _of_slices(runner: Runner, scans: Sequence[Slices], bar) -> Trial:
    """Returns the trial on some slices of each scan: a vector of lambdas is one batched program."""

    def trial(strengths: np.ndarray) -> Iterator[list[np.ndarray]]:
        slices = cohort.pool(scans)
        tiled = Slices(*(np.concatenate([part] * len(strengths)) for part in slices))
        bar.total += len(tiled.number)  # how many lambdas will be tried is not known before
        restored = [slices.y[:0]]  # of a host none of whose slices is chosen, there is no other
        for x, _ in runner(tiled, np.repeat(strengths, len(slices.number)).astype(np.float32)):
            restored.append(x)
            bar.update(len(x))
        found = np.concatenate(restored).reshape(len(strengths), *slices.y.shape)
        ends = np.cumsum([len(scan.number) for scan in scans])
        yield from (np.split(x, ends[:-1]) for x in found)

    return trial if scans else lambda strengths: iter([[]] * len(strengths))


def _whole(healthy: Share[Prepared], seen: Sequence[Seen | None], counts: Sequence[int], count: int) -> Share[Volume]:
    """Chooses the fewest volumes, evenly spaced, that hold `count` slices if each has as many as the mean."""
    wanted = min(int(np.ceil(count / np.mean(counts))), len(counts))
    places = np.linspace(0, len(counts) - 1, wanted).round().astype(int).tolist()
    scans = healthy.having([*zip(healthy.own, seen, strict=True)]).chosen(places)
    return scans.having([volumes.volume(subject, known.mirror if known else None) for subject, known in scans.own])


def _of_volumes(runner: Runner, scans: Sequence[Volume], bar) -> Trial:
    """Returns the trial on whole volumes, one lambda after the other."""

    def restored(whole: Volume, strength: float) -> np.ndarray:
        every = np.full(len(whole.number), strength, np.float32)
        x = np.concatenate([x for x, _ in runner(Slices(*whole[:3]), every, whole)])
        bar.update(len(x))
        return x

    def trial(strengths: np.ndarray) -> Iterator[list[np.ndarray]]:
        bar.total += len(strengths) * sum(len(whole.number) for whole in scans)
        for strength in strengths:
            yield [restored(whole, strength) for whole in scans]

    return trial


def similarities(x: np.ndarray, slices: Slices | Volume, span: float) -> list[float]:
    """Returns the SSIM of restored slices, [N, H, W, 1]; NaN of those that diverged."""
    triples = zip(x[..., 0], slices.y[..., 0], slices.mask[..., 0], strict=True)
    return [
        masked_ssim(restored, y, mask, span) if np.isfinite(restored).all() else np.nan for restored, y, mask in triples
    ]
