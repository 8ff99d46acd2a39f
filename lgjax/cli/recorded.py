"""A command line completed by the config that its work directory records."""

import pathlib
from collections.abc import Sequence

from lgjax.runtime.errors import UsageError
from lgjax.workdir.experiment import RUNS


def with_recorded_config(argv: Sequence[str]) -> list[str]:
    """Adds to a command line the config recorded in its work directory, unless it names one.

    Without --workdir, it is the one calibrated or, if none is, trained last in runs/.

    Raises:
      UsageError: there is no recorded config.
    """
    names = [word.lstrip("-").split("=")[0] if word.startswith("-") else "" for word in argv]
    if "config" in names or any(name.startswith("help") for name in names):
        return list(argv)
    if "workdir" in names:
        position = names.index("workdir")
        value = argv[position].partition("=")[2] or "".join(argv[position + 1 : position + 2])
        if not value:
            raise UsageError("--workdir lacks its value. Name the folder that lgjax.train wrote.")
        workdir, added = pathlib.Path(value), []
    else:
        workdir = newest()
        added = [f"--workdir={workdir}"]
    path = workdir / "config.json"
    if not path.is_file():
        raise UsageError(f"{workdir} holds no config.json. Train first: python -m lgjax.train --workdir={workdir}")
    return [argv[0], f"--config={pathlib.Path(__file__)}:{path}", *added, *argv[1:]]


def newest() -> pathlib.Path:
    """The work directory in runs/ that was calibrated last, or trained last if none is calibrated."""
    found = list(RUNS.glob("*/calibration/*.json")) or list(RUNS.glob("*/config.json"))
    if not found:
        raise UsageError(
            f"nothing is trained in {RUNS}/. Run python -m lgjax.train --config=configs/vae.py, or give --workdir."
        )
    path = max(found, key=lambda file: file.stat().st_mtime)
    return path.parent.parent if path.parent.name == "calibration" else path.parent
