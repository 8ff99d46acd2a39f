"""Compares restored outputs with reference segmentations: metrics, tables and a report.

    python -m lgjax.eval --predictions=runs/vae/restored --labels=phantom:test --output=runs/vae/evaluation

Several folders, separated by commas, are compared in one report. Subjects are matched by identifier, or else by the
content of the scan. Lesion is where the reference is not 0 (or has one of --lesion_labels), inside the brain mask that
restoration used; negatives are all its other voxels. Every method is held against the references of the config, or
against one of the methods (--against): differences with paired intervals, by kind of lesion too.
The report opens each subject's volumes in a viewer of its own pages, a few MB a subject (--noviewer: none).
--config says what finds a lesion, and from how many subjects on an interval is stated (configs/eval.py).
--paper appends the numbers that the paper's authors published, in a table of their own.
"""

import pathlib
import sys
from collections.abc import Sequence

from lgjax.cli import early

if __name__ == "__main__":
    words = early.begin("eval")  # before the imports below, which take seconds

import numpy as np
from absl import flags

from lgjax.cli import app
from lgjax.cli.commands import expand
from lgjax.derivatives import read, runs
from lgjax.evaluation import references, settings
from lgjax.report import write
from lgjax.runtime import files, places
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import UsageError
from lgjax.scans import names
from lgjax.scans.finding.subject_table import is_table
from lgjax.scans.sources import is_phantom
from lgjax.workdir.experiment import RUNS


def newest() -> pathlib.Path:
    """Finds the newest predictions in runs/.

    Raises:
      UsageError: there are none.
    """
    found = [*RUNS.glob("*/restored*/dataset_description.json"), *RUNS.glob("*/restored/*/dataset_description.json")]
    if not found:
        raise UsageError("there are no predictions in runs/. Run lgjax.restore, or give --predictions=FOLDER.")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def split(given: str) -> list[pathlib.Path]:
    """Splits folders at commas, but for a comma that belongs to the name of a folder that exists."""
    parts, found = given.split(","), []
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if pathlib.Path(expand(",".join(parts[:end]).strip())).exists()), 1)
        found.append(pathlib.Path(expand(",".join(parts[:end]).strip())))
        parts = parts[end:]
    return found


def predictions(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders of predictions that a name means: a folder with scans of its own, and all methods' in it."""
    several = [inner for inner in sorted(folder.glob("*")) if read.is_output(inner)]
    return [folder, *several] if any(names.places(folder)) else several or [folder]


def lesion_labels(given: Sequence[str] | None) -> tuple[float, ...]:
    """Returns the values that --lesion_labels names.

    Raises:
      UsageError: one of them is no number, or 0, which means healthy.
    """
    try:
        found = tuple(float(value) for value in given or ())
    except ValueError:
        found = (0.0,)
    if not all(np.isfinite(found)) or 0 in found or (given is not None and not found):
        raise UsageError(f"--lesion_labels={','.join(given or ())}: expected numbers other than 0, for example 1,2,4.")
    return found


def remembered(folders: Sequence[pathlib.Path]) -> str:
    """Returns the input that `restore` noted beside its outputs, as the place of the references.

    Raises:
      UsageError: nothing or several inputs are noted, or the input is not there any more.
    """
    known = {name for folder in folders for name in runs.read(folder)}
    name = known.pop() if len(known) == 1 else None
    if name is None:
        found = "notes several inputs" if len(known) > 1 else "does not say which scans were restored"
        raise UsageError(f"{folders[0]} {found}. Name the folder with the references: --labels=FOLDER.")
    if not is_phantom(name) and not pathlib.Path(name).is_dir() and not is_table(name):
        problem = f"the scans were restored from {name}, which is no folder"
        raise UsageError(f"{problem}. Name the folder with the references: --labels=FOLDER.")
    return name


def main(words: Sequence[str] = ()) -> int:
    """Runs the command line."""
    values, lesion = flags.FLAGS, lesion_labels(flags.FLAGS.lesion_labels)
    chosen = split(values.predictions) if values.predictions else [newest()]
    folders = list(dict.fromkeys(folder for place in chosen for folder in predictions(place)))
    if not any(folder.is_dir() for folder in folders):
        raise UsageError(f"{folders[0]} is no folder. Give the output folder of lgjax.restore.")
    labels = values.labels or remembered(folders)
    output = pathlib.Path(values.output or folders[0].parent / "evaluation")
    files.check_folder(output)
    if pathlib.Path(labels).resolve() == output.resolve():
        raise UsageError(f"--output={output} is the folder of the references. Name another.")
    known = references.find(labels, values.assume_ras, lesion, values.any_sequence)
    app.say(told(folders, known.said))
    is_told = known.said == labels  # by the command, too
    command = places.command(["python", "-m", "lgjax.eval", *sys.argv[1:]]) if is_told else ""
    options = (values.against, values.paper, command, values.viewer)
    return tell(write.run_evaluation(folders, known, output, settings.from_config(values.config), *options))


def told(folders: Sequence[pathlib.Path], labels: str) -> str:
    """Says what is compared with what; loudly where nobody named the one or the other."""
    values = flags.FLAGS
    count = len({name for folder in folders for name in read.identifiers(folder)})
    place = ", ".join(map(str, folders)) if len(folders) <= 3 else f"{folders[0]} and {len(folders) - 1} more"
    chosen = "" if values.predictions else ", the newest in runs/ (--predictions names others)"
    noted = "" if values.labels else " (restore's input; --labels names others)"
    return f"predictions: {place} ({counted(count, 'scan')}){chosen}; references: {labels}{noted}"


def tell(found: write.Written) -> int:
    """Prints the tables, the place of the report and what failed; returns the exit code, 3 if anything failed."""
    app.say(found.table)
    print(f"Report: {found.page}")
    for line in found.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in found.failures:
        print(f"failed: {line}", file=sys.stderr)
    return 3 if found.failures else 0


if __name__ == "__main__":
    app.run(main, words)
