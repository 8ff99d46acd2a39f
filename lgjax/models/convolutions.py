"""Convolutions of NHWC images, the same as Flax's, in the forms that are fast on the kind of device at hand.

XLA's own are slow on CPU with few channels, with a kernel larger than the image, and as image gradients inside loops.
Every other kind of device computes XLA's convolution with XLA's gradients: on a GPU, cuDNN's.
"""

import functools
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models import precision, tuned

forms = jax.make_user_context("")
"""Chooses, for what is traced within `forms(kind)`, the forms of another kind of device than the one at hand.

`forms("plain")` is the plain form everywhere, and nothing merged. Functions that are jitted already are traced anew.
"""


def kind() -> str:
    """Returns the kind of device whose forms are traced: one told, or that of the mesh, or the default device's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return forms.value or (device.device_kind if device else jax.devices()[0].device_kind)


def launches() -> bool:
    """Returns whether what is traced now is for a device that launches kernels, a small one in no less time: a GPU."""
    return kind() not in ("cpu", "plain")


PARTS = VARIANCE, DECODER = ("variance", "decoder")  # parts of networks that kernels of ours can compute
fusion = jax.make_user_context(())
"""Lets kernels of ours compute parts of networks in what is traced within `fusion(parts)`, some of `PARTS`.

Those who name parts have made sure of the kernels.
"""


def fuses(part: str) -> bool:
    """Returns whether a kernel of ours, see `strips`, computes a part of networks in what is traced now."""
    return part in fusion.value and has_own_kernels(kind())


def has_own_kernels(kind: str) -> bool:
    """Returns whether there are kernels of ours for a kind of device."""
    return kind.startswith("NVIDIA")


def _plain(x, kernel, strides, padding, dilation=(1, 1)):
    """Convolves x, [N, H, W, C], dilated by zeros between its pixels, with kernel, [K, K, C, features]."""
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _fast(kind, x, kernel, strides, padding):
    """Computes the same as `_plain`, in the form that a kind of device has for the convolution."""
    layer = tuned.Layer.of(x, kernel, strides, padding)
    return FORMS[tuned.FORWARD][tuned.chosen(kind, tuned.FORWARD, layer)](x, kernel, strides, padding)


def _dense(x, kernel, padding):
    """Convolves a few pixels as one product, in which each of them has weights for each pixel of the result."""
    n, height, width, _ = x.shape
    (top, bottom), (left, right) = padding
    rows, columns = height + top + bottom - kernel.shape[0] + 1, width + left + right - kernel.shape[1] + 1
    beyond = [
        (max(0, size + after - taps), max(0, size + before - taps))
        for size, taps, (before, after) in zip((height, width), kernel.shape[:2], padding, strict=True)
    ]
    padded = jnp.pad(kernel, (*beyond, (0, 0), (0, 0)))
    first = beyond[0][0] + top, beyond[1][0] + left  # the place of pixel (0, 0) in the kernel of result (0, 0)
    starts = [(first[0] - p, first[1] - q) for p, q in np.ndindex(rows, columns)]
    weights = jnp.concatenate([padded[i : i + height, j : j + width] for i, j in starts], axis=-1)
    y = jnp.dot(x.reshape(n, -1), weights.reshape(-1, weights.shape[-1]))
    return y.reshape(n, rows, columns, kernel.shape[-1])


def _wide(x, kernel, padding):
    """Convolves a few pixels within so many zeros that XLA takes neither the kernel nor the result for the image.

    Where it does, a GPU turns the kernel around, lays out the bias as an image, and transposes the result, each time.
    """
    wider = [(before + 1, after + 1) for before, after in padding]
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *wider, (0, 0))))  # else padding becomes the convolution's
    return _plain(x, kernel, (1, 1), ((0, 0), (0, 0)))[:, 1:-1, 1:-1]


def _shifted(x, kernel, padding):
    """Convolves one channel as a sum of shifted images; in float32 at least, as XLA's convolutions sum."""
    (height, width), dtype = kernel.shape[:2], x.dtype
    exact = jnp.promote_types(dtype, jnp.float32)
    x, kernel = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(exact), kernel.astype(exact)
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    places = np.ndindex(height, width)
    terms = [x[:, i : i + rows, j : j + columns] * kernel[i, j, 0, None, None, None] for i, j in places]
    return functools.reduce(jnp.add, terms).astype(dtype)


def _blockwise(x, kernel, strides, padding, block):
    """Convolves to few features, a block of the result's pixels at a time: as many times the features.

    A quarter to three quarters of its products are with zeros, and it is faster: the wider product pays for them.
    """
    (rows, columns), (down, across) = block, strides
    moved = [
        jnp.pad(kernel, ((i * down, (rows - 1 - i) * down), (j * across, (columns - 1 - j) * across), (0, 0), (0, 0)))
        for i, j in np.ndindex(rows, columns)
    ]
    return unpack(_plain(x, jnp.concatenate(moved, axis=-1), (rows * down, columns * across), padding), block)


