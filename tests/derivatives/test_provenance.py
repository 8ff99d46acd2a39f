"""What a sidecar tells of how the slices of a scan converged."""

import numpy as np
import pytest

from lgjax.derivatives import provenance, sidecar
from lgjax.methods.runner import Pace
from lgjax.methods.scan import Restored
from lgjax.restoration.loop import Trace

FALLING = np.float32([[4, 2, 1], [2, 1, 0]])  # of two slices, the second stops after two iterations


def convergence(traces, taken):
    return provenance._convergence(Restored(None, FALLING, traces, taken, Pace(2, None), "XLA"))


def test_convergence_is_the_mean_of_the_slices():
    found = convergence(Trace(10 * FALLING, 1 - FALLING, FALLING), np.array([3, 2]))
    assert found == {
        "iterations_of_slices": {"median": 2.5, "most": 3},
        "iteration": [0, 1, 2],
        "prior_gradient": [30, 15, 5],
        "data_term": [-2, -0.5, 0.5],
        "change": [3, 1.5, 0.5],
    }
    assert sidecar._is_convergence(found)


def test_convergence_says_what_was_traced():
    found = convergence(Trace(None, None, FALLING), np.array([3, 2]))
    assert sidecar._is_convergence(found)
    assert found.keys() == {"iterations_of_slices", "iteration", "change"}


@pytest.mark.parametrize("traces", [None, Trace(None, None, None)])
def test_what_was_not_traced_did_not_converge(traces):
    assert convergence(traces, None) is None
