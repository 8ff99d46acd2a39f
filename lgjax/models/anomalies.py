"""Synthetic anomalies: random changes of a healthy slice that a restorer learns to undo.

They are made of random masks and of other slices of the same batch. No label of a lesion has a part in them. What they
resemble: lesions that are brighter or darker than their surroundings, of 3 to 40 mm and more, with soft or sharp
borders, on one side or on both, over tissue or in place of tissue (Naval Marimont and Tarroni 2023, DISYRE; Kascenas et
al. 2022 for the coarse noise).
"""

import jax
import jax.numpy as jnp

BLOBS = 3  # of a slice, at most
PRESENT = 0.45  # probability of each
CELLS = (3.0, 20.0)  # independent values of a blob's noise across a slice, least and most: its size
FINEST = 32  # cells of the finest noise
LEVEL = (1.0, 2.2)  # standard deviations above which a blob's noise belongs to the blob
SHARPNESS = (3.0, 20.0)  # of a blob's border, per standard deviation of its noise
BILATERAL = 0.3  # probability that a blob lies on both sides
SHIFT = (-1.5, 3.0)  # of a blob's brightness, in standard deviations of the brain
TEXTURE = 0.5  # standard deviations of the brain, at most, of the noise that a blob adds
CLASS_WIDTH = (0.3, 1.5)  # standard deviations of the brain around a brightness that a blob may be confined to
COARSE = (16.0, 0.7, 0.4)  # of coarse noise: cells, standard deviation at most, probability
WHITE = (0.005, 0.45, 0.4)  # of white noise: standard deviations, least and most, probability


def corrupt(key: jax.Array, x: jax.Array, other: jax.Array, mask: jax.Array) -> jax.Array:
    """Changes one healthy slice at random; about one slice in seventeen stays as it is.

    Args:
      key: of the draws.
      x: healthy slice, [H, W, 1], z-scored.
      other: another healthy slice, [H, W, 1], whose tissue or background may replace the tissue of x.
      mask: 1 inside the brain, [H, W, 1].

    Returns:
      The corrupted slice, [H, W, 1], equal to x outside the mask.
    """
    blobs, coarse, white = jax.random.split(key, 3)
    changed = x
    drawn = jax.vmap(_blob, (0, None))(jax.random.split(blobs, BLOBS), x)
    for replaced, added in zip(*drawn, strict=True):
        changed = changed + replaced * (other - changed) + added
    changed = changed + _coarse(coarse, x.shape) + _white(white, x.shape)
    return jnp.where(mask > 0, changed, x)


def blob(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws where an anomaly lies, [H, W, 1], 0 to 1: where smooth noise exceeds a level, on one side or on both."""
    noise, cells, level, sharpness, both, present = jax.random.split(key, 6)
    noise = smooth_noise(noise, jnp.exp(_uniform(cells, *jnp.log(jnp.array(CELLS)))), shape)
    border = jnp.exp(_uniform(sharpness, *jnp.log(jnp.array(SHARPNESS))))
    mask = jax.nn.sigmoid(border * (noise - _uniform(level, *LEVEL)))
    bilateral = jax.random.bernoulli(both, BILATERAL)
    mask = jnp.where(bilateral, jnp.maximum(mask, mask[:, ::-1]), mask)
    return mask * jax.random.bernoulli(present, PRESENT)


def smooth_noise(key: jax.Array, cells: jax.Array | float, shape: tuple[int, ...]) -> jax.Array:
    """Draws noise of unit variance with so many independent values across a slice, at most FINEST, [H, W, 1]."""
    draw, shift = jax.random.split(key)
    sides = jnp.array(shape[:2], jnp.float32)
    size = sides / cells  # pixels of a cell
    white = jax.random.normal(draw, (FINEST + 2, FINEST + 2, 1))
    begin = -size * jax.random.uniform(shift, (2,), minval=0.5, maxval=1.5)
    noise = jax.image.scale_and_translate(white, shape, (0, 1), size, begin, "cubic")
    return noise / jnp.sqrt((noise**2).mean())


def _blob(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one anomaly of a slice: how much of the tissue is replaced by other tissue, and what is added to both.

    The latter is a shift of brightness and a texture. Both are [H, W, 1].
    """
    place, swap, shift, texture, tone, confined, width = jax.random.split(key, 7)
    where = blob(place, x.shape)
    share = jax.random.uniform(swap) * jax.random.bernoulli(jax.random.fold_in(swap, 1), 0.5)
    # q: the tissue whose brightness lies near that of a tone, which the shift is confined to in every second blob
    centre = _uniform(tone, -1.0, 1.0)
    near = jax.nn.sigmoid(8 * (_uniform(width, *CLASS_WIDTH) - jnp.abs(x - centre)))
    near = jnp.where(jax.random.bernoulli(confined), near, 1.0)
    rough = TEXTURE * jax.random.uniform(texture) * smooth_noise(jax.random.fold_in(texture, 1), FINEST, x.shape)
    return where * share, where * near * (_uniform(shift, *SHIFT) + rough)


def _coarse(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    cells, most, probability = COARSE
    size, present = _uniform(key, 0.0, most), jax.random.bernoulli(jax.random.fold_in(key, 1), probability)
    return present * size * smooth_noise(jax.random.fold_in(key, 2), cells, shape)


def _white(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    least, most, probability = WHITE
    size, present = _uniform(key, least, most), jax.random.bernoulli(jax.random.fold_in(key, 1), probability)
    return present * size * jax.random.normal(jax.random.fold_in(key, 2), shape)


def _uniform(key: jax.Array, low, high) -> jax.Array:
    return jax.random.uniform(key, (), minval=low, maxval=high)
