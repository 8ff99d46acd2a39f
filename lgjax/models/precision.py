"""How precisely networks compute: a value of `config.train.precision` and of `config.restore.precision`.

float32         convolutions and products of float32, without TensorFloat-32
tensorfloat32   the same, but a GPU rounds their inputs to 10 bits of mantissa (a TPU sums three products of bfloat16; a
                CPU rounds nothing: it is float32 there)
bfloat16        inputs, kernels and results of convolutions are rounded to 7 bits of mantissa

All else is float32 in all three: biases, normalisation and its statistics, activations, images, posteriors and draws
from them, gradients of the prior, energies, losses, the parameters that are trained and the optimiser's state. Biases
must be: the gradient of one is a sum over all pixels, which ends at 256 times its terms in bfloat16.

In bfloat16, what a restoration keeps between layers is bfloat16 all the same: the next convolution rounds its input, so
compilers write rounded activations, and compute biases and activations in float32 on the way.

Bounds that each precision keeps, in the forms of a CPU and in those of a GPU (benchmarks/precision.py, maps of
vae_lg_neural_tv): the mean difference from maps of float32 is below .01 standard deviations of the brain and at most
1.05 times what moving every pixel of a scan to the next float32 makes; the AUC of each kind of lesion is within .02.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import dtypes

CHOICES = ("float32", "tensorfloat32", "bfloat16")


def matmul_precision(precision: str) -> AbstractContextManager:
    """Sets, for what is traced within it, the precision of float32 convolutions and matrix products."""
    return jax.default_matmul_precision("float32" if precision == "float32" else "tensorfloat32")


def cast(params: Any, precision: str) -> Any:
    """Casts parameters for the networks: with bfloat16, convolution kernels become bfloat16; all else stays float32."""
    if precision != "bfloat16":
        return params
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim == 4 else x, params)


def as_kernel(*arrays: jax.Array | None, dtype: Any = None, inexact: bool = True) -> list[jax.Array | None]:
    """Serves as a convolution's `promote_dtype`: beside a bfloat16 kernel, the input is cast, the bias stays float32.

    Args:
      arrays: input, kernel and bias.
      dtype, inexact: as Flax has it.
    """
    inputs, kernel, bias = arrays
    if inputs is not None and kernel is not None and kernel.dtype == jnp.bfloat16:
        return [inputs.astype(kernel.dtype), kernel, bias]
    return dtypes.promote_dtype(inputs, kernel, bias, dtype=dtype, inexact=inexact)
