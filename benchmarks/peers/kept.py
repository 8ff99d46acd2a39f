"""What both sides agreed on, kept in a file for later runs on the same machine: a check takes a device's time."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
from agreement import checked

from lgjax.runtime import files, places

Figures = dict[str, float]


def conditions(config, variables: dict, ours, theirs) -> dict[str, str]:
    """What an agreement hangs on: the machine, versions, code, XLA's flags, what is checked and the weights."""
    flags = places.told(os.environ.get("XLA_FLAGS", ""))
    checks = {"checked": files.digest(checked(config).to_dict()), "weights": digest(variables)}
    return {**ours.machine(), **theirs.versions(), "XLA_FLAGS": flags, **checks}


def digest(tree) -> str:
    """A checksum of nested dicts of arrays, whose shapes are known."""
    if isinstance(tree, dict):
        return files.digest({name: digest(child) for name, child in tree.items()})
    return hashlib.sha256(np.asarray(tree).tobytes()).hexdigest()


class Kept:
    """The figures of agreement by part, in a file; a file of other conditions does not count."""

    def __init__(self, path: pathlib.Path | None, conditions: dict[str, str]):
        """Reads the file; with None, nothing is kept."""
        self.path, self.conditions = path, conditions
        self.parts = _read(path, conditions) if path else {}
        self.reused: list[str] = []  # parts of which an earlier run found the figures

    def part(self, name: str, find: Callable[[], Figures]) -> Figures:
        """The figures of a part: those of an earlier run, or what is found now, which the file then keeps."""
        if name in self.parts:
            self.reused.append(name)
            return self.parts[name]
        self.parts[name] = find()
        if self.path:
            whole = {"conditions": self.conditions, "parts": self.parts}
            files.atomic_write(self.path, json.dumps(whole, indent=1) + "\n")
        return self.parts[name]


def _read(path: pathlib.Path, conditions: dict[str, str]) -> dict[str, Figures]:
    """The parts in a file; none where the file is damaged, or of other conditions."""
    try:
        whole = json.loads(path.read_text())
        return dict(whole["parts"]) if whole["conditions"] == conditions else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
