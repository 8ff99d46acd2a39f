"""The variance network: from an image, how far its reconstruction will miss at every pixel (paper, Sec. 2.1).

Log variances are held to what training produced, those of a posterior too: a network extrapolates linearly beyond the
images that it saw, and the exponential of that would make a prior that restores nothing there.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import blocks, convolutions

WIDTH = 0.5  # nats that a log variance goes beyond its range at most
FUSED_CHANNELS = 32  # of all hidden layers of one kernel, at most: their sums are in registers
SMALLEST = 1e-3  # standard deviations of the brain: the least absolute residual that the target `absolute` can mean

Measure = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # (log variances, mask) -> (low, high)


def bound(log_variance: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Holds log variances to a range, of any shape: inside, they are what they were, to the bit.

    Beyond, they go on by `WIDTH` at most, along a hyperbolic tangent: monotone, with two continuous derivatives, and
    finite for every finite log variance.

    Args:
      log_variance: as a network gives it.
      low, high: scalars, see `Bounded`.
    """
    inside = jnp.clip(log_variance, low, high)
    return inside + WIDTH * jnp.tanh((log_variance - inside) / WIDTH)


def extremes(log_variance: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the smallest and the largest log variance of a slice inside the mask, means over slices that have any.

    Args:
      log_variance: [N, ...].
      mask: 1 where it counts, of the same shape.
    """
    axes, inside = tuple(range(1, mask.ndim)), mask > 0
    ends = (
        jnp.min(log_variance, axes, where=inside, initial=jnp.inf),
        jnp.max(log_variance, axes, where=inside, initial=-jnp.inf),
    )
    low, high = (jnp.mean(end, where=inside.any(axes)) for end in ends)
    return low, high


def up_to_the_mean(log_variance: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the low end that `extremes` has, and the log of the mean variance inside the mask.

    The mean variance is the squared residual that is expected of a healthy pixel when nothing is known of the pixel: no
    more is granted to any. Nine of ten pixels of a smoke training lie below. The end must not be an extremum or a
    quantile near one: sulci filled with fluid teach the network a variance fifty times the mean (its 99.9th percentile)
    at the brightness of a lesion, and within such a range a disc is restored the less the brighter it is.

    Args:
      log_variance: [N, ...].
      mask: 1 where it counts, of the same shape.
    """
    total = jax.nn.logsumexp(log_variance, where=mask > 0)
    return extremes(log_variance, mask)[0], total - jnp.log(jnp.sum(mask > 0))


class Bounded(nn.Module):
    """Log variances, in training as they are, afterwards bound to the range that training produced.

    The range is a running statistic like those of BatchNorm: kept in `batch_stats`, forgotten at the same pace, so that
    nothing is left of early training, and the same on any number of devices. `blocks.fold` makes it parameters.
    """

    measure: Measure  # of one batch
    normalise: bool = True  # False: the range is given as parameters

    @nn.compact
    def __call__(self, log_variance: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Returns log variances, [N, ...].

        Args:
          log_variance: [N, ...].
          train: whether to learn the range from them.
          mask: 1 where the range is learnt, of the same shape; None: everywhere.
        """
        if not self.normalise:
            return bound(log_variance, *(self.param(name, lambda key: jnp.zeros(())) for name in ("low", "high")))
        kept = [self.variable("batch_stats", name, lambda: jnp.zeros(())) for name in ("low", "high")]
        if not train:
            return bound(log_variance, *(statistic.value for statistic in kept))
        mask = jnp.ones_like(log_variance) if mask is None else mask
        found = self.measure(jax.lax.stop_gradient(log_variance), mask)
        for statistic, end in zip(kept, found, strict=True):
            moved = blocks.MOMENTUM * statistic.value + (1 - blocks.MOMENTUM) * end
            statistic.value = jnp.where(jnp.any(mask > 0), moved, statistic.value)
        return log_variance


class Prediction(NamedTuple):
    """What the variance network says of images, both [N, H, W, 1]."""

    output: jax.Array  # of the last convolution
    log_variance: jax.Array  # what that means by the target, without floor; bound unless in training


class VarianceNet(nn.Module):
    """Convolutions 3x3 at full resolution: [N, H, W, 1] -> `Prediction`."""

    channels: Sequence[int]  # of the hidden layers; the paper: 8, 16, 8
    target: str  # see `Settings`
    normalise: bool = True  # see `Bounded`

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> Prediction:
        for features in self.channels:
            x = blocks.activation(convolutions.Conv(features, (3, 3))(x))
        output = convolutions.Conv(1, (3, 3))(x)
        log_variance = MEANINGS[self.target](output)
        return Prediction(output, Bounded(up_to_the_mean, self.normalise, name="range")(log_variance, train, mask))


def _log_square(residual: jax.Array) -> jax.Array:
    """Returns the log of the square of a residual, which is finite for any finite residual."""
    return 2 * jnp.log(jnp.maximum(jnp.abs(residual), SMALLEST))


MEANINGS = {"likelihood": lambda t: t, "absolute": _log_square}  # of an output: the log variance, by target


class Settings(NamedTuple):
    """The variance network of a model and what its output means."""

    channels: tuple[int, ...]  # of the hidden layers
    target: str  # `likelihood`: log variance; `absolute`: absolute residual, as in the authors' code
    floor: float  # squared intensity units (z-scores), added to every variance

    def network(self, normalise: bool) -> VarianceNet:
        """Makes the network, for training or folded."""
        return VarianceNet(self.channels, self.target, normalise)


def init(settings: Settings, key: jax.Array) -> dict[str, Any]:
    """Draws untrained variables, {"params", "batch_stats"}."""
    return dict(settings.network(normalise=True).init(key, jnp.zeros((1, 8, 8, 1))))


def predict(settings: Settings, params: Any, x: jax.Array) -> jax.Array:
    """Predicts sigma2 at images x, [N, H, W, 1], floor included, by folded parameters.

    With the target `absolute`, the variance is the square of the network's output. Its log is bound, see `Bounded`.
    """
    output = (_fused_output if _is_fused(settings) else _output)(settings, params, x)
    return jnp.exp(bound(MEANINGS[settings.target](output), **params["range"])) + settings.floor


def _is_fused(settings: Settings) -> bool:
    """Returns whether `predict` is one kernel, see `variance_kernel`, in what is traced now."""
    return convolutions.fuses(convolutions.VARIANCE) and sum(settings.channels) <= FUSED_CHANNELS


def _output(settings: Settings, params: Any, x: jax.Array) -> jax.Array:
    """Returns what the last convolution gives for images x, [N, H, W, 1]."""
    prediction: Any = settings.network(normalise=False).apply({"params": params}, x)
    return prediction.output


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fused_output(settings: Settings, params: Any, x: jax.Array) -> jax.Array:
    """Computes the same as `_output` by one kernel; gradients are those of `_output`."""
    from lgjax.models import variance_kernel  # here: Pallas takes a moment to import, and a CPU has no use for it

    layers = [params[f"Conv_{number}"] for number in range(len(settings.channels) + 1)]
    return variance_kernel.output([(layer["kernel"], layer["bias"]) for layer in layers], x)


@_fused_output.defjvp
def _fused_output_jvp(settings, primals, tangents):
    tangent = jax.jvp(functools.partial(_output, settings), primals, tangents)[1]
    return _fused_output(settings, *primals), tangent


def loss(
    settings: Settings,
    variables: dict[str, Any],
    x: jax.Array,
    reconstruction: jax.Array,
    mask: jax.Array,
    train: bool = True,
) -> tuple[jax.Array, Any]:
    """Computes the network's loss on a batch, a mean over the brain, and its new `batch_stats`.

    In training, the loss is of the variance as the network gives it: a bound that moves with training would stop the
    gradient of the largest residuals. No gradient flows into the reconstruction.

    Args:
      settings: of the network; the target chooses the loss.
      variables: of the network, {"params", "batch_stats"}.
      x: images, [N, H, W, 1].
      reconstruction: g(z), [N, H, W, 1].
      mask: 1 inside the brain, [N, H, W, 1].
      train: False for held-out slices, whose variance is bound as in a restoration, and whose range nobody learns.
    """
    residual = x - jax.lax.stop_gradient(reconstruction)
    network = settings.network(normalise=True)
    prediction, updates = network.apply(variables, x, train, mask, mutable=["batch_stats"])
    if settings.target == "likelihood":
        terms = negative_log_likelihood(residual, jnp.exp(prediction.log_variance) + settings.floor)
    else:
        terms = (prediction.output - jnp.abs(residual)) ** 2
    return (terms * mask).sum() / jnp.maximum(mask.sum(), 1.0), updates["batch_stats"]


def negative_log_likelihood(residual: jax.Array, sigma2: jax.Array) -> jax.Array:
    """Computes the Gaussian negative log-likelihood of a residual at every pixel, without its constant.

    Its optimum in the variance is E_z[(g(z) - X)^2], the target that the paper names.
    """
    return 0.5 * (jnp.log(sigma2) + residual**2 / sigma2)
