"""Config files by path or by name: `--config=FILE[:variant]`, or `vae[:variant]` for one that travels with lgjax."""

import importlib.machinery
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from lgjax.runtime.errors import UsageError

PACKAGE = pathlib.Path(__file__).parents[1]
PLACES = (PACKAGE / "configs", PACKAGE.parent / "configs")  # of an installed package, of a clone


def define_config(
    default: str | None, text: str, argv: Sequence[str] | None = None, values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines --config, a config file by its path or by its name.

    Args:
      default: name of the config that is taken without the flag; None: there is none.
      text: of --help.
      argv: the command line; None: that of this process. Names in it are replaced by paths.
      values: where the flag is defined.

    Raises:
      UsageError: no config has such a name.
    """
    argv = sys.argv if argv is None else argv
    words = [_resolved(argv, position) for position in range(len(argv))]
    _provide(given(words, "config") or find(default or "vae"))
    if argv is sys.argv:
        sys.argv[:] = words
    path = None if default is None else find(default)
    config_flags.DEFINE_config_file("config", path, text, flag_values=values, sys_argv=list(words))


def find(name: str) -> str:
    """Returns the path, with its variant, of the config file that a path or a name says.

    Raises:
      UsageError: no config has such a name.
    """
    stem, colon, variant = name.partition(":") if name[1:3] != ":\\" else (name, "", "")
    if stem.endswith(".py") or "/" in stem or "\\" in stem:
        own = pathlib.Path(stem)
        if not own.exists() and own.parts[:-1] == ("configs",):  # from another folder than the clone's
            return find(own.stem + colon + variant)
        return name
    folder = next((place for place in PLACES if (place / "vae.py").is_file()), PLACES[-1])
    path = folder / f"{stem}.py"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "common")))
        raise UsageError(f"--config={name}: there is no config of that name. Choose among {known}, or give a file.")
    return f"{path}{colon}{variant}"


def given(argv: Sequence[str], name: str) -> str | None:
    """Returns the value of a flag on a command line that is still to be parsed; of several the last, as absl does.

    None: the flag is not there; "": the flag lacks its value.
    """
    value = None
    for word, follower in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, behind = word.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = behind if equals else follower
    return value


def _is_config(word: str) -> bool:
    return word.partition("=")[0] in ("--config", "-config")


def _resolved(argv: Sequence[str], position: int) -> str:
    """Returns one word of the command line, the value of --config as a path."""
    word = argv[position]
    if _is_config(word) and "=" in word:
        flag, _, value = word.partition("=")
        return f"{flag}={find(value)}"
    if position and argv[position - 1] in ("--config", "-config"):
        return find(word)
    return word


def _provide(path: str) -> None:
    """Makes the folder of a config file the package `configs`, as which config files import each other."""
    file = pathlib.Path(path.partition(".py")[0] + ".py")
    if "configs" in sys.modules or file.parent.resolve().name != "configs":
        return
    spec = importlib.machinery.ModuleSpec("configs", None, is_package=True)
    spec.submodule_search_locations = [str(file.parent.resolve())]
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
