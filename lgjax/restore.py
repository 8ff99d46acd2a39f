"""Restores scans towards the healthy prior and maps what changed.

    python -m lgjax.restore --input=scan.nii.gz --output=out    # by the released model, or by yours if one is in runs/
    python -m lgjax.restore --workdir=runs/vae --output=out scan1.nii.gz scan2.nii.gz
    python -m lgjax.restore --model=M --input=scan.nii.gz --output=out               # M is from lgjax.export
    python -m lgjax.restore --method=mirror_tv3d --input=scan.nii.gz --output=out    # without weights

Input is NIfTI files, a table of scans (.tsv, .csv), a folder (BIDS, Cam-CAN, IXI, BraTS, nnU-Net, plain, or a folder
for each patient), a prepared data set, or phantom:test. Without an input, after a training on synthetic brains, the
command restores the embedded synthetic test patients. Outputs lie on the scan's own grid. Finished subjects are skipped
when the command is run again. Research use only.

Start the same command several times, on one machine or on machines that share the folder of --output, and the processes
share the scans: each scan is restored by one of them, and what a killed process leaves the others do. On GPUs, start
one process a GPU, each with its own CUDA_VISIBLE_DEVICES. On TPU pods, and under SLURM with one task a GPU,
--hosts=auto makes one voice of them; so do --coordinator, --hosts and --host.
"""

import pathlib
import sys
from collections.abc import Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("restore")  # before the imports below, which take seconds

import jax
from absl import flags

from lgjax.batch import calibrated, restorations
from lgjax.cli import app, closing, opening
from lgjax.cli.scans import check_output, inputs_of_flags, scans_of_flags
from lgjax.derivatives import dicom, occupied, pages
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.preparation import kept
from lgjax.report import show
from lgjax.runtime import hosts
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import sources
from lgjax.scans.finding import listing, series
from lgjax.scans.finding.listing import Listing
from lgjax.scans.sources import Subject
from lgjax.workdir import experiment, preparation
from lgjax.workdir.recorded import is_released

ADDED_ROWS = {  # by model: what the paper's table lacks, where it is more than one method
    "none": ("intensity_tv3d", "mirror_tv3d"),
    "restorer": (
        "restorer_reconstruction",
        "restorer_reconstruction_tv3d",
        "restorer_lg_neural_tv3d",
        "restorer_reconstruction_mirror_tv3d",
        "restorer_lg_neural_mirror_tv3d",
    ),
}


def rows(config) -> list[str]:
    """Lists a model's methods in the table of all methods: the paper's, plain intensity, or else the config's own."""
    paper = published.methods(config.model.name)
    added = ADDED_ROWS.get(config.model.name, [config.restore.method])
    return [*(["intensity"] if "gmm" in paper else []), *paper] or list(added)


def named(words: Sequence[str], config, released: bool) -> list[str]:
    """Lists what is restored; the embedded test patients where nobody named scans or a model, and none is of people.

    Raises:
      UsageError: there is nothing to restore.
    """
    if names := inputs_of_flags(words):
        return names
    if not flags.FLAGS["workdir"].using_default_value or not sources.is_phantom(config.data.source) or released:
        remedy = "Name scans, as in `lgjax restore scan.nii.gz`, or a folder: --input=FOLDER"
        raise UsageError(f"there is nothing to restore. {remedy}; --input=phantom:test are synthetic patients.")
    app.note("NO INPUT WAS GIVEN: these are SYNTHETIC test patients, no scans of people. Name yours: --input=SCAN")
    return ["phantom:test"]


def main(words: Sequence[str] = ()) -> int:
    """Runs the command line."""
    arguments = flags.FLAGS
    config = arguments.config
    workdir = pathlib.Path(arguments.workdir)
    experiment.check_used(config, workdir)
    whole = arguments.method == ["table1"]
    names = rows(config) if whole else arguments.method or [config.restore.method]
    for name in names:  # a mistyped one is found before anything is read
        methods.check_model(methods.parse(name), config.model.name)
        experiment.check_step(config, methods.parse(name))
    inputs = named(words, config, is_released(workdir))
    folder = pathlib.Path(arguments.output or experiment.default_output(config, workdir))
    check_output(folder, inputs)
    experiment.check_output(workdir, folder)
    scans = scans_of_flags(inputs)
    if arguments.dicom:
        dicom.check(scans.found)
    shown = series.nameable(inputs, scans.found)
    if app.speaks():
        app.say(f"{opening.scans(shown, len(scans.found))}; {opening.taken(config, workdir, names)}")
    with app.joined() as mesh:
        for line in opening.restoring(mesh, config, workdir, names):
            app.say(line)
        hosts.first_alone(preparation.begin, config, workdir)
        places = [(name, folder / name if whole or len(names) > 1 else folder) for name in names]
        known = occupied.as_before([place for _, place in places], scans.found)
        return restore(config, workdir, mesh, places, scans._replace(found=known), inputs)


def restore(
    config,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
    places: Sequence[tuple[str, pathlib.Path]],
    scans: Listing[Subject],
    inputs: Sequence[str],
) -> int:
    """Restores scans with methods, each into its place; returns the exit code."""
    arguments, shown = flags.FLAGS, series.nameable(inputs, scans.found)
    held = [restorations.checked_place(place, name, scans.found, inputs) for name, place in places]
    code, prepared = 0, kept.Kept(kept.room(len(places)))
    for (name, place), before in zip(places, held, strict=True):
        try:
            detector = calibrated.from_config(config, workdir, name, mesh)
            workers, as_dicom = config.data.workers, arguments.dicom
            outcome = restorations.run(detector, scans, shown, place, workers, None, as_dicom, prepared, before)
            closing.tell(*outcome, place)
            viewed = show.write_of_folder(place, scans.found if arguments.viewer else ())
            closing.tell_pages(*viewed, pages.index(place))
            code = max(code, outcome.code, viewed.code)
        except InputError as error:  # the other methods go on
            print(f"failed: {name}: {error}", file=sys.stderr)
            code = max(code, error.exit_code)
    for line in listing.lines(scans):
        app.note(line)
    return code


if __name__ == "__main__":
    app.run(main, words)
