"""Which kernels of lgjax's own, see `models.strips`, are used: those that compute what XLA's convolutions compute.

A kernel can be compiled and be wrong on a device that nobody has tried. So the device itself is asked, before a method
is compiled for it.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lgjax.methods.local import Settings
from lgjax.models import convolutions, precision
from lgjax.models.base import BoundModel
from lgjax.runtime import devices

LOG = logging.getLogger(__name__)

SLICES = 2  # of noise, that both are asked about
# Largest difference, as a share of the largest value; roundings make a fifth of that or less.
TOLERANCE = {"float32": 1e-4, "tensorfloat32": 5e-3, "bfloat16": 3e-2}
UNBOUND = {"low": -30.0, "high": 30.0}  # of log variances: a bound would hide what a kernel gets wrong
REFUSED = "warning: this device's compiler refuses kernels of lgjax's own: going on with XLA's."
WRONG = "warning: kernels of lgjax's own compute something else than XLA's on this device: going on with XLA's."


def wanted(settings: Settings) -> tuple[str, ...]:
    """Names the parts of networks that kernels of ours may compute; none in float32, which the kernels would round."""
    forms = {convolutions.VARIANCE: settings.variance_form, convolutions.DECODER: settings.decoder_form}
    return tuple(part for part, form in forms.items() if form == "auto" and settings.precision != "float32")


def trusted(
    bind: Callable[[Any], BoundModel], params: Any, size: tuple[int, int], settings: Settings
) -> tuple[str, ...]:
    """Returns the parts of a model that kernels of ours are to compute: all that are wanted, or none.

    Says so where kernels are wanted and may not be used.

    Args:
      bind: of the model, see `models.base`.
      params: of the model.
      size: height and width of slices, in pixels.
      settings: of the restoration.
    """
    parts, value = wanted(settings), settings.precision
    x = jnp.asarray(np.random.default_rng(0).standard_normal((SLICES, *size, 1)), jnp.float32)
    params = _unbound(params)
    with convolutions.fusion(parts):
        traced = _answers(bind, value).trace(params, x)
    if not hold(traced):
        return ()
    try:
        found = jax.device_get(traced.lower().compile()(params, x))
    except Exception as error:
        if devices.lacks_memory(error):
            raise
        LOG.warning(REFUSED)
        return ()
    expected = jax.device_get(_answers(bind, value)(params, x))
    if all(map(functools.partial(_close, tolerance=TOLERANCE[value]), found, expected)):
        return parts
    LOG.warning(WRONG)
    return ()


def warning(calibrated: str | None, restored: str) -> str | None:
    """Says that other kernels computed maps than their thresholds; None where the same did.

    Args:
      calibrated: whose kernels the thresholds are from; None: a record of an earlier version does not say.
      restored: whose kernels the maps are from.
    """
    if calibrated in (None, restored):
        return None
    return f"kernels of {restored} compute maps, those of {calibrated} computed thresholds, which may hold less well"


def hold(traced: Any) -> bool:
    """Returns whether a function as traced by `jax.jit` holds kernels of ours."""
    return "pallas_call" in str(traced.jaxpr)


def _answers(bind: Callable[[Any], BoundModel], value: str) -> Any:
    """Returns the jitted function (params, x) -> what the parts that may hold kernels say: logs of variances too."""

    def answers(params, x):
        with precision.matmul_precision(value):
            networks = bind(params)
            found = [jax.vmap(networks.reconstruct)(x)] if networks.reconstruct else []
            return [*found, jnp.log(jax.vmap(networks.variance)(x))] if networks.variance else found

    return jax.jit(answers)


def _unbound(params: Any) -> Any:
    """Widens the range that the variance network's log variances are held to."""
    if "range" not in params.get("variance", {}):
        return params
    ends = {name: jnp.full_like(end, UNBOUND[name]) for name, end in params["variance"]["range"].items()}
    return {**params, "variance": {**params["variance"], "range": ends}}


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Returns whether what a kernel gives is finite and near; a NaN is not."""
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())
