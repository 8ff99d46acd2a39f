"""A released model: frozen weights without pickle and what they were trained on, in a folder that nothing changes.

The folder holds `model.safetensors`, `training.json`, `config.json`, `preprocessing.json`, `calibration/`,
`MODEL_CARD.md` and `SHA256SUMS`. All files are verified before one is used. The digest of the weights is that of
`model.safetensors`.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lgjax.runtime import files, places
from lgjax.runtime.errors import InputError, UsageError
from lgjax.workdir import sums
from lgjax.workdir.recorded import WEIGHTS

FORMAT = 1
DTYPES = ("float32", "float16")  # of the weights on disk; all is computed in float32
TRAINING = "training.json"
_AGAIN = "Copy the whole model again, or export it again"


class Weights(NamedTuple):
    """What `write` takes and `read` gives."""

    params: Any  # frozen by `models.freeze`
    trained_on: str  # in words
    subjects: frozenset[str]  # SHA-256 of the scans of the training


def write(folder: pathlib.Path, weights: Weights, dtype: str) -> None:
    """Writes weights and what they were trained on; the caller writes the other files, and `sums` last.

    Args:
      folder: of the model.
      weights: finite.
      dtype: of the weights on disk, of `DTYPES`.

    Raises:
      UsageError: the dtype cannot hold the weights.
    """
    with np.errstate(over="ignore"):
        arrays = {name: np.asarray(leaf).astype(dtype) for name, leaf in _named(weights.params).items()}
    if wrong := _not_finite(arrays):
        raise UsageError(f"weights are not finite as {dtype}: {wrong}. Export with --dtype=float32.")
    files.atomic_write(folder / WEIGHTS, save(arrays))
    about = {"Format": FORMAT, "TrainedOn": weights.trained_on, "Subjects": sorted(weights.subjects)}
    files.atomic_write(folder / TRAINING, json.dumps(about, indent=2) + "\n")


def read(folder: pathlib.Path, like: Any) -> Weights:
    """Verifies a released model and reads its weights, in float32.

    Args:
      folder: of the model.
      like: frozen parameters of the expected shapes (values are not used).

    Raises:
      InputError: a file is damaged, missing or of a newer format; the weights are of another architecture, or not
        finite.
    """
    sums.verify(folder)
    trained_on, subjects = _training(folder / TRAINING)
    path = folder / WEIGHTS
    try:
        arrays = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"cannot be read as weights ({error})", _AGAIN) from error
    _check(path, arrays, _named(like))
    leaves = [jnp.asarray(arrays[name], jnp.float32) for name in _named(like)]
    return Weights(jax.tree.unflatten(jax.tree.structure(like), leaves), trained_on, subjects)


def _check(path: pathlib.Path, arrays: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    """Raises InputError where arrays are not finite, or differ from those of the architecture."""
    if names := sorted(arrays.keys() ^ expected.keys()):
        problem = f"belongs to another architecture than config.json describes: {names[0]} stands on one side alone"
        raise InputError(path, problem, _AGAIN)
    for name, array in arrays.items():
        if array.shape != expected[name].shape or str(array.dtype) not in DTYPES:
            wanted = f"{list(expected[name].shape)} of {' or '.join(DTYPES)}"
            raise InputError(path, f"{name} is {list(array.shape)} of {array.dtype}, and should be {wanted}", _AGAIN)
    if wrong := _not_finite(arrays):
        raise InputError(path, f"holds weights that are not finite: {wrong}", _AGAIN)


def _training(path: pathlib.Path) -> tuple[str, frozenset[str]]:
    """Reads what weights were trained on, in words and by the digests of the scans."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["Format"] > FORMAT:
            problem = f"is of format {about['Format']}, and this version of lgjax knows {FORMAT}"
            raise InputError(path, problem, "Install a newer lgjax")
        return places.told(about["TrainedOn"]), frozenset(about["Subjects"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"cannot be read ({error})", _AGAIN) from error


def _named(params: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as trunk/conv/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _not_finite(arrays: dict[str, np.ndarray]) -> str:
    """Returns the name of the first array with a value that is not finite; "" where there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")
