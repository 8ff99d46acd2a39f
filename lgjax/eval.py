"""Compares restored outputs with reference segmentations: metrics, tables and a report.

    python -m lgjax.eval --predictions=runs/vae/restored --labels=phantom:test --output=runs/vae/evaluation

Several folders, separated by commas, are compared in one report. Subjects are matched by identifier. Lesion
is where the reference is not 0 (or has one of --lesion_labels), inside the brain mask that restoration used;
negatives are all its other voxels. One of the methods is held against every other one (--against): differences
with paired intervals.
--config says what finds a lesion, and from how many subjects on an interval is stated (configs/eval.py).
--paper appends the numbers that the paper's authors published, in a table of their own.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from lgjax.cli import app
from lgjax.cli.configs import define_config
from lgjax.derivatives import read
from lgjax.evaluation import settings
from lgjax.report import write
from lgjax.runtime import places
from lgjax.runtime.errors import UsageError
from lgjax.scans import names


def _newest_predictions() -> list[str]:
    found = [*pathlib.Path("runs").glob("*/restored*/dataset_description.json")]
    found += pathlib.Path("runs").glob("*/restored/*/dataset_description.json")
    return [str(max(found, key=lambda path: path.stat().st_mtime).parent)] if found else []


def predictions(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders of predictions that a name means: one method's, or those of several in one output folder."""
    several = [inner for inner in sorted(folder.glob("*")) if read.is_output(inner)]
    return several if several and not any(names.places(folder)) else [folder]


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


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command line; not on import, since other commands define flags of the same names."""
    define_config("eval", "How restorations are judged: a file, or a name: eval.", values=values)
    text = "Outputs of lgjax.restore, of one method or of several, separated by commas; default: the newest in runs/."
    flags.DEFINE_list("predictions", None, text, flag_values=values)
    text = "Scans with reference segmentations: a BIDS or BraTS folder, a table (.tsv, .csv), or phantom:test."
    flags.DEFINE_string("labels", "phantom:test", text, flag_values=values)
    text = "Values of references that are lesion, separated by commas; default: all but 0."
    flags.DEFINE_list("lesion_labels", None, text, flag_values=values)
    text = "Folder for the results; default: evaluation, beside the predictions."
    flags.DEFINE_string("output", None, text, flag_values=values)
    text = f"Method that is compared with every other one; default: {write.AGAINST} where it is among them."
    flags.DEFINE_string("against", None, text, flag_values=values)
    text = "Append the paper's own Table 1, and name the outputs table1.md, table1.json and table1.html."
    flags.DEFINE_bool("paper", False, text, flag_values=values)
    text = "Take references that state no orientation as RAS."
    flags.DEFINE_bool("assume_ras", False, text, flag_values=values)


def main(argv: Sequence[str]) -> int:
    """Runs the command line."""
    if len(argv) > 1:
        raise UsageError(f"unexpected argument {argv[1]!r}. Give flags as --name=value.")
    chosen = flags.FLAGS.predictions or _newest_predictions()
    if not chosen:
        raise UsageError("there are no predictions in runs/. Run lgjax.restore, or give --predictions=FOLDER.")
    folders = list(dict.fromkeys(folder for name in chosen for folder in predictions(pathlib.Path(name))))
    if not any(folder.is_dir() for folder in folders):
        raise UsageError(f"{folders[0]} is no folder. Give the output folder of lgjax.restore.")
    output = pathlib.Path(flags.FLAGS.output or folders[0].parent / "evaluation")
    command = places.command(["python", "-m", "lgjax.eval", *sys.argv[1:]])
    values, chosen_settings = flags.FLAGS, settings.from_config(flags.FLAGS.config)
    labels = lesion_labels(values.lesion_labels)
    options = (values.assume_ras, values.against, values.paper, command, labels)
    return tell(write.run_evaluation(folders, values.labels, output, chosen_settings, *options))


def tell(found: write.Written) -> int:
    """Prints the tables, the place of the report and what failed; returns the exit code, 3 if anything failed."""
    print(found.table)
    print(f"Report: {found.page}")
    for line in found.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in found.failures:
        print(f"failed: {line}", file=sys.stderr)
    return 3 if found.failures else 0


if __name__ == "__main__":
    app.run(main, define_flags)
