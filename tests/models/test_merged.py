"""Merged convolutions: what devices that launch kernels compute is what every other device computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables, shrunk
from programs import equations

from lgjax import models
from lgjax.methods import names, runner, slicewise
from lgjax.models import blocks, convolutions

GPU = "NVIDIA H200"  # a kind of device that is not there
LEVELS = 2  # of the networks of `deep`


def programs(name, kind):
    """(reconstruction, gradient of the bound or None) of a slice by the networks of a model on a kind of device."""
    config = shrunk(name)
    params = models.freeze(random_variables(config))
    model, x = models.from_config(config, "float32"), np.random.default_rng(0).standard_normal((16, 16, 1), np.float32)

    def both(params, x):
        networks = model.bind(params)
        slope = jax.grad(networks.elbo)(x, jax.random.key(1)) if networks.elbo else None
        return networks.reconstruct(x), slope

    with convolutions.forms(kind):
        return jax.jit(both)(params, x)


@pytest.mark.parametrize("name", ["vae", "aae", "gmvae"])
def test_merged_networks_are_the_same_functions(name):
    found, expected = (jax.tree.leaves(programs(name, kind)) for kind in (GPU, "plain"))
    for a, b in zip(found, expected, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.usefixtures("deep")
def test_residual_blocks_and_heads_are_merged_and_nothing_else(params):
    with convolutions.forms(GPU):
        merged = jax.jit(blocks.merge)(params)
    assert set(merged) == set(params)
    np.testing.assert_array_equal(merged["variance"]["Conv_0"]["kernel"], params["variance"]["Conv_0"]["kernel"])
    before, after = params["autoencoder"], merged["autoencoder"]
    assert (set(before) - set(after), set(after) - set(before)) == ({"mean_head", "log_variance_head"}, {"merged"})
    assert after["merged"]["kernel"].shape == (3, 3, 8, 2 * before["mean_head"]["bias"].size)
    kept = set(before) & set(after)
    changed = {name for name in kept if jax.tree.structure(before[name]) != jax.tree.structure(after[name])}
    assert changed == {f"{way}_{level}" for way in ("down", "up") for level in range(LEVELS)}
    shapes = {name: after[name]["merged"]["kernel"].shape for name in changed}
    assert shapes == {"down_0": (3, 3, 4, 8), "down_1": (3, 3, 4, 16), "up_0": (3, 3, 8, 40), "up_1": (3, 3, 8, 20)}


def test_a_cpu_and_the_plain_form_merge_nothing(params):
    for kind in ("", "cpu", "plain"):
        with convolutions.forms(kind):
            assert blocks.merge(params) is params


@pytest.mark.usefixtures("deep")
def test_kernels_are_merged_once_before_the_loop(config, params, slices):
    """XLA does not move them out of a loop, and each of them would be a kernel to launch at every iteration."""
    restore = slicewise.restorer(
        names.parse("vae_lg_neural_tv"), runner.from_config(config), models.from_config(config, "float32")
    )
    arguments = params, slices.y, slices.mask, slices.number, np.ones(7, np.float32)

    def convolved(kind):
        with convolutions.forms(kind):
            found = list(equations(jax.make_jaxpr(restore)(*arguments).jaxpr))
        made = {looping for one, looping in found if one.primitive.name == "concatenate" and is_kernel(one)}
        return made, sum(one.primitive.name == "conv_general_dilated" for one, _ in found)

    (made, merged), (made_in_place, plain) = convolved(GPU), convolved("plain")
    assert made == {False}
    assert made_in_place == {True}  # those of upsampled convolutions
    assert merged == plain - 2 * LEVELS - 1  # and a head


def is_kernel(equation) -> bool:
    shape = equation.outvars[0].aval.shape
    return len(shape) == 4 and shape[0] in (2, 3) and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)


def test_an_odd_image_is_refused(params):
    """The merged kernel's first tap would lie beside the pixels that the skip sees."""
    with convolutions.forms(GPU):
        merged = blocks.merge(params)["autoencoder"]["down_0"]
    block, x = blocks.ResidualDown(4, normalise=False), np.ones((1, 8, 7, 4), np.float32)
    with pytest.raises(ValueError, match="even height and width"):
        block.apply({"params": merged}, x, False)
