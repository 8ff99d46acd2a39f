"""The command `lgjax`: `lgjax restore ...` is `python -m lgjax.restore ...`; alone, it lists the commands."""

import ast
import difflib
import json
import os
import pathlib
import platform
import runpy
import sys
from importlib import metadata

import lgjax
from lgjax.runtime import streams

COMMANDS = ("preprocess", "train", "calibrate", "restore", "bids", "eval", "export", "bench")
PARTS = ("jax", "jaxlib", "flax", "optax", "numpy", "nibabel", "orbax-checkpoint")


def main() -> None:
    """Runs the command that the first word names; exit code 2 where there is none of that name."""
    streams.forgive()
    words = sys.argv[1:]
    name = words[0] if words else "--help"
    if name in COMMANDS:
        sys.argv[:] = [f"lgjax {name}", *words[1:]]
        runpy.run_module(f"lgjax.{name}", run_name="__main__")
    elif name == "completion":
        sys.argv[:] = [f"lgjax {name}", *words[1:]]
        runpy.run_module("lgjax.cli.completion", run_name="__main__")
    elif name == "info" and set(words[1:]) & {"-h", "--help"}:
        print(HELP)
    elif name == "info":
        if unknown := [word for word in words[1:] if word != "--json"]:
            print(f"error: unexpected {unknown[0]!r}: info takes --json alone.", file=sys.stderr)
            sys.exit(2)
        print(information(as_json="--json" in words))
    elif name in ("-h", "--help", "help"):
        print(overview())
    elif name == "--version":
        print(f"lgjax {lgjax.__version__}")
    else:
        meant = difflib.get_close_matches(name, (*COMMANDS, "completion", "info"), 1)
        hint = f" Did you mean {meant[0]}?" if meant else ""
        print(f"error: there is no command {name!r}.{hint}\n\n{overview()}", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """Returns the list of commands, one line each."""
    lines = [f"  {name:<11} {_first_line(name)}" for name in COMMANDS]
    lines.append(f"  {'completion':<11} Prints a script for bash or zsh, which completes commands, flags and values.")
    lines.append(f"  {'info':<11} Tells versions and devices; --json for programs.")
    return "\n".join(["lgjax finds lesions in brain MRI without labels. Research use only.", "", *lines, "", USAGE])


HELP = """Tells versions of lgjax and of what it needs, devices, and the model that travels with lgjax.

Usage: lgjax info [--json]
  --json  the same as one JSON object, for programs"""
USAGE = "Usage: lgjax COMMAND [--flag=value ...]; lgjax COMMAND --help tells its flags."


def _first_line(name: str) -> str:
    """Returns the first line of a command's docstring, without importing the command."""
    source = pathlib.Path(lgjax.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def released() -> dict[str, str | int]:
    """Returns name, size and listed digest of the weights that travel with lgjax."""
    from lgjax.workdir import sums
    from lgjax.workdir.recorded import RELEASED, WEIGHTS

    size = (RELEASED / WEIGHTS).stat().st_size
    return {"name": RELEASED.name, "bytes": size, "sha256": sums.read(RELEASED)[WEIGHTS]}


def information(as_json: bool) -> str:
    """Returns versions and devices, and why devices cannot be used; nothing is compiled."""
    parts = {part: metadata.version(part) for part in PARTS}
    kinds, problem = devices()
    about = {"lgjax": lgjax.__version__, "python": platform.python_version()}
    if as_json:
        found = {"versions": parts, "devices": kinds, "problem": problem}
        return json.dumps({**about, **found, "cores": os.cpu_count(), "released_models": [released()]}, indent=2)
    model = "{name}, {bytes} bytes, SHA-256 {sha256}".format_map(released())
    listed = ", ".join(kinds) or f"none ({problem})"
    rows = {**about, **parts, "devices": listed, "cores": str(os.cpu_count()), "released model": model}
    return "\n".join(f"{name}: {value}" for name, value in rows.items())


def devices() -> tuple[list[str], str]:
    """Lists platforms and kinds of devices, and says why JAX finds none; "" where it finds some."""
    import jax

    try:
        return [f"{device.platform}: {device.device_kind}" for device in jax.devices()], ""
    except (RuntimeError, AssertionError) as error:  # the latter where jax has no plugin for the platform
        return [], str(error).partition("\n")[0] or "JAX has no plugin for the platform"


if __name__ == "__main__":
    main()