def unpack(x, block):
    """Lays out the block of pixels that each pixel holds: [N, H, W, rows * columns * C] -> an image of C channels."""
    n, height, width, _ = x.shape
    rows, columns = block
    return x.reshape(n, height, width, rows, columns, -1).swapaxes(2, 3).reshape(n, height * rows, width * columns, -1)


def _spread(kind, x, kernel, strides, pads, size):
    """Convolves x dilated by zeros to a result of some size, without the products with those zeros.

    A pixel of the result meets every `strides`-th tap of the kernel, which ones depends on its place in a block of as
    many pixels: these are features of one convolution at the size of x.

    Args:
      size: of the result, a multiple of the strides; pads: of the dilated image, before and after.
    """
    taps = [_phases(k, s, low) for k, s, (low, _) in zip(kernel.shape[:2], strides, pads, strict=True)]
    (rows, top, height), (columns, left, width) = taps
    kernels = []
    for (i, before), (j, aside) in itertools.product(rows, columns):
        part = kernel[i :: strides[0], j :: strides[1]]
        beyond = height - before - part.shape[0], width - aside - part.shape[1]
        kernels.append(jnp.pad(part, ((before, beyond[0]), (aside, beyond[1]), (0, 0), (0, 0))))
    sizes = zip(size, strides, x.shape[1:3], (top, left), (height, width), strict=True)
    small = tuple((low, m // s - n - low + k - 1) for m, s, n, low, k in sizes)
    return unpack(_fast(kind, x, jnp.concatenate(kernels, axis=-1), (1, 1), small), strides)


def _phases(taps, stride, low):
    """Returns each block pixel's first tap and the zeros before it; the pad before the image, and all taps' span."""
    first = [(low - r) % stride for r in range(stride)]
    offset = [(r + c - low) // stride for r, c in enumerate(first)]
    span = max(o + len(range(c, taps, stride)) for o, c in zip(offset, first, strict=True)) - min(offset)
    return [(c, o - min(offset)) for c, o in zip(first, offset, strict=True)], -min(offset), span


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x, kernel, strides, padding, kind):
    return _fast(kind, x, kernel, strides, padding)


def _convolve_forward(x, kernel, strides, padding, kind):
    return _fast(kind, x, kernel, strides, padding), (x, kernel)


def _convolve_backward(strides, padding, kind, saved, gradient):
    """Computes the gradients of image and kernel, each in its own form."""
    x, kernel = saved
    layer = tuned.Layer.of(x, kernel, strides, padding)
    forms = (FORMS[use][tuned.chosen(kind, use, layer)] for use in (tuned.IMAGE, tuned.KERNEL))
    return tuple(form(kind, x, kernel, gradient, strides, padding) for form in forms)


def _turned(kind, x, kernel, gradient, strides, padding):
    """Computes the image gradient as an ordinary NHWC convolution with the turned kernel.

    JAX's own asks for another kernel layout, which XLA lays out on CPU only outside loops: inside, it is several
    times slower.
    """
    sizes = zip(kernel.shape[:2], x.shape[1:3], gradient.shape[1:3], strides, padding, strict=True)
    pads = [(k - 1 - low, n - 1 + low - (m - 1) * s) for k, n, m, s, (low, _) in sizes]
    turned, size = kernel[::-1, ::-1].swapaxes(2, 3), x.shape[1:3]
    if strides == (1, 1):
        return _fast(kind, gradient, turned, strides, pads)
    if size[0] % strides[0] or size[1] % strides[1]:
        return _plain(gradient, turned, (1, 1), pads, strides)
    return _spread(kind, gradient, turned, strides, pads, size)


def _of_image(kind, x, kernel, gradient, strides, padding):
    """Computes the image gradient as JAX does."""
    return jax.vjp(lambda x: _plain(x, kernel, strides, padding), x)[1](gradient)[0]


def _of_kernel(kind, x, kernel, gradient, strides, padding):
    """Computes the kernel gradient as JAX does, of the plain form."""
    return jax.vjp(lambda k: _plain(x, k, strides, padding), kernel)[1](gradient)[0]


def _formed_image(kind, x, kernel, gradient, strides, padding):
    """Computes the image gradient as JAX does, of the form that the convolution has."""
    return jax.vjp(lambda x: _fast(kind, x, kernel, strides, padding), x)[1](gradient)[0]


def _formed_kernel(kind, x, kernel, gradient, strides, padding):
    """Computes the kernel gradient as JAX does, of the form that the convolution has."""
    return jax.vjp(lambda k: _fast(kind, x, k, strides, padding), kernel)[1](gradient)[0]


def _products(kind, x, kernel, gradient, strides, padding):
    """Computes the kernel gradient as one product for each place of the kernel.

    This is for where XLA would take the larger gradient for the image.
    """
    rows, columns = gradient.shape[1:3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    places = np.ndindex(kernel.shape[:2])
    products = [jnp.einsum("nhwc,nhwf->cf", x[:, i : i + rows, j : j + columns], gradient) for i, j in places]
    return jnp.stack(products).reshape(kernel.shape)


_convolve.defvjp(_convolve_forward, _convolve_backward)

FORMS: dict[str, dict[str, Callable]] = {
    tuned.FORWARD: {
        "plain": _plain,
        "dense": lambda x, kernel, _, padding: _dense(x, kernel, padding),
        "wide": lambda x, kernel, _, padding: _wide(x, kernel, padding),
        "shifted": lambda x, kernel, _, padding: _shifted(x, kernel, padding),
        **{tuned.blocks(block): functools.partial(_blockwise, block=block) for _, block in tuned.BLOCKS},
    },
    tuned.IMAGE: {"plain": _of_image, "formed": _formed_image, "turned": _turned},
    tuned.KERNEL: {"plain": _of_kernel, "formed": _formed_kernel, "products": _products},
}
"""Forms by use and name: (x, kernel, strides, padding), of gradients (kind, x, kernel, gradient, strides, padding)."""


def convolve(x, kernel, strides, padding, kind):
    """Convolves x, [N, H, W, C], with kernel, [K, K, C, features], in the forms of a kind of device, gradients too."""
    layer = tuned.Layer.of(x, kernel, strides, padding)
    if all(tuned.chosen(kind, use, layer) == "formed" for use in (tuned.IMAGE, tuned.KERNEL)):
        return _fast(kind, x, kernel, strides, padding)
    return _convolve(x, kernel, strides, padding, kind)


def _for_linen(x, kernel, strides, padding, **_):
    """Convolves as `nn.Conv` asks, padding in words or in pixels, in the form of the device."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)), kind())


Conv = functools.partial(nn.Conv, conv_general_dilated=_for_linen, promote_dtype=precision.as_kernel)
"""Convolution of [N, H, W, C] in the form of the device; every network uses it."""


def _upsampled(x, kernel, *_, **__):
    """Computes the 3x3 convolution of an upsampled image at the size before: [N, H, W, C] -> [N, 2H, 2W, features].

    Each of the four new pixels has a 2x2 kernel, 4/9 of the products (sub-pixel convolution, Shi et al. 2016). Where
    kernels are launches, it has zeros around: no pixel is then taken from another place.
    """
    if launches():
        return unpack(_for_linen(x, jnp.concatenate(of_new_pixels(kernel), axis=-1), (1, 1), ((1, 1), (1, 1))), (2, 2))
    n, height, width, _ = x.shape
    features = kernel.shape[-1]
    y = _for_linen(x, jnp.concatenate(_of_new_pixels(kernel), axis=-1), (1, 1), ((1, 1), (1, 1)))
    y = y.reshape(n, height + 1, width + 1, 2, 2, features)
    pixels = [[y[:, a : a + height, b : b + width, a, b] for b in (0, 1)] for a in (0, 1)]
    return jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2).reshape(n, 2 * height, 2 * width, features)


def of_new_pixels(kernel: jax.Array) -> list[jax.Array]:
    """Returns, of a 3x3 kernel on an upsampled image, those of the four new pixels, 3x3 on the image before."""
    places, small = np.ndindex(2, 2), _of_new_pixels(kernel)
    return [jnp.pad(k, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for (i, j), k in zip(places, small, strict=True)]


def _of_new_pixels(kernel):
    """Returns the 2x2 kernels of the four new pixels: of three rows (columns) of weights, two lie on one pixel."""
    rows = (jnp.stack([kernel[0], kernel[1] + kernel[2]]), jnp.stack([kernel[0] + kernel[1], kernel[2]]))
    return [jnp.stack(parts, axis=1) for k in rows for parts in _columns(k)]


def _columns(kernel):
    """Returns, of kernel rows, [2, 3, C, features], the two columns that the left and the right new pixel see."""
    left, middle, right = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    return (left, middle + right), (left + middle, right)


UpsampledConv = functools.partial(
    nn.Conv, kernel_size=(3, 3), conv_general_dilated=_upsampled, promote_dtype=precision.as_kernel
)
"""The 3x3 convolution of [N, H, W, C] upsampled by two by nearest neighbours: the same parameters, fewer products."""
