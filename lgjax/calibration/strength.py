"""Lambda by SSIM: the smallest strength of the data term that keeps healthy slices as they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from skimage.metrics import structural_similarity

WINDOW = 7  # pixels, width of the square in which SSIM compares means and variances, all pixels alike
BEYOND = (10.0, 100.0, 1000.0)  # times below the smallest and above the largest candidate: where lambda is sought too
ACROSS = 0.45  # of the tolerance, that a look lies beyond the expected lambda: two looks then close in on it


def data_range(values: np.ndarray) -> float:
    """Returns the span of healthy intensities for SSIM, from their 0.5 to their 99.5 percentile."""
    low, high = np.percentile(values, [0.5, 99.5])
    return float(high - low)


def masked_ssim(x: np.ndarray, y: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Computes the structural similarity (Wang et al. 2004) of two slices [H, W], averaged inside the mask [H, W].

    The window is a uniform square of `WINDOW` pixels, not Wang's Gaussian of 11: as many millimetres as the slices'
    spacing makes it, so that SSIM at two spacings are two measures. K1 = 0.01, K2 = 0.03.
    """
    _, similarity = structural_similarity(x, y, win_size=WINDOW, data_range=data_range, full=True)
    return float(similarity[mask > 0].mean())


class Search(NamedTuple):
    """Outcome of the search for lambda."""

    strength: float  # the lambda to use
    ssim: float  # mean SSIM at it
    curve: list[tuple[float, float]]  # (lambda, SSIM) of every lambda tried, by lambda
    monotone: bool  # whether SSIM never fell with lambda
    reached: bool  # whether the wanted SSIM was reached
    failing: float  # largest lambda tried that misses the wanted SSIM; 0: even the smallest reaches it


def smallest_strength(
    evaluate: Callable[[np.ndarray], np.ndarray], candidates: Sequence[float], target: float, tolerance: float
) -> Search:
    """Finds the smallest lambda that keeps the mean SSIM of restored healthy slices at a target (paper, Sec. 2.2).

    The lambda found is the smallest tried from which all larger ones tried reach the target. It is sought beyond the
    candidates too, at most a thousand times below the smallest and above the largest.

    Args:
      evaluate: lambdas [K] -> mean SSIM [K].
      candidates: lambdas tried first, ascending.
      target: least SSIM.
      tolerance: by which share, at most, the lambda found is larger than one tried that misses the target.

    Returns:
      The search; where no lambda reaches the target, the one with the highest SSIM, marked `reached=False`.
    """
    curve: dict[float, float] = {}

    def look(*strengths: float) -> tuple[float, float]:
        """Evaluates lambdas; returns the largest that misses the target (0: none), and the next (infinite: none)."""
        curve.update(zip(strengths, map(float, evaluate(np.asarray(strengths))), strict=True))
        failing = max((strength for strength, value in curve.items() if value < target), default=0.0)
        return failing, min((strength for strength in curve if strength > failing), default=math.inf)

    failing, found = look(*map(float, candidates))
    for factor in BEYOND:
        if math.isinf(found):
            failing, found = look(candidates[-1] * factor)
        elif not failing:
            failing, found = look(candidates[0] / factor)
    width, left = math.log1p(tolerance), _looks(failing, found, tolerance)
    while found > failing * (1 + tolerance) and left:
        left -= 1
        failing, found = look(_between(curve, target, (failing, found), width, width * 2**left))
    reached = not math.isinf(found)
    return _finished(curve, found if reached else max(curve, key=lambda strength: curve[strength]), reached, failing)


def _looks(failing: float, found: float, tolerance: float) -> int:
    """Returns how many lambdas are tried between two, at most: one more than bisection would try."""
    if not failing or math.isinf(found):
        return 0  # there is nothing to find between them
    return 1 + max(0, math.ceil(math.log2(math.log(found / failing) / math.log1p(tolerance))))


def _between(
    curve: Mapping[float, float], target: float, bracket: tuple[float, float], width: float, most: float
) -> float:
    """Chooses the next lambda to try: a little beyond the expected one, towards the farther end of the bracket.

    Args:
      curve: SSIM by lambda; interpolated monotonically in log lambda (Fritsch and Carlson 1980).
      target: least SSIM.
      bracket: lambdas, the first misses the target, the second reaches it.
      width: of the bracket that is wanted, in log lambda.
      most: width of the bracket that may be left afterwards, so that bisection could do the rest in time.
    """
    low, high = np.log(bracket)
    strengths, values = np.array(sorted(curve.items())).T
    grid = np.linspace(low, high, 1001)
    expected = np.interp(target, PchipInterpolator(np.log(strengths), values)(grid), grid)
    across = np.clip((low + high) / 2 - expected, -ACROSS * width, ACROSS * width)
    return float(np.exp(np.clip(expected + across, high - most, low + most)))


def _finished(curve: Mapping[float, float], strength: float, reached: bool, failing: float) -> Search:
    """Returns the search that ended at a lambda."""
    rises = np.diff([curve[tried] for tried in sorted(curve)])
    monotone = bool((rises >= -1e-3).all())
    return Search(strength, curve[strength], sorted(curve.items()), monotone, reached, failing)
