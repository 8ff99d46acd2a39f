"""Plain intensity, the baseline to beat: in T2, lesions tend to be bright."""

import jax
import jax.numpy as jnp


def restore(y: jax.Array, mask: jax.Array) -> jax.Array:
    """The brain's mean intensity everywhere inside the mask, so that Y - X is the z-score; [N, H, W, 1]."""
    return jnp.where(mask > 0, 0.0, y)
