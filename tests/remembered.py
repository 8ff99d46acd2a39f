"""Programs of a training that tests make once: each training would trace and compile its own anew."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from lgjax import models, train
from lgjax.training import feeding
from lgjax.training import step as training
from lgjax.training.settings import Settings
from lgjax.workdir import experiment, weights

FEEDING = ("source", "log_every", "checkpoint_every", "resident", "steps_per_dispatch", "workers", "read_processes")
MOVING = ("learning_rate", "momentum", "schedule", "steps", "flip", "intensity", "batch_size")  # parameters or slices


@contextlib.contextmanager
def programs() -> Iterator[None]:
    """Has trainings of one model and alike settings share their programs and the state that they begin with."""
    still = (models, "from_config"), (feeding, "make_validation"), (train, "make_samples")
    shapes, begin = (remembered(make, FEEDING) for make in (training.state_shapes, training.initial_state))
    with pytest.MonkeyPatch.context() as patch:
        for room, name in ((feeding, "make_step"), (feeding, "make_steps")):
            patch.setattr(room, name, remembered(getattr(room, name), FEEDING))
        for room, name in still:
            patch.setattr(room, name, remembered(getattr(room, name), (*FEEDING, *MOVING)))
        for room in (train, weights, training):
            patch.setattr(room, "state_shapes", shapes)
        for room in (train, training):
            patch.setattr(room, "initial_state", lambda *given: jax.tree.map(np.array, begin(*given)))
        yield


def remembered(function: Callable[..., Any], whatever: Sequence[str]) -> Callable[..., Any]:
    """Returns the function, called once for all values that are alike but for some settings of a training."""
    found: dict[tuple, Any] = {}

    def once(*given):
        key = tuple(_without(whatever, one) for one in given)
        if key not in found:
            found[key] = function(*given)
        return found[key]

    return once


def _without(names: Sequence[str], value: Any) -> Any:
    """Returns what can be compared: a config or settings without some names, anything else as it is."""
    if isinstance(value, Settings):
        return tuple(part for name, part in value._asdict().items() if name not in names)
    if not hasattr(value, "model"):
        return value
    config = experiment.as_json(value)
    for part in ("data", "train"):
        config[part] = {name: one for name, one in config[part].items() if name not in names}
    return json.dumps(config)
