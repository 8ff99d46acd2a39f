"""Checkpoints that are verified before they are believed: Orbax for the arrays, a SHA-256 manifest for the bytes.

A checkpoint is a folder `<step>/` with Orbax's files in `state/`; `manifest.json`, which lists every file's digest and
every array's shape; and `manifest.sha256`, the digest of that list. It takes its final name last, so a folder with a
valid manifest is complete. The manifest also holds the checkpoint's loss on held-out slices, so which one is best is
written and verified with the checkpoints themselves.
"""

import json
import logging
import math
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError

LOG = logging.getLogger(__name__)
FORMAT = 2  # since 2, the range of the log variances is part of the state
KEPT = 2  # newest checkpoints that are kept beside the best: one to use, one to fall back on
_REMEDY = "The checkpoint is not used"


class Validation(NamedTuple):
    """How a checkpoint did on held-out slices."""

    loss: float | None  # None where it was not validated, where the loss is not finite or tells nothing
    number: int  # of the checkpoints with a loss so far, this one included


def save(folder: pathlib.Path, step: int, state: Any, validation_loss: float | None = None) -> None:
    """Writes `folder/<step>`, all of it or nothing; for one host of several.

    All but the newest KEPT checkpoints and the best one are removed.

    Args:
      folder: of checkpoints.
      step: whose state it is.
      state: arrays in this host's reach.
      validation_loss: on held-out slices, None where nothing can be told by it.

    Raises:
      EnvironmentFault: the disk is full or refuses.
    """
    final, temporary = folder / str(step), folder / f".{step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with _checkpointer() as checkpointer:
            checkpointer.save(temporary.absolute() / "state", state)
        for mark in temporary.glob("state/commit_success.txt"):
            mark.write_text("")  # Orbax writes the whole path into it, and looks whether it is there
        contents = {str(p.relative_to(temporary)): files.sha256(p) for p in _files(temporary / "state")}
        about = {"step": step, "validation": _next_validation(folder, step, validation_loss)._asdict()}
        manifest = {"format": FORMAT, **about, "arrays": _arrays(state), "sha256": contents}
        files.atomic_write(temporary / "manifest.json", json.dumps(manifest, indent=1))
        files.atomic_write(temporary / "manifest.sha256", files.sha256(temporary / "manifest.json"))
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        for old in set(steps(folder)[KEPT:]) - {best(folder)}:
            shutil.rmtree(folder / str(old))
    except (OSError, ValueError, EnvironmentFault) as error:  # Orbax reports a failed write as ValueError
        shutil.rmtree(temporary, ignore_errors=True)
        raise EnvironmentFault(
            f"{final}: cannot be written: {error}. Free some space or name another --workdir."
        ) from error


def steps(folder: pathlib.Path) -> list[int]:
    """Lists the steps of the checkpoints in a folder, newest first, valid or not."""
    if not folder.is_dir():
        return []
    return sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)


def best(folder: pathlib.Path) -> int | None:
    """Returns the step with the lowest loss on held-out slices, the first of equals; None where none has a loss."""
    losses = {step: loss for step in steps(folder) if (loss := validation(folder, step).loss) is not None}
    return min(losses, key=lambda step: (losses[step], step), default=None)


def validation(folder: pathlib.Path, step: int) -> Validation:
    """Reads how a checkpoint did on held-out slices; nothing is known of one whose manifest is damaged."""
    try:
        return Validation(**_manifest(folder / str(step)).get("validation", {"loss": None, "number": 0}))
    except (InputError, TypeError, AttributeError):
        return Validation(None, 0)


def _next_validation(folder: pathlib.Path, step: int, loss: float | None) -> Validation:
    """Returns what the manifest of a new checkpoint says: the loss if it is finite, and how many have one by now."""
    before = max((validation(folder, earlier).number for earlier in steps(folder) if earlier < step), default=0)
    if loss is None or not math.isfinite(loss):
        return Validation(None, before)
    return Validation(loss, before + 1)


