"""Vectors of a training in one array: nothing is lost, and steps are those of parameters that lie apart."""

import jax
import numpy as np
import optax
import pytest
from conftest import both, random_variables

from lgjax.models import convolutions
from lgjax.training import feeding, packing
from lgjax.training import step as training

GPU = "NVIDIA H200"  # a kind of device that is not there


def params():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,), "norm": {"scale": (5,), "low": ()}}
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )


def test_packed_vectors_are_found_again():
    tree = params()
    with convolutions.forms(GPU):
        form = packing.of(tree)
    vectors, others = form.pack(tree)
    np.testing.assert_array_equal(vectors, np.concatenate([tree["bias"], tree["norm"]["scale"]]))
    assert [leaf.shape for leaf in others] == [(3, 3, 2, 4), ()]
    jax.tree.map(np.testing.assert_array_equal, form.unpack((vectors, others)), tree)


def test_what_an_optimiser_has_of_parameters_is_packed_as_they_are():
    tree = params()
    state = optax.adam(0.1).init(tree)
    with convolutions.forms(GPU):
        form = packing.of(tree)
    packed = packing.within(state, tree, form.pack)
    assert jax.tree.structure(packed) == jax.tree.structure(optax.adam(0.1).init(form.pack(tree)))
    back = packing.within(packed, form.pack(tree), form.unpack)
    assert jax.tree.structure(back) == jax.tree.structure(state)


@pytest.mark.parametrize("kind", ["cpu", "plain"])
def test_elsewhere_parameters_lie_as_they_are(kind):
    tree = params()
    with convolutions.forms(kind):
        form = packing.of(tree)
    assert form.pack(tree) is tree
    assert form.unpack(tree) is tree


def test_packed_steps_are_those_taken_one_by_one(config, slices, mesh1):
    """Adam divides by the size of a gradient: what is nearly zero moves by rounding."""
    (model, settings), variables = both(config), random_variables(config)
    state = training.initial_state(model, settings)._replace(variables=variables)
    rows = np.array([[0, 1, 2, 3], [4, 5, 6, 0]])
    with convolutions.forms(GPU):
        together = feeding.make_steps(model, settings, mesh1)
        text = together.lower(state, (slices.y, slices.mask), rows).as_text()
        found, terms = together(jax.tree.map(np.array, state), (slices.y, slices.mask), rows)
        single = jax.jit(training.make_step(model, settings))
        for i, batch in enumerate(rows):
            state, one = single(state, slices.y[batch], slices.mask[batch])
            assert float(terms["loss"][i]) == pytest.approx(float(one["loss"]), rel=1e-4)
    assert "stablehlo.concatenate" in text
    assert jax.tree.structure(found) == jax.tree.structure(state)
    largest = settings.learning_rate * len(rows)
    for a, b in zip(jax.tree.leaves(found.variables), jax.tree.leaves(state.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=0.05 * largest)
