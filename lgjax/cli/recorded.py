"""The work directory and the config of commands that use one: the config is the recorded one."""

import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags

from lgjax.cli import configs
from lgjax.cli.commands import expand
from lgjax.runtime.errors import UsageError
from lgjax.workdir.recorded import MAKE_ONE, RUNS, SHIPPED, get_config, has_model


def recorded_config(argv: Sequence[str], values: flags.FlagValues, shipped: bool = False) -> ml_collections.ConfigDict:
    """Returns the config that the work directory records, or the one that --config names.

    Without --workdir, the work directory is that of the config which is named; or the one that travels with lgjax,
    where all methods that --method names are calibrated there; or the one in runs/ that was calibrated or, if none is,
    trained last: the default of --workdir from then on. An experiment without a model needs no training.

    Args:
      argv: the command line, the command first.
      values: where the flags are defined, --workdir among them.
      shipped: whether the one that travels with lgjax will do; calibration leaves that one as it is.

    Raises:
      UsageError: there is no recorded config.
    """
    workdir, name = configs.given(argv, "workdir"), configs.given(argv, "config")
    config = configs.load(name) if name else None
    if workdir is None:
        found = RUNS / config.name if config else SHIPPED if shipped and _shipped(argv) else newest(argv)
        values.set_default("workdir", str(found))
    else:
        found = pathlib.Path(expand(workdir))
    if config and "model" in config and not has_model(config):
        return config
    check_trained(found)
    return config or get_config(str(found / "config.json"))


def check_trained(workdir: pathlib.Path) -> None:
    """Raises UsageError for a folder that no training wrote."""
    if not workdir.is_dir():
        others = ", ".join(sorted(str(path.parent) for path in RUNS.glob("*/config.json"))[:5])
        remedy = f"Give one of {others}" if others else f"Train first: python -m lgjax.train --workdir={workdir}"
        raise UsageError(f"--workdir={workdir} does not exist. {remedy}.")
    if not (workdir / "config.json").is_file():
        remedy = f"Train first: python -m lgjax.train --workdir={workdir}"
        raise UsageError(f"--workdir={workdir} holds no config.json. {remedy}")


def _shipped(argv: Sequence[str]) -> bool:
    """Returns whether all methods that a command line names are calibrated in what travels with lgjax."""
    names = (configs.given(argv, "method") or "").split(",")
    return all((SHIPPED / "calibration" / f"{name}.json").is_file() for name in names)


def newest(argv: Sequence[str]) -> pathlib.Path:
    """Finds the work directory in runs/ that was calibrated last, or trained last if none is calibrated.

    Raises:
      UsageError: there is none, or --method names none either.
    """
    trained = list(RUNS.glob("*/config.json"))
    found = [file for path in trained for file in path.parent.glob("calibration/*.json")] or trained
    if not found:
        raise UsageError(f"nothing is trained in {RUNS}/{_remedy(configs.given(argv, 'method') or '')}")
    path = max(found, key=lambda file: file.stat().st_mtime)
    return path.parent.parent if path.parent.name == "calibration" else path.parent


def _remedy(asked: str) -> str:
    """Says how what --method asks for comes by a work directory; raises UsageError where it names no method."""
    if asked and asked != "table1":
        from lgjax.methods import names  # takes seconds, which only a command that ends here pays

        if not any(names.parse(name).model for name in asked.split(",")):
            made = RUNS / "detection"
            return f", and {asked} needs thresholds alone. Run {MAKE_ONE}{made} --method={asked}, or give --workdir."
    return (
        ". Run python -m lgjax.train --config=configs/vae.py, or give --workdir; "
        "lgjax restore --method=mirror_tv3d needs no training."
    )
