"""Building blocks shared by the networks: normalised convolutions and residual blocks, all NHWC.

Normalisation is BatchNorm that is frozen outside training, so that a slice's result never depends on the slices
beside it. `fold` removes it altogether for restoration.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgjax.models import convolutions, normalisation

BATCH_NORM_EPSILON = 1e-5
MERGED = "merged"  # the parameters of convolutions that are one, see `merge`
HEADS = ("mean_head", "log_variance_head")  # of a posterior, in this order where they are one
MOMENTUM = 0.95  # of running statistics: how much of them a training step keeps


def activation(x: jax.Array) -> jax.Array:
    """Applies LeakyReLU, the paper's activation of hidden layers."""
    return nn.leaky_relu(x, negative_slope=0.2)


class NormalisedConv(nn.Module):
    """Convolution, then BatchNorm unless folded away: [N, H, W, C] -> [N, H / strides, W / strides, features].

    With `upsampled`, the 3x3 convolution of the image upsampled by two: -> [N, 2H, 2W, features].
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    normalise: bool = True
    upsampled: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        size = (self.kernel_size, self.kernel_size)
        # Normalisation takes the bias away again, so its gradient is what rounding leaves of zero: no work for a GPU.
        idle = self.normalise and train and convolutions.launches() and not self.is_initializing()
        if self.upsampled:
            x = convolutions.UpsampledConv(self.features, use_bias=not idle, name="conv")(x)
        else:
            conv = convolutions.Conv(self.features, size, self.strides, "SAME", use_bias=not idle, name="conv")
            x = conv(x)
        if self.normalise:
            norm = normalisation.BatchNorm(momentum=MOMENTUM, epsilon=BATCH_NORM_EPSILON, name="norm")
            offset = self.get_variable("params", "conv")["bias"] if idle else None
            x = norm(x, use_running_average=not train, offset=offset)
        return x


class ResidualDown(nn.Module):
    """Residual block that halves the image: [N, H, W, C] -> [N, H/2, W/2, features]."""

    features: int
    normalise: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        if self.has_variable("params", MERGED):
            if x.shape[1] % 2 or x.shape[2] % 2:
                raise ValueError(f"expected an even height and width, got {x.shape[1:3]}")
            y = convolutions.Conv(2 * self.features, (3, 3), strides=2, padding="SAME", name=MERGED)(x)
            y, skip = activation(y[..., : self.features]), y[..., self.features :]
            return activation(NormalisedConv(self.features, 3, 1, self.normalise, name="second")(y, train) + skip)
        y = activation(NormalisedConv(self.features, 3, 2, self.normalise, name="first")(x, train))
        y = NormalisedConv(self.features, 3, 1, self.normalise, name="second")(y, train)
        # The pixels that a 1x1 convolution with stride 2 sees.
        return activation(y + NormalisedConv(self.features, 1, 1, self.normalise, name="skip")(x[:, ::2, ::2], train))


class ResidualUp(nn.Module):
    """Residual block that doubles the image by nearest neighbours: [N, H, W, C] -> [N, 2H, 2W, features]."""

    features: int
    normalise: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        if self.has_variable("params", MERGED):
            y = convolutions.Conv(5 * self.features, (3, 3), name=MERGED)(x)
            y, skip = convolutions.unpack(activation(y[..., : -self.features]), (2, 2)), y[..., -self.features :]
            y = NormalisedConv(self.features, 3, 1, self.normalise, name="second")(y, train)
            return activation(y + upsample(skip))
        y = NormalisedConv(self.features, normalise=self.normalise, upsampled=True, name="first")(x, train)
        y = NormalisedConv(self.features, 3, 1, self.normalise, name="second")(activation(y), train)
        # A 1x1 convolution commutes with nearest-neighbour upsampling and costs a quarter before it.
        skip = upsample(NormalisedConv(self.features, 1, 1, self.normalise, name="skip")(x, train))
        return activation(y + skip)


def upsample(x: jax.Array) -> jax.Array:
    """Upsamples by two with the nearest neighbour: [N, H, W, C] -> [N, 2H, 2W, C]."""
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)


def fold(params: dict, batch_stats: dict) -> dict:
    """Folds frozen BatchNorm into the convolution before it; statistics that stand alone become parameters.

    Those are the ranges of log variances, see `variance.Bounded`.

    Args:
      params, batch_stats: the collections of a module built with `normalise=True`.

    Returns:
      The parameters of the same module built with `normalise=False`; it computes the same function as the original
      with `train=False`.
    """
    if "norm" not in params:
        alone = {name: child for name, child in batch_stats.items() if name not in params}
        return alone | {
            name: fold(child, batch_stats.get(name, {})) if isinstance(child, dict) else child
            for name, child in params.items()
        }
    conv, norm, stats = params["conv"], params["norm"], batch_stats["norm"]
    scale = norm["scale"] * jax.lax.rsqrt(stats["var"] + BATCH_NORM_EPSILON)
    return {
        "conv": {
            "kernel": conv["kernel"] * scale[None, None, None],
            "bias": (conv["bias"] - stats["mean"]) * scale + norm["bias"],
        }
    }


def merge(params: dict) -> dict:
    """Merges the two convolutions of one input: of every folded residual block, and of the heads of a posterior.

    In a block, one kernel is left of up to nine.

    A GPU launches one kernel after the other, and those of small images take no longer than the launch. On CPU, where
    products count, and in the plain form parameters stay as they are. The work is done here, before any loop.

    Args:
      params: as `fold` gives them, of a module that names its blocks `down_<i>` and `up_<i>`, and its heads `HEADS`.

    Returns:
      The parameters of the same module; it computes the same function with them.
    """
    return _merged("", params) if convolutions.launches() else params


def _merged(name: str, params: dict) -> dict:
    merged = {"down": _merged_down, "up": _merged_up}.get(name.split("_")[0])
    if merged and "skip" in params:
        convs = (params[part]["conv"] for part in ("first", "skip"))
        return {MERGED: merged(*convs), "second": params["second"]}
    if all(head in params for head in HEADS):
        heads = [(params[head]["kernel"], params[head]["bias"]) for head in HEADS]
        params = {MERGED: _side_by_side(heads), **{key: params[key] for key in params if key not in HEADS}}
    return {key: _merged(key, child) if isinstance(child, dict) else child for key, child in params.items()}


def _merged_down(first: dict, skip: dict) -> dict:
    """Returns the 3x3 convolution with stride two that gives the first features, then the skip's.

    On an even image, the first of its three taps lies on the pixels that the skip sees.
    """
    seen = jnp.pad(skip["kernel"], ((0, 2), (0, 2), (0, 0), (0, 0)))
    return _side_by_side([(first["kernel"], first["bias"]), (seen, skip["bias"])])


def _merged_up(first: dict, skip: dict) -> dict:
    """Returns the 3x3 convolution before upsampling that gives the four new pixels' first features, then the skip's."""
    seen = jnp.pad(skip["kernel"], ((1, 1), (1, 1), (0, 0), (0, 0)))
    new = [(kernel, first["bias"]) for kernel in convolutions.of_new_pixels(first["kernel"])]
    return _side_by_side([*new, (seen, skip["bias"])])


def _side_by_side(convs: list[tuple[jax.Array, jax.Array]]) -> dict:
    kernels, biases = zip(*convs, strict=True)
    return {"kernel": jnp.concatenate(kernels, axis=-1), "bias": jnp.concatenate(biases)}
