"""The words of a command line that are no flags: scans for `restore`, a mistake elsewhere."""

import pathlib
import re
from collections.abc import Sequence

from lgjax.cli import configs
from lgjax.cli.commands import COMMANDS
from lgjax.cli.typos import named
from lgjax.runtime.errors import UsageError

ONCE = ("input", "labels", "predictions")  # a second one would silently replace the first


def check(command: str, argv: Sequence[str], words: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for words that the command does not take, before anything runs.

    Args:
      command: its name.
      argv: the command line.
      words: those that are left of it beside the flags.
      known: names of the command's flags.
    """
    for name in ONCE:
        if list(named(argv)).count(name) > 1:
            remedy = "List the scans without --input=, or give their folder" if command == "restore" else "Give it once"
            raise UsageError(f"--{name} is given twice. {remedy}.")
    for word in words:
        if meant := _flag(word, known):
            raise UsageError(f"{word!r} is no flag. Did you mean {meant}?")
        if not word.strip():
            raise UsageError("a word of the command line is empty. Leave it out, or check the variable behind it.")
        if COMMANDS[command].words:
            meant = _meant(command, word, [given for given in argv[1:] if given.startswith("-")])
            raise UsageError(f"unexpected word {word!r}: {command} takes flags alone. Did you mean {meant}?")


def _flag(word: str, known: Sequence[str]) -> str:
    """Returns the flag that a word was meant to be: its dashes are missing, or are those of a typesetter."""
    name, equals, value = re.sub(r"^[\u2010-\u2015\u2212]+-?", "", word).partition("=")
    is_flag = name in known or name.startswith("config.")
    if not is_flag or (name == word.partition("=")[0] and not equals) or pathlib.Path(word).exists():
        return ""
    return f"--{name}{equals}{value}"


def _meant(command: str, word: str, given: Sequence[str]) -> str:
    """Returns the flag with the word as its value that was probably meant; of flags that are given, a part of them."""
    name, config = COMMANDS[command].words, COMMANDS[command].config
    if config and word in ("paper", "smoke"):
        return f"--config={config}:{word}"
    if command == "train" and word.partition(":")[0].removesuffix(".py").rpartition("/")[2] not in configs.names():
        name = "config.data.source" if pathlib.Path(word).exists() else "workdir"
    elif command == "calibrate" and not pathlib.Path(word).exists() and "/" not in word:
        name = "method"
    before = next((flag.partition("=")[2] for flag in given if flag.partition("=")[0] == f"--{name}"), None)
    if before is not None and name == "input":  # as a shell's pattern gives them
        return f"their folder, --input={pathlib.Path(word).parent}"
    if before and name in ("method", "predictions"):
        return f"--{name}={before},{word}"
    return f"--{name}={word}"
