"""From a command line to checked flags: names first, then values, then bounds; nothing is read or computed before."""

import re
import sys
import traceback
from collections.abc import Sequence

import ml_collections
from absl import flags

from lgjax.cli import commands, configs, helping, typos, words
from lgjax.cli.recorded import recorded_config
from lgjax.runtime.errors import LgjaxError, UsageError
from lgjax.workdir import bounds
from lgjax.workdir.recorded import has_model


def parse(command: str, argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Defines and parses the flags of a command; --help is answered, and ends the process.

    Args:
      command: one of `commands.COMMANDS`.
      argv: the command line, the command first.
      values: where the flags are defined.

    Returns:
      The words that are no flags: the scans of `restore`.

    Raises:
      UsageError: a flag, a word or a value is wrong; nothing has been read beside the config.
      InputError: the recorded config is damaged.
    """
    about, before = commands.COMMANDS[command], set(values)
    commands.define_common(values)
    about.define(values)
    known = sorted(set(values) - before)
    if word := helping.asked(argv):
        print(helping.text(command, values, known, full=word == helping.FULL))
        sys.exit(0)
    try:
        paths = [path for path, _ in bounds.leaves(configs.load(about.config or "vae"))]
        own_part_first = sorted(paths, key=lambda path: not path.startswith(f"{command}."))
        typos.check_flags(argv, values, known, own_part_first)
        config = _config(command, argv, values)
        left = _parsed(configs.define(config, argv, values), values)
        words.check(command, argv, left, known)
        bounds.check(config)
        if "source" in config.get("data", ()):
            config.data.source = _expanded(config.data.source)
    except LgjaxError:
        if "--debug" in argv:
            traceback.print_exc()
        raise
    return left


def _config(command: str, argv: Sequence[str], values: flags.FlagValues) -> ml_collections.ConfigDict:
    """Returns the config of a command; raises UsageError where it is one of another command."""
    about, name = commands.COMMANDS[command], configs.given(argv, "config")
    config = (
        configs.load(name or about.config)
        if about.config
        else recorded_config(argv, values, shipped=command == "restore")
    )
    if about.has not in config:
        remedy = f"Take one such as --config={about.config or 'vae'}."
        if command == "train" and "model" in config and not has_model(config):
            remedy = f"It needs none, only thresholds: python -m lgjax.calibrate --config={name} --workdir=W"
        raise UsageError(f"--config={name} is no config for {about.takes}. {remedy}")
    return config


def _parsed(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Parses the values of flags; returns the words that are left."""
    try:
        return values(argv)[1:]
    except flags.Error as error:
        raise UsageError(_said(str(error))) from error
    except (KeyError, AttributeError, TypeError, OSError, ValueError) as error:
        raise UsageError(f"{str(error).strip()} Try --help.") from error


def _expanded(source: str) -> str:
    """Returns where healthy scans come from, with the home folder in place of ~; heads of phantoms too."""
    name, mark, path = source.partition(":~")
    return f"{name}:{commands.expand(f'~{path}')}" if mark else commands.expand(source)


def _said(problem: str) -> str:
    """Returns what absl says of a value, in the words of the config's bounds where there are some."""
    match = re.match(r"flag --(?P<name>[\w.]+)=(?P<value>.*?): (?P<problem>.*)", problem, re.DOTALL)
    if not match:
        return f"{problem.rstrip('.')}. Try --help."
    name, value, said = match["name"], match["value"], match["problem"].strip().rstrip(".")
    bound = bounds.BOUNDS.get(re.sub(r"^config\.(experiments\.\w+\.)?", "", name))
    if bound:
        said = f"expected {bound.expected}"
    elif "invalid literal for int" in said:
        said = "expected a whole number"
    return f"--{name}={value}: {said}."
