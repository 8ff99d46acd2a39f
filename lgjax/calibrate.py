"""Calibrates methods on held-out healthy scans: lambda by SSIM, thresholds by false positive rate.

    python -m lgjax.calibrate --workdir=runs/vae                  # the config's method
    python -m lgjax.calibrate --method=intensity,vae_reconstruction,vae_lg_neural_tv

Writes <workdir>/calibration/<method>.json. Thresholds are taken at the scans' own resolution, through the same path
that lgjax.restore takes.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from lgjax import models
from lgjax.calibration import procedure
from lgjax.cli import app
from lgjax.cli.recorded import with_recorded_config
from lgjax.methods import names as methods
from lgjax.methods import runner
from lgjax.workdir import calibrations, experiment, weights


def define_flags() -> None:
    """Defines the command line."""
    config_flags.DEFINE_config_file("config", None, "Default: the config recorded in the work directory.")
    flags.DEFINE_string("workdir", None, "Folder that lgjax.train wrote; default: the newest in runs/.")
    flags.DEFINE_list("method", None, "Methods, separated by commas; default: the config's restore.method.")


def main(_) -> None:
    """Runs the command line."""
    config = flags.FLAGS.config
    workdir = pathlib.Path(flags.FLAGS.workdir or experiment.default_workdir(config))
    experiment.check_same_networks(config, experiment.get_config(str(workdir / "config.json")), workdir)
    mesh = app.start()
    chosen = [methods.parse(name) for name in flags.FLAGS.method or [config.restore.method]]
    for method in chosen:
        methods.check_model(method, config.model.name)
    trained = weights.load(config, workdir)
    prepared = procedure.prepare(trained, experiment.source(config), config.data.workers)
    for method in chosen:
        procedure.calibrate(
            method,
            runner.from_config(config),
            models.from_config(config, config.restore.precision),
            trained,
            prepared,
            goal=procedure.from_config(config),
            digest=calibrations.digest(config),
            workdir=workdir,
            mesh=mesh,
        )


if __name__ == "__main__":
    app.run(main, define_flags, with_recorded_config)