def describe(folder: pathlib.Path, step: int) -> str:
    """Says in words which of the checkpoints one is."""
    if step == best(folder):
        count = max(validation(folder, other).number for other in steps(folder))
        return f"best of {count} checkpoints on held-out slices"
    return "the newest checkpoint" if step == steps(folder)[0] else "an earlier checkpoint"


def restore_newest(folder: pathlib.Path, like: Any) -> tuple[Any, int] | None:
    """Restores the newest valid checkpoint; a damaged one is passed over with a warning.

    Args:
      folder: of checkpoints.
      like: a state with the expected arrays (values are not used).

    Returns:
      The state and its step; None if there is no checkpoint at all.

    Raises:
      UsageError: a checkpoint belongs to another architecture or a newer format.
      InputError: there are checkpoints, and none is valid.
    """
    return _restore_first(folder, like, steps(folder))


def restore_best(folder: pathlib.Path, like: Any) -> tuple[Any, int] | None:
    """Restores the best checkpoint, or as `restore_newest` does where it is damaged or none is known to be best.

    Arguments, result and errors are those of `restore_newest`.
    """
    first = best(folder)
    return _restore_first(folder, like, sorted(steps(folder), key=lambda step: step != first))


def _restore_first(folder: pathlib.Path, like: Any, found: list[int]) -> tuple[Any, int] | None:
    """Restores the first valid checkpoint of a list, see `restore_newest`."""
    for step in found:
        try:
            _verify(folder / str(step), like)
        except InputError as error:
            LOG.warning("warning: %s Falling back to another one.", error)
            continue
        with _checkpointer() as checkpointer:
            return checkpointer.restore((folder / str(step) / "state").absolute(), _on_one_device(like)), step
    if found:
        raise InputError(folder, "holds no valid checkpoint", "Restore it from a backup or train again")
    return None


def weights_digest(folder: pathlib.Path, step: int) -> str:
    """Returns SHA-256 that identifies the arrays of a checkpoint."""
    return files.sha256(folder / str(step) / "manifest.json")


def _verify(path: pathlib.Path, like: Any) -> None:
    """Raises InputError for damage, UsageError for a checkpoint that is sound but not ours."""
    manifest = _manifest(path)
    try:
        listed, arrays, version = manifest["sha256"], manifest["arrays"], manifest["format"]
    except (KeyError, TypeError) as error:
        raise InputError(path, f"has no readable manifest ({error})", _REMEDY) from error
    if version == 1:
        raise UsageError(
            f"{path}: is of an older lgjax, which did not keep the range of the log variances. Train again."
        )
    if version != FORMAT:
        raise UsageError(f"{path}: has format {version}, this version reads {FORMAT}. Update lgjax.")
    present = {str(p.relative_to(path)): p for p in _files(path / "state")}
    if present.keys() != listed.keys():
        raise InputError(path, "has missing or additional files", _REMEDY)
    for name, digest in listed.items():
        if files.sha256(present[name]) != digest:
            raise InputError(path / name, "is damaged: its SHA-256 differs from the manifest's", _REMEDY)
    if arrays != _arrays(like):
        raise UsageError(f"{path}: belongs to another architecture. Use the config it was trained with.")


def _manifest(path: pathlib.Path) -> Any:
    """Reads a checkpoint's manifest; raises InputError where it is not what was written."""
    try:
        if files.sha256(path / "manifest.json") != (path / "manifest.sha256").read_text():
            raise ValueError("it is damaged")
        return json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(path, f"has no readable manifest ({error})", _REMEDY) from error


def _checkpointer() -> ocp.StandardCheckpointer:
    """Makes Orbax's checkpointer for this host alone.

    One host saves while the others do something else, and each restores by itself.
    """
    host = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _on_one_device(like: Any) -> Any:
    """Returns what Orbax is to restore: the same arrays, on this host's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)


def _arrays(state: Any) -> dict[str, list]:
    """Returns shape and dtype of every array, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): [list(x.shape), str(x.dtype)] for path, x in leaves}


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
