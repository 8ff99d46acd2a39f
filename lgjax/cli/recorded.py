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
    names = [word.lstrip("-").split("=")[0] if word.startswith("-") else "" for word in argv]
    text = "Folder of a trained model; default: the newest in runs/."
    if "config" in names or any(name.startswith("help") for name in names):
        flags.DEFINE_string("workdir", None, text, flag_values=values)
        configs.define_config(None, "Default: the config recorded in the work directory.", argv, values)
        return
    workdir = _given(argv, names) if "workdir" in names else newest()
    path = workdir / "config.json"
    if not path.is_file():
        raise UsageError(f"{workdir} holds no config.json. Train first: python -m lgjax.train --workdir={workdir}")
    flags.DEFINE_string("workdir", str(workdir), text, flag_values=values)
    config = experiment.get_config(str(path))
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(argv))


def _given(argv: Sequence[str], names: Sequence[str]) -> pathlib.Path:
    """Returns the value of --workdir."""
    position = names.index("workdir")
    value = argv[position].partition("=")[2] or "".join(argv[position + 1 : position + 2])
    if not value:
        raise UsageError("--workdir lacks its value. Name the folder that lgjax.train wrote.")
    return pathlib.Path(value)


def newest() -> pathlib.Path:
    """Finds the work directory in runs/ that was calibrated last, or trained last if none is calibrated."""
    found = list(RUNS.glob("*/calibration/*.json")) or list(RUNS.glob("*/config.json"))
    if not found:
        raise UsageError(
            f"nothing is trained in {RUNS}/. Run python -m lgjax.train --config=configs/vae.py, or give --workdir."
        )
    path = max(found, key=lambda file: file.stat().st_mtime)
    return path.parent.parent if path.parent.name == "calibration" else path.parent
