"""The work directory or released model of commands that use one, and its config: the recorded one."""

import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags

from lgjax.cli import configs
from lgjax.cli.commands import expand
from lgjax.runtime.errors import UsageError
from lgjax.workdir.recorded import (
    MAKE_ONE,
    RELEASED,
    RUNS,
    SHIPPED,
    get_config,
    has_model,
    is_released,
    is_trained,
    model_of,
)


def recorded_config(argv: Sequence[str], values: flags.FlagValues, shipped: bool = False) -> ml_collections.ConfigDict:
    """Returns the config that the work directory records, or the one that --config names.

    Without --workdir and --model, the work directory is that of the config which is named, or the one that `_default`
    finds: the default of --workdir from then on. An experiment without a model needs no training.

    Args:
      argv: the command line, the command first.
      values: where the flags are defined, --workdir among them.
      shipped: whether what travels with lgjax will do; calibration leaves that as it is.

    Raises:
      UsageError: there is no recorded config, or a released model lacks the calibration of a method.
      InputError: a released model is not whole.
    """
    workdir, name = configs.given(argv, "workdir"), configs.given(argv, "config")
    config, model = configs.load(name) if name else None, named_model(argv)
    if workdir is None:
        found = model or (RUNS / config.name if config else _default(argv, shipped))
        values.set_default("workdir", str(found))
    else:
        found = pathlib.Path(expand(workdir))
    if config and "model" in config and not has_model(config):
        return config
    check_trained(found)
    if shipped and is_released(found):
        check_calibrated(found, asked(argv))
    return config or get_config(str(found / "config.json"))


def named_model(argv: Sequence[str]) -> pathlib.Path | None:
    """Returns the released model that --model names: a folder, or `released` for what travels with lgjax.

    Raises:
      UsageError: there is no such model, or --workdir is given too.
    """
    model = configs.given(argv, "model")
    if model is None:
        return None
    if configs.given(argv, "workdir") is not None:
        raise UsageError("--model and --workdir are both given. Name one of them.")
    folder = RELEASED if model == "released" else pathlib.Path(expand(model))
    check_released(folder, model)
    return folder


def check_released(folder: pathlib.Path, model: str) -> None:
    """Raises UsageError where a folder, named as `model`, is no released model."""
    if not is_released(folder):
        remedy = (
            "lgjax.export writes one; --model=released is the one that travels with lgjax; --workdir takes a training"
        )
        raise UsageError(f"--model={model} is no released model. {remedy}.")


def _default(argv: Sequence[str], shipped: bool) -> pathlib.Path:
    """Finds the work directory where the command line names none.

    In this order: the one without weights that travels with lgjax, where it has all methods that --method names; those
    in runs/ with a model of these methods; the released model that travels with lgjax, where it has them all; all in
    runs/. Of several in runs/, the one that was calibrated or, if none is, trained last.

    Args:
      argv: the command line.
      shipped: whether what travels with lgjax will do.

    Raises:
      UsageError: there is none, or --method names no method.
    """
    names = asked(argv)
    if shipped and names and _has_all(SHIPPED, names):
        return SHIPPED
    there = trained()
    if fitting := [folder for folder in there if not names or model_of(folder) in _models(names)]:
        return newest(fitting)
    if shipped and _has_all(RELEASED, names):
        return RELEASED
    if there:
        return newest(there)
    raise UsageError(f"nothing is trained in {RUNS}/{_remedy(configs.given(argv, 'method') or '')}")


def _has_all(folder: pathlib.Path, names: Sequence[str]) -> bool:
    """Returns whether a folder has calibrations of all these methods."""
    return set(names) <= set(calibrated(folder))


def _models(names: Sequence[str]) -> set[str]:
    """Returns what may be models of methods, by the first words of their names: whether they are takes seconds."""
    return {name.partition("_")[0] for name in names}


def asked(argv: Sequence[str]) -> list[str]:
    """Lists the methods that a command line names; [] for the config's own and for all."""
    names = configs.given(argv, "method") or ""
    return [] if names in ("", "table1") else names.split(",")


def calibrated(folder: pathlib.Path) -> list[str]:
    """Lists the methods that a folder has calibrations of."""
    return sorted(path.stem for path in folder.glob("calibration/*.json"))


def check_calibrated(model: pathlib.Path, names: Sequence[str]) -> None:
    """Raises UsageError for the first method that a released model has no calibration of; nobody can add one to it."""
    for name in names:
        if name not in calibrated(model):
            there = ", ".join(calibrated(model))
            raise UsageError(f"the released model {model.name} has no thresholds for {name}. Choose among {there}.")


def check_trained(workdir: pathlib.Path) -> None:
    """Raises UsageError for a folder that no training or export wrote."""
    if is_released(workdir):
        return
    if not workdir.is_dir():
        others = ", ".join(sorted(map(str, trained()))[:5])
        remedy = f"Give one of {others}" if others else f"Train first: python -m lgjax.train --workdir={workdir}"
        raise UsageError(f"--workdir={workdir} does not exist. {remedy}.")
    if not (workdir / "config.json").is_file():
        remedy = f"Train first: python -m lgjax.train --workdir={workdir}"
        raise UsageError(f"--workdir={workdir} holds no config.json. {remedy}")


def newest(folders: Sequence[pathlib.Path]) -> pathlib.Path:
    """Returns the work directory that was calibrated last, or trained last if none is calibrated."""
    calibrations = [path for folder in folders for path in folder.glob("calibration/*.json")]
    if calibrations:
        return max(calibrations, key=lambda path: path.stat().st_mtime).parents[1]
    return max(folders, key=lambda folder: (folder / "config.json").stat().st_mtime)


def trained() -> list[pathlib.Path]:
    """Lists the work directories in runs/ that can restore."""
    folders = [path.parent for path in RUNS.glob("*/config.json")]
    return [folder for folder in folders if not is_released(folder) and is_trained(folder)]


def _remedy(asked: str) -> str:
    """Says how what --method asks for comes by a work directory; raises UsageError where it names no method."""
    if asked and asked != "table1":
        from lgjax.methods import names  # takes seconds, which only a command that ends here pays

        if not any(names.parse(name).model for name in asked.split(",")):
            made = RUNS / "detection"
            return f", and {asked} needs thresholds alone. Run {MAKE_ONE}{made} --method={asked}, or give --workdir."
    return (
        ". Run python -m lgjax.train --config=configs/vae.py, or give --workdir; "
        "lgjax restore --model=released needs no training."
    )
