"""Calibrates methods on held-out healthy scans: lambda by SSIM, thresholds by false positive rate.

    python -m lgjax.calibrate --workdir=runs/vae                  # the config's method
    python -m lgjax.calibrate --method=intensity,vae_reconstruction,vae_lg_neural_tv
    python -m lgjax.calibrate --config=detection --workdir=runs/mine --config.data.source=FOLDER    # needs no training

Writes <workdir>/calibration/<method>.json. Thresholds are taken at the scans' own resolution, through the same path
that lgjax.restore takes.

On several hosts that share the folders, start the same command on each with --coordinator, --hosts and --host, as
lgjax.train; every host restores its share of the scans. On CPUs, the thresholds are those of one host to the bit.
"""

import pathlib
from collections.abc import Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("calibrate")  # before the imports below, which take seconds

from absl import flags

from lgjax.calibration import procedure
from lgjax.cli import app, opening
from lgjax.methods import names as methods
from lgjax.preparation import cohort
from lgjax.runtime import hosts
from lgjax.workdir import experiment, preparation


def main(words: Sequence[str] = ()) -> None:
    """Runs the command line."""
    config = flags.FLAGS.config
    workdir = pathlib.Path(flags.FLAGS.workdir)
    experiment.check_own(workdir)
    experiment.check_used(config, workdir)
    chosen = [methods.parse(name) for name in flags.FLAGS.method or [config.restore.method]]
    for method in chosen:  # one that another model is needed for is found before the others are done
        methods.check_model(method, config.model.name)
        experiment.check_step(config, method)
    if app.speaks():
        introduce(config, workdir)
    with app.joined() as mesh:
        for line in opening.restoring(mesh, config, workdir, [method.name for method in chosen]):
            app.say(line)
        hosts.first_alone(preparation.begin, config, workdir)
        calibrate = procedure.from_config(config, workdir, mesh)
        for method in chosen:
            calibrate(method)
        print(f"calibrated: {', '.join(method.name for method in chosen)} -> {workdir / 'calibration'}")


def introduce(config, workdir: pathlib.Path) -> None:
    """Says what is calibrated, and on which scans."""
    source = experiment.source(config)
    scans = opening.cohort(source.spec, cohort.count(source))
    given = not flags.FLAGS["workdir"].using_default_value
    model = opening.model(workdir, given) if experiment.has_model(config) else opening.untrained(workdir, None)
    app.say(f"{scans}; {model}")
    if not experiment.has_model(config) and (split := cohort.calibrating(source)):
        app.say(split)


if __name__ == "__main__":
    app.run(main, words)
