"""Building blocks shared by the networks: normalised convolutions and residual blocks, all NHWC.

Normalisation is BatchNorm that is frozen outside training, so that a slice's result never depends on the slices
beside it. `fold` removes it altogether for restoration.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

BATCH_NORM_EPSILON = 1e-5


def activation(x: jax.Array) -> jax.Array:
    """LeakyReLU, the paper's activation of hidden layers."""
    return nn.leaky_relu(x, negative_slope=0.2)


def _plain(x, kernel, strides, padding, dilation=(1, 1)):
    """Convolution of x, [N, H, W, C], dilated by zeros between its pixels, with kernel, [K, K, C, features]."""
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, strides, padding):
    return _plain(x, kernel, strides, padding)


def _convolve_forward(x, kernel, strides, padding):
    return _plain(x, kernel, strides, padding), (x, kernel)


def _convolve_backward(strides, padding, saved, gradient):
    """The image gradient as an ordinary NHWC convolution with the turned kernel.

    JAX's own asks for another kernel layout, which XLA lays out on CPU only outside loops: inside, it is several
    times slower.
    """
    x, kernel = saved
    _, for_kernel = jax.vjp(lambda k: _plain(x, k, strides, padding), kernel)
    sizes = zip(kernel.shape[:2], x.shape[1:3], gradient.shape[1:3], strides, padding, strict=True)
    pads = [(k - 1 - low, n - 1 + low - (m - 1) * s) for k, n, m, s, (low, _) in sizes]
    for_x = _plain(gradient, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), pads, strides)
    return for_x, for_kernel(gradient)[0]


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _for_linen(x, kernel, strides, padding, **_):
    """`_convolve` as `nn.Conv` calls it, with padding in words or in pixels."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)))


Conv = functools.partial(nn.Conv, conv_general_dilated=_for_linen)
"""Convolution of [N, H, W, C] whose image gradient is fast inside loops too; every network uses it."""


def _upsampled(x, kernel, *_, **__):
    """The 3x3 convolution of an upsampled image, computed at the size before: [N, H, W, C] -> [N, 2H, 2W, features].

    Of the three rows (columns) that a kernel lies on, two are copies of one pixel: their weights are added, and for
    each of the four new pixels a 2x2 kernel is left, 4/9 of the products (sub-pixel convolution, Shi et al. 2016).
    """
    n, height, width, _ = x.shape
    features = kernel.shape[-1]
    rows = (jnp.stack([kernel[0], kernel[1] + kernel[2]]), jnp.stack([kernel[0] + kernel[1], kernel[2]]))
    small = [jnp.stack(parts, axis=1) for k in rows for parts in _columns(k)]
    y = _convolve(x, jnp.concatenate(small, axis=-1), (1, 1), ((1, 1), (1, 1)))
    y = y.reshape(n, height + 1, width + 1, 2, 2, features)
    pixels = [[y[:, a : a + height, b : b + width, a, b] for b in (0, 1)] for a in (0, 1)]
    return jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2).reshape(n, 2 * height, 2 * width, features)


def _columns(kernel):
    """Of kernel rows, [2, 3, C, features], the two columns that the left and the right new pixel see."""
    left, middle, right = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    return (left, middle + right), (left + middle, right)


UpsampledConv = functools.partial(nn.Conv, kernel_size=(3, 3), conv_general_dilated=_upsampled)
"""The 3x3 convolution of [N, H, W, C] upsampled by two with `upsample`: the same parameters, fewer products."""


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
        if self.upsampled:
            x = UpsampledConv(self.features, name="conv")(x)
        else:
            x = Conv(self.features, size, strides=self.strides, padding="SAME", name="conv")(x)
        if self.normalise:
            norm = nn.BatchNorm(momentum=0.95, epsilon=BATCH_NORM_EPSILON, name="norm")
            x = norm(x, use_running_average=not train)
        return x


class ResidualDown(nn.Module):
    """Residual block that halves the image: [N, H, W, C] -> [N, H/2, W/2, features]."""

    features: int
    normalise: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        y = activation(NormalisedConv(self.features, 3, 2, self.normalise, name="first")(x, train))
        y = NormalisedConv(self.features, 3, 1, self.normalise, name="second")(y, train)
        return activation(y + NormalisedConv(self.features, 1, 2, self.normalise, name="skip")(x, train))


class ResidualUp(nn.Module):
    """Residual block that doubles the image by nearest neighbours: [N, H, W, C] -> [N, 2H, 2W, features]."""

    features: int
    normalise: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        y = NormalisedConv(self.features, normalise=self.normalise, upsampled=True, name="first")(x, train)
        y = NormalisedConv(self.features, 3, 1, self.normalise, name="second")(activation(y), train)
        # A 1x1 convolution commutes with nearest-neighbour upsampling and costs a quarter before it.
        skip = upsample(NormalisedConv(self.features, 1, 1, self.normalise, name="skip")(x, train))
        return activation(y + skip)


def upsample(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by two: [N, H, W, C] -> [N, 2H, 2W, C]."""
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)


def fold(params: dict, batch_stats: dict) -> dict:
    """Folds frozen BatchNorm into the convolution before it.

    Args:
      params, batch_stats: the collections of a module built with `normalise=True`.

    Returns:
      The parameters of the same module built with `normalise=False`; it computes the same function as the original
      with `train=False`.
    """
    if "norm" not in params:
        return {
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
