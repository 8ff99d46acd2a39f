"""The work directory and the config of commands that use a trained model: the config is the recorded one."""

import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags

from lgjax.cli import configs
from lgjax.cli.commands import expand
from lgjax.runtime.errors import UsageError
from lgjax.workdir.recorded import RUNS, get_config


def recorded_config(argv: Sequence[str], values: flags.FlagValues) -> ml_collections.ConfigDict:
    """Returns the config that the work directory records, or the one that --config names.

    Without --workdir, the work directory is that of the config which is named; or the one in runs/ that was calibrated
    or, if none is, trained last: the default of --workdir from then on.

    Args:
      argv: the command line, the command first.
      values: where the flags are defined, --workdir among them.

    Raises:
      UsageError: there is no recorded config.
    """
    workdir, name = configs.given(argv, "workdir"), configs.given(argv, "config")
    config = configs.load(name) if name else None
    if workdir is None:
        found = RUNS / config.name if config else newest()
        values.set_default("workdir", str(found))
    else:
        found = pathlib.Path(expand(workdir))
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


def newest() -> pathlib.Path:
    """Finds the work directory in runs/ that was calibrated last, or trained last if none is calibrated."""
    trained = list(RUNS.glob("*/config.json"))
    found = [file for path in trained for file in path.parent.glob("calibration/*.json")] or trained
    if not found:
        raise UsageError(
            f"nothing is trained in {RUNS}/. Run python -m lgjax.train --config=configs/vae.py, or give --workdir."
        )
    path = max(found, key=lambda file: file.stat().st_mtime)
    return path.parent.parent if path.parent.name == "calibration" else path.parent
