"""Shell completion, `lgjax completion bash|zsh`: a script that is made from the flags of every command."""

import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

from absl import flags

from lgjax.cli import bids_app, commands, configs
from lgjax.methods import names as methods
from lgjax.workdir import bounds

SHELLS = ("bash", "zsh")
PATHS = ("<path>",)  # values of a flag that names files
OTHERS = {"completion": SHELLS, "info": ("--json",)}  # commands without flags of their own, and their words


class Flag(NamedTuple):
    """What completion knows of a flag."""

    word: str  # with its dashes
    switch: bool  # whether it takes no value
    joined: bool  # whether = stands before the value
    values: tuple[str, ...]  # those that it takes; PATHS: files; (): anything
    text: str = ""


def table() -> dict[str, list[Flag]]:
    """Lists the flags of every command."""
    found = {name: list(_flags(name)) for name in commands.COMMANDS}
    return {**found, "bids": list(_arguments())}


def _flags(command: str) -> Iterable[Flag]:
    """Lists the flags of a command, and the values of the config that it takes by default."""
    values = flags.FlagValues()
    before, about = set(values), commands.COMMANDS[command]
    commands.define_common(values)
    about.define(values)
    for name in sorted(set(values) - before):
        flag = values[name]
        for word in (f"--{name}", f"--no{name}") if flag.boolean else (f"--{name}",):
            yield Flag(word, flag.boolean, not flag.boolean, _values(flag), re.sub("^<.*?>: ", "", flag.help))
    yield Flag("--config", False, True, tuple(configs.names()), "Config: a name, or FILE[:variant].")
    for path, value in bounds.leaves(configs.load(about.config or "vae")):
        if not path.startswith("experiments."):
            yield Flag(f"--config.{path}", False, True, ("True", "False") if isinstance(value, bool) else ())


def _values(flag: flags.Flag) -> tuple[str, ...]:
    if flag.name == "method":
        return tuple(methods.available())
    if isinstance(flag.parser, commands.PathParser):
        return PATHS
    return tuple(getattr(flag.parser, "enum_values", ()))


def _arguments() -> Iterable[Flag]:
    """Lists the arguments of the BIDS-App that begin with a dash."""
    for action in bids_app.parser()._actions:
        values = PATHS if action.type is bids_app.path else tuple(action.choices or ())
        if "--method" in action.option_strings:
            values = tuple(methods.available())
        for word in action.option_strings:
            yield Flag(word, action.nargs == 0, False, values, action.help or "")


def bash() -> str:
    """Returns the script for bash."""
    flags_of = {name: [flag.word + "=" * flag.joined for flag in found] for name, found in table().items()}
    cases = [f'    {name}) words="{" ".join(words)}" ;;' for name, words in {**flags_of, **OTHERS}.items()]
    sets: dict[tuple[str, ...], list[str]] = {}
    for name, found in table().items():
        for flag in found:
            if not flag.switch:
                sets.setdefault(flag.values, []).append(f'"{name} {flag.word}"')
    values = [f'    {"|".join(keys)}) values="{" ".join(found) or "<any>"}" ;;' for found, keys in sets.items()]
    filled = BASH.replace("@COMMANDS@", " ".join((*table(), *OTHERS)))
    return filled.replace("@WORDS@", "\n".join(cases)).replace("@VALUES@", "\n".join(values))


BASH = r"""# Completes the commands, flags, values and files of lgjax in bash: eval "$(lgjax completion bash)"
_lgjax() {
  local before="${COMP_LINE:0:COMP_POINT}" broken="${COMP_WORDS[COMP_CWORD]}"
  local word="${before##*[[:space:]]}" command="${COMP_WORDS[1]}" flag="" value words="" values="" list
  [[ $broken == [=:] ]] && broken=""  # bash breaks words there
  value="$word"
  if [[ $word == --*=* ]]; then
    flag="${word%%=*}" value="${word#*=}"
  elif [[ $word != -* ]]; then
    flag="${COMP_WORDS[COMP_CWORD-1]}"
  fi
  COMPREPLY=()
  if (( COMP_CWORD < 2 )); then
    COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
    return
  fi
  case "$command" in
@WORDS@
  esac
  case "$command $flag" in
@VALUES@
  esac
  if [[ $values == "<path>" || ( -z $values && $word != -* && $command =~ ^(restore|bids)$ ) ]]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r list; do COMPREPLY+=("$list"); done < <(compgen -f -- "$value")
  elif [[ $values != "" ]]; then
    list="${value%"${value##*,}"}"  # what stands before the last comma
    [[ $values == "<any>" ]] || COMPREPLY=($(compgen -P "$list" -W "$values" -- "${value##*,}"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return
  fi
  COMPREPLY=("${COMPREPLY[@]#"${value%"$broken"}"}")
}
complete -F _lgjax lgjax
"""


def zsh() -> str:
    """Returns the script for zsh."""
    lines = []
    for name, found in table().items():
        scans = ["'*:scan:_files'"] if name in ("restore", "bids") else []
        lines.append(f"    {name}) _arguments {' '.join([*map(_spec, found), *scans])} ;;")
    lines += [f"    {name}) compadd - {' '.join(words)} ;;" for name, words in OTHERS.items()]
    return ZSH.replace("@COMMANDS@", " ".join((*table(), *OTHERS))).replace("@CASES@", "\n".join(lines))


def _spec(flag: Flag) -> str:
    """Returns what zsh's _arguments is told of a flag."""
    text = re.sub(r"([\[\]:\\])", r"\\\1", re.split(r"[.;] ", flag.text)[0].rstrip("."))
    if flag.switch:
        return _quoted(f"{flag.word}[{text}]")
    action = "_files" if flag.values == PATHS else f"({' '.join(flag.values)})" if flag.values else " "
    if flag.word == "--method" and flag.joined:
        action = f"_sequence compadd - {' '.join(flag.values)}"
    return _quoted(f"{flag.word}{'=' * flag.joined}[{text}]:value:{action}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


ZSH = """#compdef lgjax
# Completes the commands, flags, values and files of lgjax in zsh, after compinit: eval "$(lgjax completion zsh)"
_lgjax() {
  local -a commands=(@COMMANDS@)
  if (( CURRENT == 2 )); then
    compadd -a commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
@CASES@
  esac
}
compdef _lgjax lgjax
"""


HELP = """Prints a script for a shell, which completes commands, flags, values and files.

Usage: lgjax completion bash|zsh
  bash  for ~/.bash_completion, or: eval "$(lgjax completion bash)"
  zsh   for ~/.zshrc after compinit: eval "$(lgjax completion zsh)\""""


def main(words: list[str]) -> int:
    """Prints the script for the shell that is named, or help; returns the exit code, 2 where no shell is named."""
    if set(words) & {"-h", "--help"}:
        print(HELP)
        return 0
    if words not in ([shell] for shell in SHELLS):
        print(f"error: name one shell: lgjax completion {'|'.join(SHELLS)}", file=sys.stderr)
        return 2
    print({"bash": bash, "zsh": zsh}[words[0]](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
