"""Lambda by SSIM: the smallest strength of the data term that keeps healthy slices as they are."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from skimage.metrics import structural_similarity


def data_range(values: np.ndarray) -> float:
    """Returns the span of healthy intensities for SSIM, from their 0.5 to their 99.5 percentile."""
    low, high = np.percentile(values, [0.5, 99.5])
    return float(high - low)


def masked_ssim(x: np.ndarray, y: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Computes the structural similarity of two slices [H, W], averaged inside the mask [H, W]."""
    _, similarity = structural_similarity(x, y, data_range=data_range, full=True)
    return float(similarity[mask > 0].mean())


class Search(NamedTuple):
    """Outcome of the search for lambda."""

    strength: float  # the lambda to use
    ssim: float  # mean SSIM at it
    curve: list[tuple[float, float]]  # (lambda, SSIM) of every lambda tried, by lambda
    monotone: bool  # whether SSIM never fell with lambda
    reached: bool  # whether the wanted SSIM was reached


def smallest_strength(
    evaluate: Callable[[np.ndarray], np.ndarray], candidates: Sequence[float], target: float, bisections: int
) -> Search:
    """Finds the smallest lambda that keeps the mean SSIM of restored healthy slices at a target (paper, Sec. 2.2).

    Args:
      evaluate: lambdas [K] -> mean SSIM [K].
      candidates: lambdas tried first, ascending.
      target: least SSIM.
      bisections: refinements, in log lambda, between the last failing candidate and the first of those from which
        all larger ones reach the target.

    Returns:
      The search; where no lambda reaches the target, the one with the highest SSIM, marked `reached=False`.
    """
    strengths = list(candidates)
    values = [float(v) for v in evaluate(np.asarray(strengths))]
    passing = len(values)
    while passing and values[passing - 1] >= target:
        passing -= 1
    if passing == len(values):
        top = int(np.argmax(values))
        return _finished(strengths, values, strengths[top], values[top], reached=False)
    best, ssim = strengths[passing], values[passing]
    for _ in range(bisections if passing else 0):
        low = max(s for s in strengths if s < best)
        middle = math.sqrt(low * best)
        value = float(evaluate(np.asarray([middle]))[0])
        strengths.append(middle)
        values.append(value)
        if value >= target:
            best, ssim = middle, value
    return _finished(strengths, values, best, ssim, reached=True)


def _finished(strengths, values, best, ssim, reached: bool) -> Search:
    curve = sorted(zip(map(float, strengths), values, strict=True))
    rises = np.diff([value for _, value in curve])
    return Search(float(best), ssim, curve, bool((rises >= -1e-3).all()), reached)
