"""What --help prints: the flags of one command on a screen; --helpfull adds the values of its config, with comments."""

import ast
import io
import pathlib
import textwrap
import tokenize
from collections.abc import Sequence

from absl import flags

from lgjax.cli import configs
from lgjax.cli.commands import COMMANDS
from lgjax.workdir import bounds

FULL = "--helpfull"
WORDS = ("-h", "-help", "--help", "--helpshort", FULL)
FIRST = ("input", "predictions", "labels", "workdir", "model", "output", "method")  # of the flags
EDITS = ("shorten", "smoke", "authors")  # functions that change values which others state
WIDTH = 110
PARTS = {
    "restore": ("restore", "gmm"),
    **dict.fromkeys(("calibrate", "export"), ("restore", "calibrate", "gmm")),
}  # of the config; default: all


def asked(argv: Sequence[str]) -> str:
    """Returns the word of a command line that asks for help, `FULL` before others; "" where none does."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    found = ["--help"] if list(words) == ["help"] else [word for word in words if word in WORDS]
    return FULL if FULL in found else "".join(found[:1])


def text(command: str, values: flags.FlagValues, known: Sequence[str], full: bool) -> str:
    """Returns the help of a command.

    Args:
      command: its name.
      values: with its flags.
      known: names of its flags.
      full: whether the values of its config follow.
    """
    source = pathlib.Path(__file__).parents[1].joinpath(f"{command}.py").read_text(encoding="utf-8")
    said = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    examples = [line for line in said if line.startswith("    ")]
    lines = [said[0], "", *examples, "", f"Flags; lgjax {command} is python -m lgjax.{command}:"]
    lines += [_flag(values[name]) for name in sorted(known, key=lambda name: (name not in FIRST, name))]
    lines += [_row("--config", "Config: FILE[:variant], or a name: " + ", ".join(configs.names()) + ".")]
    if full:
        return "\n".join([*lines, "", *config_lines(command)])
    return "\n".join([*lines, "", f"{FULL} adds the values of the config, each a flag: --config.NAME=VALUE."])


def _flag(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    return _row(name, flag.help)


def _row(name: str, meaning: str) -> str:
    return textwrap.fill(meaning, WIDTH, initial_indent=f"  {name:<20} ", subsequent_indent=" " * 23)


def config_lines(command: str) -> list[str]:
    """Lists the values of a command's config, with their comments."""
    name = COMMANDS[command].config or "vae"
    parts, remarks = PARTS.get(command), comments(name)
    recorded = " of the work directory; here those" if parts else ""
    lines = [f"Config values, each a flag (--config.NAME=VALUE){recorded} of {name}:"]
    for path, value in bounds.leaves(configs.load(name)):
        if (parts and path.partition(".")[0] not in parts) or path.startswith("experiments."):
            continue
        shown = f"{path}={str(value).replace(' ', '')}"
        lines.append(
            textwrap.fill(remarks.get(path, ""), WIDTH, initial_indent=f"  {shown:<40} ", subsequent_indent=" " * 43)
            or f"  {shown}"
        )
    return lines


def comments(name: str) -> dict[str, str]:
    """Returns the comments of a config's values by their dotted names, from its file and from common.py."""
    found: dict[str, str] = {}
    config = configs.load(name)
    sources = [configs.folder() / f"{name}.py", configs.folder() / "common.py"]
    remarks = [remark for path in sources for remark in _remarks(path.read_text(encoding="utf-8"))]
    parts = {path.partition(".")[0] for path, _ in bounds.leaves(config) if "." in path}
    for path, _ in bounds.leaves(config):
        part, _, field = path.rpartition(".")
        fitting = [
            said for function, target, said in remarks if target == path or (function == part and target == field)
        ]
        free = [said for function, target, said in remarks if target == field and function not in parts]
        if said := next(iter(fitting or free), ""):
            found[path] = said
    return found


def _remarks(source: str) -> list[tuple[str, str, str]]:
    """Lists the comments of assignments: the function that they stand in, the dotted target, the comment."""
    by_line = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = []
    for function in [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and not node.name.startswith(EDITS)
    ]:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                said = by_line.get(node.end_lineno or 0)
                alone = node.lineno - 1 in by_line and source.splitlines()[node.lineno - 2].lstrip().startswith("#")
                said = said or (by_line[node.lineno - 1] if alone else None)
                if said:
                    target = ast.unparse(node.targets[0]).partition(".")[2]
                    found.append((function.name, target, said))
    return found
