"""The command line of the BIDS-App: the arguments that BIDS-Apps share, and those of `lgjax restore` that fit."""

import argparse
import difflib
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from absl import flags

from lgjax import __version__
from lgjax.cli import commands, parse
from lgjax.runtime.errors import UsageError

PROGRAM = "lgjax bids"
PARTICIPANT, GROUP = LEVELS = ("participant", "group")
# What is passed to the flags of `lgjax restore`.
PASSED = ("method", "workdir", "model", "device", "viewer", *commands.HOSTS, "debug", "quiet")
CONFIG = "--config"  # and what begins so


class Options(NamedTuple):
    """What the BIDS-App is told, beside the flags of `lgjax restore`."""

    bids_dir: pathlib.Path
    output_dir: pathlib.Path
    level: str  # one of LEVELS
    participants: tuple[str, ...]  # labels without sub-; () for all
    sessions: tuple[str, ...]  # labels without ses-; () for all
    filter_file: pathlib.Path | None
    work_dir: pathlib.Path | None
    skip_validation: bool


def parse_arguments(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> Options:
    """Parses the command line; what restoration is told is parsed as `lgjax restore` does, into its flags.

    --help, --version and --boutiques are answered, and end the process.

    Args:
      argv: the words behind the command.
      values: where the flags of `lgjax restore` are defined.

    Raises:
      UsageError: an argument is missing or wrong.
      InputError: the recorded config is damaged.
    """
    known = _names()
    found, others = parser().parse_known_args([_dashed(word, known) for word in argv])
    for word in others:
        if not word.startswith((f"{CONFIG}=", f"{CONFIG}.")):
            raise UsageError(_unknown(word))
    if found.method and "," in found.method:
        raise UsageError(f"--method={found.method}: one method a run, since one folder holds the maps of one method.")
    named = {name: getattr(found, name) for name in PASSED}
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in named.items() if value]
    if found.analysis_level == GROUP:  # which needs no model
        if joined := [name for name in commands.HOSTS if getattr(found, name)]:
            raise UsageError(f"--{joined[0]}: one process makes the tables of the group. Leave the flag out.")
        commands.define_common(values)
        values([PROGRAM, *(flag for flag in given if flag in ("--debug", "--quiet"))])
    else:
        parse.parse("restore", [PROGRAM, *given, *others], values)
    return Options(
        found.bids_dir,
        found.output_dir,
        found.analysis_level,
        tuple(label.removeprefix("sub-") for label in found.participant_label),
        tuple(label.removeprefix("ses-") for label in found.session_label),
        found.bids_filter_file,
        found.work_dir,
        found.skip_bids_validation,
    )


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = _Parser(
        prog=PROGRAM,
        description="Finds lesions in the T2w scans of a BIDS data set, and tells of the cohort. Research use only.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    found.add_argument("bids_dir", type=path, metavar="BIDS_DIR", help="folder of the data set; it is only read")
    found.add_argument("output_dir", type=path, metavar="OUTPUT_DIR", help="folder for the results, a BIDS derivative")
    text = "participant: maps of every scan; group: a table and a report of the results in OUTPUT_DIR"
    found.add_argument("analysis_level", metavar="LEVEL", choices=LEVELS, help=text)
    _choose(found.add_argument_group("which scans"))
    _restore(found.add_argument_group("how scans are restored (participant)"))
    _join(found.add_argument_group("several hosts, as on a TPU pod (participant)"))
    other = found.add_argument_group("other")
    other.add_argument("--quiet", action="store_true", help="print errors, warnings and the last line alone")
    other.add_argument("--debug", action="store_true", help="show tracebacks")
    other.add_argument("-h", "--help", action="help", help="show this text")
    text = "print the Boutiques descriptor (JSON), for platforms that run tools by one"
    other.add_argument("--boutiques", action=_Boutiques, nargs=0, help=text)
    other.add_argument("--version", action="version", version=f"lgjax {__version__}", help="show the version")
    return found


def _choose(group: argparse._ArgumentGroup) -> None:
    """Adds what tells which scans are wanted."""
    text = "participants, with or without sub-; default: all"
    group.add_argument("--participant-label", metavar="LABEL", nargs="+", action="extend", default=[], help=text)
    text = "sessions, with or without ses-; default: all"
    group.add_argument("--session-label", metavar="LABEL", nargs="+", action="extend", default=[], help=text)
    text = 'JSON file of PyBIDS entities for the query t2w: {"t2w": {"acquisition": "tse", "run": [1, 2]}}'
    group.add_argument("--bids-filter-file", type=path, metavar="FILE", help=text)
    text = "do not ask the BIDS validator (bids-validator-deno) about BIDS_DIR first"
    group.add_argument("--skip-bids-validation", action="store_true", help=text)


def _restore(group: argparse._ArgumentGroup) -> None:
    """Adds what restoration is told."""
    group.add_argument("--method", metavar="NAME", help="method; default: that of the model")
    group.add_argument(
        "--workdir",
        type=path,
        metavar="FOLDER",
        help="a trained model; default: as for `lgjax restore`, the released model",
    )
    group.add_argument(
        "--model", type=path, metavar="FOLDER", help="a released model in place of --workdir, see `lgjax export`"
    )
    text = "default: the fastest"
    group.add_argument("--device", choices=("auto", "cpu", "gpu", "tpu"), default="auto", help=text)
    text = "write a page for each scan that opens its volumes in a browser, some 9 MB each: viewer/ in OUTPUT_DIR"
    group.add_argument("--viewer", action="store_true", help=text)
    text = "folder for what can be made again: compiled programs, with which later runs start faster, and what a skull "
    text += "stripper needs for a while; default: the user's cache, and OUTPUT_DIR for the stripper"
    group.add_argument("-w", "--work-dir", type=path, metavar="FOLDER", help=text)


def _join(group: argparse._ArgumentGroup) -> None:
    """Adds what joins several hosts."""
    for name, text in commands.HOSTS.items():
        group.add_argument(f"--{name}", metavar="TEXT", help=text[:1].lower() + text[1:].rstrip("."))


EPILOG = textwrap.dedent(
    """\
    --config.NAME=VALUE overrides a value of the restoration's config, as for `lgjax restore`.
    Run the same command again to go on: finished scans are kept. Participants may run side by side
    into one OUTPUT_DIR. Exit codes: 0 done, 2 usage, 3 some scans failed or lack results, 4 environment.

    examples:
      lgjax bids DATA DATA/derivatives/lgjax participant
      lgjax bids DATA OUT participant --method mirror_tv3d --participant-label 01 02 -w WORK
      lgjax bids DATA OUT group
    """
)


class _Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong in place of ending the process."""

    def error(self, message: str) -> NoReturn:
        order = "Give BIDS_DIR OUTPUT_DIR LEVEL first; " if "required" in message else ""
        raise UsageError(f"{message}. {order}lgjax bids --help tells the arguments.")


class _Boutiques(argparse.Action):
    """Prints the descriptor and ends the process, as --version does."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from lgjax.cli import boutiques  # which is made from the parser

        print(boutiques.describe(), end="")
        parser.exit()


def _dashed(word: str, known: Sequence[str]) -> str:
    """Returns an argument as the parser knows it, also where it is spelled as the first BIDS-Apps did."""
    name, mark, value = word.partition("=")
    dashed = name.replace("_", "-")
    return f"{dashed}{mark}{value}" if dashed in known else word


def _names() -> list[str]:
    """Lists the arguments that begin with a dash."""
    return [name for action in parser()._actions for name in action.option_strings]


def _unknown(word: str) -> str:
    """Says that an argument does not exist, and which one was probably meant."""
    name = word.partition("=")[0]
    meant = difflib.get_close_matches(name, _names(), 1)
    hint = f"Did you mean {meant[0]}?" if meant else "lgjax bids --help tells the arguments."
    if not word.startswith("-"):
        return f"unexpected word {word!r}. {hint}"
    return f"there is no argument {name}. {hint}"


def path(text: str) -> pathlib.Path:
    """Reads an argument that names a file or a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path; a variable may be empty")
    return pathlib.Path(commands.expand(text))
