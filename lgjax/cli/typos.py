"""Flags and config values that do not exist: what the user probably meant."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from lgjax.runtime.errors import UsageError

ALIASES = {  # what other programs call a flag, or what one command calls a flag of another
    "i": ("input", "predictions", "config.data.source"),
    "in": ("input", "predictions", "config.data.source"),
    "data": ("input", "labels", "config.data.source"),
    "input": ("predictions", "config.data.source"),
    "source": ("config.data.source", "input"),
    "o": ("output", "workdir"),
    "out": ("output", "workdir"),
    "outdir": ("output", "workdir"),
    "output": ("workdir",),
    "model": ("workdir",),
    "gpu": ("device=gpu",),
    "cpu": ("device=cpu",),
    "verbose": ("debug",),
    "lr": ("config.train.learning_rate",),
    "epochs": ("config.train.steps",),
}


def check_flags(argv: Sequence[str], values: flags.FlagValues, known: Iterable[str], paths: Iterable[str]) -> None:
    """Raises UsageError for the first flag of a command line that does not exist.

    Args:
      argv: the command line, the command first.
      values: with the flags that absl knows.
      known: names of the flags that the command has.
      paths: dotted names of the values of its config.
    """
    known, paths = [*known, "config"], list(paths)
    for name in named(argv):
        switched_off = name.startswith("no") and name[2:] in values and values[name[2:]].boolean
        is_config = name == "config" or name.startswith(("config.", "noconfig."))
        if not (name in values or switched_off or is_config):
            meant = suggestion(name, known, paths)
            hint = f"Did you mean --{meant}?" if meant else "--help lists the flags."
            raise UsageError(f"there is no flag --{name}. {hint}")


def check_overrides(argv: Sequence[str], config: Mapping[str, Any]) -> None:
    """Raises UsageError for the first --config.NAME that the config does not have.

    Args:
      argv: the command line, the command first.
      config: its values by their dotted names.
    """
    paths = list(config)
    for name in named(argv):
        path = name.removeprefix("no").removeprefix("config.")
        if not name.startswith(("config.", "noconfig.")) or (path in paths and name.startswith("config.")):
            continue
        if path in paths:
            if isinstance(config[path], bool):
                continue
            raise UsageError(f"--{name}: --config.{path} is no switch. Give it as --config.{path}=VALUE.")
        inside = [known for known in paths if known.startswith(path + ".")]
        if inside:
            hint = f"is a part of the config. Give one of its values: --config.{', --config.'.join(inside)}"
            raise UsageError(f"--config.{path} {hint}.")
        meant = _similar(path, paths)
        part = path.partition(".")[0] + "."
        beside = [known for known in paths if known.startswith(part)] or paths
        hint = f"Did you mean --config.{meant}?" if meant else f"Choose among {', '.join(beside)}."
        raise UsageError(f"there is no --config.{path}. {hint}")


def named(argv: Sequence[str]) -> Iterator[str]:
    """Lists the names of the flags on a command line, without dashes and values."""
    for word in argv[1:]:
        if word == "--":
            return
        if word.startswith("-") and word.strip("-") and not word[1:2].isdigit():
            yield word.lstrip("-").partition("=")[0]


def suggestion(name: str, known: Sequence[str], paths: Sequence[str]) -> str:
    """Returns the flag that was probably meant, or ""."""
    plain = name.lower().replace("-", "_")
    candidates = [*known, *(f"config.{path}" for path in paths)]
    for meant in (plain, *ALIASES.get(plain, ()), *(f"config.{path}" for path in _ending(plain, paths))):
        if meant.partition("=")[0] in candidates:
            return meant
    close = difflib.get_close_matches(plain, known, 1)
    return close[0] if close else "".join(f"config.{path}" for path in [_similar(plain, paths)] if path)


def _ending(path: str, paths: Sequence[str]) -> list[str]:
    """Lists the dotted names that end with a name."""
    return [known for known in paths if f".{known}".endswith(f".{path}")]


def _similar(path: str, paths: Sequence[str]) -> str:
    """Returns the dotted name that was probably meant: one that ends alike, or one spelled alike; or ""."""
    last = path.rpartition(".")[2]
    alike = _ending(path, paths) or difflib.get_close_matches(path, paths, 1)
    alike = alike or [known for known in paths if known.rpartition(".")[2] == last]
    if not alike:
        close = difflib.get_close_matches(last, [known.rpartition(".")[2] for known in paths], 1)
        alike = [known for known in paths if close and known.rpartition(".")[2] == close[0]]
    return alike[0] if alike else ""
