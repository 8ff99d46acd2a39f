"""Config files by path or by name: `--config=FILE[:variant]`, or `vae[:variant]` for one that travels with lgjax."""

import difflib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import re
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from lgjax.cli import typos
from lgjax.cli.commands import expand
from lgjax.runtime.errors import UsageError
from lgjax.workdir import bounds

PACKAGE = pathlib.Path(__file__).parents[1]
PLACES = (PACKAGE / "configs", PACKAGE.parent / "configs")  # of an installed package, of a clone


def define(config: ml_collections.ConfigDict, argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Defines --config.NAME for every value of a config.

    Args:
      config: whose values they are.
      argv: the command line.
      values: where the flags are defined.

    Returns:
      The command line without --config itself.

    Raises:
      UsageError: the command line names a value that the config does not have.
    """
    words = without(argv, "config")
    typos.check_overrides(words, dict(bounds.leaves(config)))
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
    return words


def load(name: str) -> ml_collections.ConfigDict:
    """Returns the config of a path or a name, with its variant.

    Raises:
      UsageError: there is no such config or variant, or the file cannot be run.
    """
    path, variant = find(name)
    _provide(path)
    try:
        spec = importlib.util.spec_from_file_location("config_file", path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        get_config = module.get_config
        if variant and not inspect.signature(get_config).parameters:
            raise ValueError("the file has no variants. Leave out what follows the colon.")
        config = get_config(variant) if variant else get_config()
    except ValueError as error:  # as of a variant that does not exist
        raise UsageError(f"--config={name}: {error}") from error
    except Exception as error:  # whatever a user's file can raise
        problem = f"{type(error).__name__}: {error}"
        raise UsageError(f"--config={name}: {path} cannot be run as a config ({problem}). Mend the file.") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UsageError(f"--config={name}: get_config of {path} returns no ConfigDict. Mend the file.")
    return config


def find(name: str) -> tuple[pathlib.Path, str]:
    """Returns the config file and the variant, "" where none is said, that a path or a name means.

    Raises:
      UsageError: there is no such file, or no config of that name.
    """
    if match := re.fullmatch(r"(.*\.py)(?::(.*))?", name, re.DOTALL):  # a colon may stand in the path as well
        path, variant = pathlib.Path(expand(match[1])), match[2] or ""
        if path.is_file():
            return path, variant
        if (
            path.parts[:-1] in ((), ("configs",)) and (folder() / path.name).is_file()
        ):  # from another folder than the clone's
            return folder() / path.name, variant
        raise UsageError(f"--config={name}: {path} does not exist.{_similar(path.stem)}")
    stem, _, variant = name.partition(":")
    path = folder() / f"{stem}.py"
    if stem not in names():
        raise UsageError(f"--config={name}: there is no config of that name.{_similar(stem)}")
    return path, variant


def folder() -> pathlib.Path:
    """Returns the folder of the configs that travel with lgjax."""
    return next((place for place in PLACES if (place / "vae.py").is_file()), PLACES[-1])


def names() -> list[str]:
    """Lists the configs that travel with lgjax."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem not in ("__init__", "common"))


def _similar(stem: str) -> str:
    """Says which config was probably meant, or which there are."""
    meant = difflib.get_close_matches(stem, names(), 1)
    return f" Did you mean {meant[0]}?" if meant else f" Choose among {', '.join(names())}, or give a file."


def given(argv: Sequence[str], name: str) -> str | None:
    """Returns the value of a flag on a command line that is still to be parsed; of several the last, as absl does.

    Raises:
      UsageError: the flag lacks its value.
    """
    value = None
    for word, follower in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, behind = word.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = behind if equals else follower
            if not value:
                raise UsageError(f"--{name} lacks its value. Give it as --{name}=VALUE.")
    return value


def without(argv: Sequence[str], name: str) -> list[str]:
    """Returns a command line without one flag and its value."""
    kept, skipped = [], False
    for word in argv:
        if skipped:
            skipped = False
        elif word in (f"--{name}", f"-{name}"):
            skipped = True
        elif not word.startswith((f"--{name}=", f"-{name}=")):
            kept.append(word)
    return kept


def _provide(path: pathlib.Path) -> None:
    """Makes the folder of a config file the package `configs`, as which config files import each other."""
    if "configs" in sys.modules or path.parent.resolve().name != "configs":
        return
    spec = importlib.machinery.ModuleSpec("configs", None, is_package=True)
    spec.submodule_search_locations = [str(path.parent.resolve())]
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
