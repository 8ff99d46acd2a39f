"""Releases a trained model: frozen weights, calibrations and a card, in one folder that can be copied anywhere.

    python -m lgjax.export --workdir=runs/restorer --output=M
    python -m lgjax.export --workdir=runs/restorer --output=M --dtype=float16 --method=restorer_reconstruction
    python -m lgjax.export --model=released --output=M --config.data.source=FOLDER    # thresholds from healthy scans

Writes model.safetensors, config.json, preprocessing.json, training.json, calibration/, MODEL_CARD.md and SHA256SUMS.
Calibrations are copied where the exported weights are those of the work directory to the bit; float16 rounds them, so
that the methods are calibrated anew with the weights that are exported. The files name no folder of this machine.
"""

import pathlib
from collections.abc import Callable, Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("export")  # before the imports below, which take seconds

import jax
import numpy as np
from absl import flags

from lgjax import detector as detectors
from lgjax.calibration import procedure
from lgjax.cli import app, opening
from lgjax.cli.recorded import calibrated
from lgjax.methods import names as methods
from lgjax.preparation import cohort, recipe
from lgjax.preparation.dataset import RECIPE
from lgjax.report import card
from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.workdir import calibrations, experiment, released, sums, weights
from lgjax.workdir.calibrations import Calibration
from lgjax.workdir.recorded import is_released
from lgjax.workdir.weights import Trained

RELEASES = pathlib.Path("released")
# (folder, its weights, methods) -> their calibrations, which are written there too
Calibrate = Callable[[pathlib.Path, Trained, Sequence[str]], list[Calibration]]


def export(
    config,
    workdir: pathlib.Path,
    output: pathlib.Path,
    dtype: str,
    names: Sequence[str],
    calibrate: Calibrate,
    notes: pathlib.Path | None,
) -> None:
    """Writes a released model, all of it or nothing.

    Args:
      config: of the experiment.
      workdir: its work directory, or another released model.
      output: the folder, still to be made.
      dtype: of the weights on disk, of `released.DTYPES`.
      names: of the methods; the first restores by default where the config's is not among them.
      calibrate: gives the released model the calibrations of methods.
      notes: folder with notes.md and the pictures that it shows; None: no notes.

    Raises:
      InputError: the work directory holds no trained weights, or a method is not calibrated.
      UsageError: float16 cannot hold the weights, there is nobody to calibrate on, or a method could not be loaded.
      EnvironmentFault: the disk refuses.
    """
    trained = weights.load(config, workdir)
    if config.restore.method not in names:
        config = config.copy_and_resolve_references()
        config.restore.method = names[0]
    with files.atomic_folder(output) as folder:
        released.write(folder, released.Weights(trained.params, trained.trained_on, trained.subjects), dtype)
        recipe.write(folder / RECIPE, trained.recipe)
        experiment.publish(config, folder)
        sums.write(folder)
        exported = weights.load(config, folder)
        found = calibrate(folder, exported, names)
        said = with_notes(notes, folder)
        sums.write(folder)
        count = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
        listed = sums.read(folder)
        healthy, score = cohort.kind(config.data.source), config.restore.score
        about = card.render(config.name, config.model.name, count, dtype, exported, found, healthy, score, listed, said)
        files.atomic_write(folder / card.NAME, about)
        sums.write(folder)
        for name in names:  # none is written that nobody can load
            detectors.load(folder, method=name)


def with_notes(notes: pathlib.Path | None, folder: pathlib.Path) -> str:
    """Copies the pictures of notes beside the card, and returns the notes.

    Raises:
      InputError: there are none.
    """
    if notes is None:
        return ""
    with files.faults(notes / "notes.md"):
        said = (notes / "notes.md").read_text(encoding="utf-8")
        for picture in sorted(notes.glob("*.png")):
            files.atomic_write(folder / picture.name, picture.read_bytes())
    return said


def calibration_of(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh, source: cohort.Source | None) -> Calibrate:
    """Returns what gives a released model its calibrations: copies for equal weights and healthy scans, or new ones.

    Args:
      config: of the experiment.
      workdir: its work directory, or another released model.
      mesh: the devices.
      source: of other healthy scans than those of the work directory; None: the same ones.
    """
    before = weights.load(config, workdir)

    def copied(folder: pathlib.Path, digest: str, name: str) -> Calibration:
        found = calibrations.load(config, workdir, name, before.digest, before.recipe.digest)
        calibrations.write(folder, found._replace(weights_digest=digest))
        return found

    def calibrate(folder: pathlib.Path, exported: Trained, names: Sequence[str]) -> list[Calibration]:
        if source is None and equal(before.params, exported.params):
            return [copied(folder, exported.digest, name) for name in names]
        if not experiment.travels(config.data.source):
            problem = f"the methods are to be calibrated anew, and the healthy scans of {workdir} do not travel with it"
            raise UsageError(f"{problem}. Name healthy scans: --config.data.source=FOLDER")
        anew = procedure.from_config(config, folder, mesh, source)
        return [anew(methods.parse(name)) for name in names]

    return calibrate


def equal(ours, theirs) -> bool:
    """Returns whether two trees of weights are equal to the bit."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def other_source(config, workdir: pathlib.Path) -> cohort.Source | None:
    """Returns the healthy scans that a released model is to be calibrated on; None: those that it was calibrated on.

    Nobody of them is trained on any more, so that all but the test split calibrate.
    """
    if not is_released(workdir):
        return None
    before = experiment.get_config(str(workdir / "config.json")).data.source
    if config.data.source == before:
        return None
    return cohort.Source(config.data.source, 0, config.data.calibration_subjects)


def check(config, workdir: pathlib.Path, output: pathlib.Path, source: cohort.Source | None) -> None:
    """Raises UsageError where the config is not that of the work directory, or the output is there already."""
    wanted = config.copy_and_resolve_references()
    if source is not None:
        wanted.data.source = experiment.get_config(str(workdir / "config.json")).data.source
    experiment.check_used(wanted, workdir)
    if not experiment.has_model(config):
        raise UsageError(f"{workdir} has no model to export. Its folder can be copied as it is.")
    if output.exists():
        raise UsageError(f"--output={output} is there already. Name another folder, or remove that one.")


def main(words: Sequence[str] = ()) -> None:
    """Runs the command line."""
    given = flags.FLAGS
    config, workdir = given.config, pathlib.Path(given.workdir)
    output = pathlib.Path(given.output or RELEASES / config.name)
    source = other_source(config, workdir)
    check(config, workdir, output, source)
    names = given.method or calibrated(workdir)
    if not names:
        raise InputError(workdir, "has no calibration to export", "Name methods: --method=NAME,NAME")
    for name in names:
        methods.check_model(methods.parse(name), config.model.name)
    named = given.model or not flags.FLAGS["workdir"].using_default_value
    app.say(f"model: {workdir.name}, released" if is_released(workdir) else opening.model(workdir, named))
    mesh = app.start()
    notes = pathlib.Path(given.notes) if given.notes else None
    export(config, workdir, output, given.dtype, names, calibration_of(config, workdir, mesh, source), notes)
    print(f"released: {output}. Next: python -m lgjax.restore --model={output} --input=SCAN --output=D")


if __name__ == "__main__":
    app.run(main, words)
