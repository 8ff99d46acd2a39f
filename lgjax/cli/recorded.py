"""The work directory or released model of commands that use one, and its config: the recorded one."""

import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags

from lgjax.cli import configs
from lgjax.cli.commands import expand
from lgjax.runtime.errors import UsageError
from lgjax.workdir.recorded import MAKE_ONE, RELEASED, RUNS, SHIPPED, get_config, has_model, is_released


def recorded_config(argv: Sequence[str], values: flags.FlagValues, shipped: bool = False) -> ml_collections.ConfigDict:
    """Returns the config that the work directory records, or the one that --config names.

    Without --workdir and --model, the work directory is that of the config which is named; or the one without weights
    that travels with lgjax, where all methods that --method names are calibrated there; or the one in runs/ that was
    calibrated or, if none is, trained last; or the released model that travels with lgjax: the default of --workdir
    from then on. An experiment without a model needs no training.

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
    """Finds the work directory where the command line names none; errors as in `newest`."""
    if not shipped:
        return newest(argv)
    if _shipped(argv):
        return SHIPPED
    known = calibrated(RELEASED)
    if not trained() and all(name in known for name in asked(argv)):
        return RELEASED
    return newest(argv)


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
        others = ", ".join(sorted(str(path.parent) for path in RUNS.glob("*/config.json"))[:5])
        remedy = f"Give one of {others}" if others else f"Train first: python -m lgjax.train --workdir={workdir}"
        raise UsageError(f"--workdir={workdir} does not exist. {remedy}.")
    if not (workdir / "config.json").is_file():
        remedy = f"Train first: python -m lgjax.train --workdir={workdir}"
        raise UsageError(f"--workdir={workdir} holds no config.json. {remedy}")


def _shipped(argv: Sequence[str]) -> bool:
    """Returns whether all methods that a command line names are calibrated in what travels with lgjax."""
    names = asked(argv)
    return bool(names) and all(name in calibrated(SHIPPED) for name in names)


def newest(argv: Sequence[str]) -> pathlib.Path:
    """Finds the work directory in runs/ that was calibrated last, or trained last if none is calibrated.

    Raises:
      UsageError: there is none, or --method names none either.
    """
    found = [file for path in trained() for file in path.parent.glob("calibration/*.json")] or trained()
    if not found:
        raise UsageError(f"nothing is trained in {RUNS}/{_remedy(configs.given(argv, 'method') or '')}")
    path = max(found, key=lambda file: file.stat().st_mtime)
    return path.parent.parent if path.parent.name == "calibration" else path.parent


def trained() -> list[pathlib.Path]:
    """Lists the configs of the work directories in runs/."""
    return [path for path in RUNS.glob("*/config.json") if not is_released(path.parent)]


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
