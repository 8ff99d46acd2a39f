"""The flags --config and --workdir of commands that use a trained model: its config is the recorded one."""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from lgjax.cli import configs
from lgjax.runtime.errors import UsageError
from lgjax.workdir import experiment
from lgjax.workdir.experiment import RUNS


def define_recorded_config(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines --workdir and --config; without --config, the config is the one that the work directory records.

    Without --workdir, the work directory is the one in runs/ that was calibrated or, if none is, trained last.

    Args:
      argv: the command line, the command first.
      values: where the flags are defined.

    Raises:
      UsageError: there is no recorded config.
    """
    text = "Folder of a trained model; default: the newest in runs/."
    if configs.given(argv, "config") is not None or any(word.startswith(("-help", "--help")) for word in argv):
        flags.DEFINE_string("workdir", None, text, flag_values=values)
        configs.define_config(None, "Default: the config recorded in the work directory.", argv, values)
        return
    value = configs.given(argv, "workdir")
    if value == "":
        raise UsageError("--workdir lacks its value. Name the folder that lgjax.train wrote.")
    workdir = newest() if value is None else pathlib.Path(value)
    path = workdir / "config.json"
    if not path.is_file():
        raise UsageError(f"{workdir} holds no config.json. Train first: python -m lgjax.train --workdir={workdir}")
    flags.DEFINE_string("workdir", str(workdir), text, flag_values=values)
    config = experiment.get_config(str(path))
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(argv))


def newest() -> pathlib.Path:
    """Finds the work directory in runs/ that was calibrated last, or trained last if none is calibrated."""
    found = list(RUNS.glob("*/calibration/*.json")) or list(RUNS.glob("*/config.json"))
    if not found:
        raise UsageError(
            f"nothing is trained in {RUNS}/. Run python -m lgjax.train --config=configs/vae.py, or give --workdir."
        )
    path = max(found, key=lambda file: file.stat().st_mtime)
    return path.parent.parent if path.parent.name == "calibration" else path.parent
