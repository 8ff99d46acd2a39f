"""Plain intensity, the baseline to beat: in T2, lesions tend to be bright."""

import jax
import jax.numpy as jnp


def restore(y: jax.Array, mask: jax.Array, key: jax.Array, strength: jax.Array) -> tuple[jax.Array, None]:
    """Restores one slice, [H, W, 1], to the brain's mean intensity everywhere inside the mask: Y - X is the z-score.

    Takes what every method takes and needs neither a key nor lambda.
    """
    return jnp.where(mask > 0, 0.0, y), None
