"""A work directory and its config: what binds the binaries train, calibrate and restore together."""

import json
import os
import pathlib
import shlex

import ml_collections

from lgjax.methods import names
from lgjax.preparation import cohort
from lgjax.preparation import recipe as recipes
from lgjax.preparation.slices import Grid
from lgjax.runtime import places
from lgjax.runtime.errors import UsageError
from lgjax.runtime.files import atomic_write
from lgjax.scans import sources
from lgjax.workdir import bounds
from lgjax.workdir.recorded import FROM_HERE, MAKE_ONE, RUNS, SHIPPED, get_config, has_model, is_released

LABELS, SCANS = "LABELS", "SCANS"  # in a released config: label maps and healthy scans that do not travel with it
BOUND = ("data", "model")  # the parts of a config that weights depend on: they cannot change after training
FREE = ("workers", "calibration_subjects", "resident", "read_processes")  # in them, what they do not depend on


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError for a value out of its bounds, or a restoration that diverges, before hours are spent on it."""
    bounds.check(config)
    check_step(config, names.parse(config.restore.method))


def check_method(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError where the config's method does not exist, or is not one of the config's model."""
    names.check_model(names.parse(config.restore.method), config.model.name)


def check_step(config: ml_collections.ConfigDict, method: names.Method) -> None:
    """Raises UsageError where a method's restoration by Eq. 4 as printed may diverge, before anything is computed.

    The prior alone takes a pixel's distance from mu times 1 - eta / sigma2 in a step, which shrinks the distance where
    sigma2 > eta / 2. sigma2 is at least the variance floor; the decoder's, which the ELBO has, is 1 / (2 w).
    """
    if not method.restores or method.closed or config.restore.optimizer != "gradient":
        return
    least, named = config.model.variance_floor, f"--config.model.variance_floor={config.model.variance_floor}"
    if method.prior == "elbo":
        weight = config.model.reconstruction_weight
        least, named = 1 / (2 * weight), f"1 / (2 w), of --config.model.reconstruction_weight={weight},"
    if least <= config.restore.learning_rate / 2:
        raise UsageError(
            f"{method.name} with --config.restore.optimizer=gradient diverges where sigma2 <= eta / 2: {named} must "
            f"exceed half of --config.restore.learning_rate={config.restore.learning_rate}."
        )


def check_output(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """Raises UsageError where outputs would lie in a released model, which nothing changes."""
    if is_released(workdir) and folder.resolve().is_relative_to(workdir.resolve()):
        raise UsageError(f"the output folder {folder} lies in a released model, which stays as it is. Name another.")


def default_workdir(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Returns runs/<config name>."""
    return RUNS / config.name


def default_output(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """Returns where restorations go: into the work directory, or into runs/ where that one is left as it is."""
    if is_released(workdir):
        return RUNS / f"{config.name}_released" / "restored"
    return (default_workdir(config) if workdir == SHIPPED else workdir) / "restored"


def record(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes workdir/config.json, or checks that the one there describes the same experiment.

    Raises:
      UsageError: the work directory belongs to another experiment, or the config has an unknown value.
    """
    check_workdir(config, workdir)
    content = as_json(config)
    content["data"]["source"] = _to_find_again(content["data"]["source"], workdir)
    atomic_write(workdir / "config.json", json.dumps(content, indent=2) + "\n")


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks what `record` checks, with the same errors; writes nothing."""
    check_own(workdir)
    check(config)
    path = workdir / "config.json"
    if path.exists():
        check_same_networks(config, get_config(str(path)), workdir)


def check_own(workdir: pathlib.Path) -> None:
    """Raises UsageError for a released model, which nothing is written into."""
    if is_released(workdir):
        anew = f"python -m lgjax.export --model={workdir} --output=N --config.data.source=HEALTHY_SCANS"
        raise UsageError(f"{workdir} is a released model and stays as it is. For thresholds of your own scans: {anew}")


def publish(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    """Writes the config.json of a released model, with a placeholder for scans or label maps, which do not travel."""
    content = as_json(config)
    name, path = _split(content["data"]["source"])
    content["data"]["source"] = name + (path and (LABELS if name else SCANS))
    atomic_write(folder / "config.json", json.dumps(content, indent=2) + "\n")


def travels(source: str) -> bool:
    """Returns whether a source of healthy scans is more than the placeholder that `publish` wrote."""
    return _split(source)[1] not in (LABELS, SCANS)


def check_used(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that a config belongs to a work directory that is used; one without a model may still have to be made.

    Raises:
      InputError: the work directory records no config.
      UsageError: as `check_same_networks`.
    """
    path = workdir / "config.json"
    recorded = get_config(str(path)) if has_model(config) or path.exists() else config
    check_same_networks(config, recorded, workdir)


def check_same_networks(config, recorded, workdir: pathlib.Path) -> None:
    """Raises UsageError where `config` asks for data or networks other than those recorded, or for unknown values."""
    check(config)
    for part in BOUND:
        ours, theirs = _with_whole_source(as_json(config[part])), _with_whole_source(as_json(recorded[part]))
        keys = (ours.keys() | theirs.keys()) - set(FREE)
        differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
        if differing:
            names = ", ".join(f"{part}.{key} ({theirs.get(key)}, now {ours.get(key)})" for key in differing)
            if workdir == SHIPPED:
                asked = [f"--config.{part}.{key}={shlex.quote(str(config[part][key]))}" for key in differing]
                remedy = f"Make a work directory W first: {MAKE_ONE}W {' '.join(asked)}"
                raise UsageError(f"what travels with lgjax was made with other values of {names}. {remedy}")
            made = "trained" if has_model(recorded) else "made"
            raise UsageError(f"{workdir} was {made} with other values of {names}. Use another --workdir.")


def _to_find_again(source: str, workdir: pathlib.Path) -> str:
    """Returns a source as config.json holds it: a folder that lies elsewhere as seen from the work directory.

    The user's name and the machine's, which a whole path tells, are left out of what may be passed on.
    """
    name, path = _split(source)
    if not places.is_elsewhere(path):
        return source
    return name + FROM_HERE + places.portable(path, workdir)


def _with_whole_source(part: dict) -> dict:
    """Returns a part of a config whose source, if it is a folder, does not depend on how the path was typed."""
    if "source" not in part:
        return part
    name, path = _split(part["source"])
    return {**part, "source": name + (os.path.abspath(os.path.expanduser(path)) if path else "")}


def _split(source: str) -> tuple[str, str]:
    """Returns what stands before the path of a source, and the path: a folder, or one of heads that phantoms get."""
    if not sources.is_phantom(source):
        return "", source
    name, mark, labels = source.partition(":")
    return name + mark, labels


def grid(config: ml_collections.ConfigDict) -> Grid:
    """Returns the grid of the slices that models see."""
    return Grid(config.data.height, config.data.width, config.data.spacing)


def saturation(config: ml_collections.ConfigDict) -> tuple[float, float] | None:
    """Returns the z-scores that slices are clipped to; None: not at all."""
    return recipes.ends(config.data.saturation)


def source(config: ml_collections.ConfigDict) -> cohort.Source:
    """Returns where the healthy subjects of an experiment come from."""
    trained = config.data.train_subjects if has_model(config) else 0
    return cohort.Source(config.data.source, trained, config.data.calibration_subjects)


def as_json(config: ml_collections.ConfigDict) -> dict:
    """Returns the config as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())
