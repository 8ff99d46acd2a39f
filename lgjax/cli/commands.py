"""The flags of every command, with what --help says of them; light, so that a mistake is told at once."""

import os
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from lgjax.scans.finding import layouts

SCANS = "NIfTI file; folder (BIDS, BraTS, DICOM series ... or plain); table (.tsv, .csv); or phantom:SPLIT[:COUNT]."

HOSTS = {  # how several of them join, by flag
    "coordinator": "Where the first of several hosts listens, HOST:PORT.",
    "hosts": "How many hosts work together; auto: found out on TPU pods and under SLURM.",
    "host": "Which of the hosts this is, from 0.",
}


class Command(NamedTuple):
    """What the command line of a command is made of."""

    define: Callable[[flags.FlagValues], None]  # its own flags
    config: str | None  # the config that is taken without --config; None: the one that --workdir records
    has: str  # a part of the configs that it takes
    takes: str  # what its config is for, in words
    words: str  # the flag that a left-over word was probably meant for; "": words are scans


class PathParser(flags.ArgumentParser):
    """A path; ~ is the home folder, also where the shell leaves it."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        """Returns the path that an argument names."""
        if not argument.strip():
            raise ValueError("expected a path; a variable may be empty")
        return expand(argument)


def expand(path: str) -> str:
    """Returns a path with its ~ replaced by the home folder, where there is one."""
    return os.path.expanduser(path)


def define_path(name: str, text: str, values: flags.FlagValues) -> None:
    """Defines a flag whose value is a path, none by default."""
    flags.DEFINE(PathParser(), name, None, text, values, flags.ArgumentSerializer())


def define_common(values: flags.FlagValues) -> None:
    """Defines the flags of all commands."""
    flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "Device; auto: the fastest.", values)
    flags.DEFINE_bool("debug", False, "Show tracebacks.", values)
    flags.DEFINE_bool("quiet", False, "Print errors, warnings and the last line alone.", values)


def _define_scans(values: flags.FlagValues) -> None:
    define_path("input", SCANS, values)
    flags.DEFINE_enum("layout", "auto", list(layouts.NAMES), "Layout of an input folder; auto: recognised.", values)
    define_path("mask", "Brain mask of a single scan; default: X_mask.nii.gz beside X.nii.gz.", values)
    text = "Which volume of a 4-D scan, from 0."
    flags.DEFINE_integer("volume", None, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("slice", False, "Accept 2-D scans: one axial slice.", values)
    flags.DEFINE_bool("assume_ras", False, "Take a scan that states no orientation as RAS.", values)
    _define_sequence(values)
    text = "Refuse scans that declare more voxels; default: 268435456."
    flags.DEFINE_integer("max_voxels", None, text, lower_bound=1, flag_values=values)


def _define_sequence(values: flags.FlagValues) -> None:
    text = "Take scans whose names or sidecars say another sequence than T2."
    flags.DEFINE_bool("any_sequence", False, text, values)


def _preprocess(values: flags.FlagValues) -> None:
    _define_scans(values)
    define_path("output", "Folder for the prepared data set; default: prepared/<config name>.", values)
    define_path("recipe", "Prepare as this prepared data set, work directory or preprocessing.json says.", values)
    flags.DEFINE_bool(
        "add", False, "Keep the subjects of --output that --input does not have, and their histogram.", values
    )
    text = "Who was scanned: a column of participants.tsv, or a regular expression whose (group) is in each name."
    flags.DEFINE_string("person", None, text, values)
    text = "Subjects to calibrate on, by name; default and --calibration=: a tenth, by a hash."
    flags.DEFINE_list("calibration", None, text, flag_values=values)


def _train(values: flags.FlagValues) -> None:
    define_path("workdir", "Folder for everything that training writes; default: runs/<config name>.", values)
    _define_hosts(values)


def _define_hosts(values: flags.FlagValues) -> None:
    flags.DEFINE_string("coordinator", None, HOSTS["coordinator"], values)
    flags.DEFINE_string("hosts", None, HOSTS["hosts"], values)
    flags.DEFINE_integer("host", None, HOSTS["host"], flag_values=values)


def _define_trained(values: flags.FlagValues) -> None:
    text = "Folder of a trained model, or of --config=detection; default: that of runs/ calibrated, or trained, last."
    define_path("workdir", text, values)


def _define_model(values: flags.FlagValues) -> None:
    define_path(
        "model", "Released model in place of --workdir: folder from export; released: what travels with lgjax.", values
    )


def _calibrate(values: flags.FlagValues) -> None:
    _define_trained(values)
    _define_hosts(values)
    text = "Methods, separated by commas; default: the config's restore.method."
    flags.DEFINE_list("method", None, text, flag_values=values)


def _restore(values: flags.FlagValues) -> None:
    _define_scans(values)
    define_path("output", "Folder for the results; default: <workdir>/restored.", values)
    _define_trained(values)
    _define_model(values)
    _define_hosts(values)
    text = "Methods, separated by commas; several get a folder each; table1: all that the paper compares."
    flags.DEFINE_list("method", None, text, flag_values=values)
    text = "Write masks and scores of DICOM series as DICOM objects too; these hold the patient's name."
    flags.DEFINE_bool("dicom", False, text, values)
    text = "Write a page for each scan that opens its volumes in a browser, a few MB each: viewer/ in --output."
    flags.DEFINE_bool("viewer", False, text, values)


def _export(values: flags.FlagValues) -> None:
    _define_trained(values)
    _define_model(values)
    define_path("output", "Folder for the released model, still to be made; default: released/<config name>.", values)
    text = "Of the weights on disk; float16 halves their size, and calibrates anew."
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], text, values)
    text = "Methods, separated by commas; default: those that are calibrated."
    flags.DEFINE_list("method", None, text, flag_values=values)
    define_path(
        "notes", "Folder with notes.md, the end of the model card, and the pictures that it shows (.png).", values
    )


def _eval(values: flags.FlagValues) -> None:
    text = "Outputs of restore, one method's or several, separated by commas; default: the newest in runs/."
    define_path("predictions", text, values)
    text = "Scans with references: BIDS or BraTS folder, table (.tsv, .csv), phantom:test; default: restore's input."
    define_path("labels", text, values)
    text = "Values that are lesion, separated by commas; default: all but 0 of two values or of 0 to 4."
    flags.DEFINE_list("lesion_labels", None, text, flag_values=values)
    define_path("output", "Folder for the results; default: evaluation, beside the predictions.", values)
    text = "Method that every other one is compared with; default: the config's references."
    flags.DEFINE_string("against", None, text, values)
    flags.DEFINE_bool("paper", False, "Append the paper's Table 1, and name the outputs table1.*.", values)
    text = "Write a page for each subject that opens its volumes in a browser, a few MB each."
    flags.DEFINE_bool("viewer", True, text, values)
    flags.DEFINE_bool("assume_ras", False, "Take references that state no orientation as RAS.", values)
    _define_sequence(values)


def _bench(values: flags.FlagValues) -> None:
    text = "Methods to time, separated by commas; default: those of the paper's Table 1 that iterate."
    flags.DEFINE_list("method", None, text, flag_values=values)
    text = "Also profile one run of everything, and list the kernels that took longest."
    flags.DEFINE_boolean("profile", False, text, flag_values=values)
    define_path("output", "JSON file; default: benchmarks/<config name>_<platform>.json.", values)


COMMANDS = {
    "preprocess": Command(_preprocess, "data", "bias_field", "preparation", "input"),
    "train": Command(_train, "vae", "train", "training", "config"),
    "calibrate": Command(_calibrate, None, "restore", "restoration", "workdir"),
    "restore": Command(_restore, None, "restore", "restoration", ""),
    "export": Command(_export, None, "restore", "restoration", "workdir"),
    "eval": Command(_eval, "eval", "connectivity", "evaluation", "predictions"),
    "bench": Command(_bench, "bench", "experiments", "measuring speed", "config"),
}
