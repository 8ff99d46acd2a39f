"""Whether kernels of lgjax's own, see `models.strips`, are used: where they compute what XLA's convolutions compute.

A kernel can be compiled and be wrong on a device that nobody has tried. So the device itself is asked, once a run.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.models import convolutions, precision
from lgjax.models.base import BoundModel
from lgjax.runtime import devices

LOG = logging.getLogger(__name__)

SLICES = 2  # of noise, that both are asked about
# Largest difference, as a share of the largest value; roundings make a fifth of that or less.
TOLERANCE = {"float32": 1e-4, "tensorfloat32": 1e-2, "bfloat16": 5e-2}
REFUSED = "warning: this device's compiler refuses kernels of lgjax's own: going on with XLA's."
WRONG = "warning: kernels of lgjax's own compute something else than XLA's on this device: going on with XLA's."


def trusted(bind: Callable[[Any], BoundModel], params: Any, size: tuple[int, int], value: str) -> bool:
    """Returns whether kernels of ours may be used in what is compiled from now on; says so where they may not.

    Args:
      bind: of the model, see `models.base`.
      params: of the model.
      size: height and width of slices, in pixels.
      value: of the precision.
    """
    x = jnp.asarray(np.random.default_rng(0).standard_normal((SLICES, *size, 1)), jnp.float32)
    if "pallas_call" not in str(_asked(bind, value).trace(params, x).jaxpr):
        return True
    try:
        found = jax.device_get(_asked(bind, value)(params, x))
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise
        LOG.warning(REFUSED)
        return False
    with convolutions.fusion(False):
        expected = jax.device_get(_asked(bind, value)(params, x))
    if all(map(functools.partial(_close, tolerance=TOLERANCE[value]), found, expected)):
        return True
    LOG.warning(WRONG)
    return False


def _asked(bind: Callable[[Any], BoundModel], value: str) -> Any:
    """Returns the jitted function (params, x) -> what the parts that may hold such kernels say of slices."""

    def asked(params, x):
        with precision.matmul_precision(value):
            networks = bind(params)
            parts = (networks.variance, networks.reconstruct)
            return [jax.vmap(part)(x) for part in parts if part is not None]

    return jax.jit(asked)


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Returns whether what a kernel gives is finite and near; a NaN is not."""
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())
