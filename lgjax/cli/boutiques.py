"""The Boutiques descriptor of the BIDS-App, made from its parser: platforms such as CBRAIN run tools by one."""

import argparse
import json
from typing import Any

from lgjax import __version__
from lgjax.cli import bids_app

SCHEMA = "0.5"
WRITTEN = ("output_dir", "work_dir")  # paths that need not exist; the others are inputs
ANSWERED = ("help", "version", "boutiques")  # arguments that end the process


def describe() -> str:
    """Returns the descriptor as JSON."""
    parser = bids_app.parser()
    actions = [action for action in parser._actions if action.dest not in ANSWERED]
    descriptor = {
        "name": "lgjax",
        "description": parser.description,
        "tool-version": __version__,
        "schema-version": SCHEMA,
        "command-line": " ".join([bids_app.PROGRAM, *map(_key, actions)]),
        "inputs": [_input(action) for action in actions],
        "output-files": [
            {
                "id": "results",
                "name": "Results",
                "description": "BIDS derivative: anomaly maps, masks and restored scans; tables and report of a cohort",
                "path-template": "[OUTPUT_DIR]",
            }
        ],
        "tags": {"domain": ["neuroinformatics", "mri", "bids app"]},
    }
    return json.dumps(descriptor, indent=2) + "\n"


def _key(action: argparse.Action) -> str:
    return f"[{action.dest.upper()}]"


def _input(action: argparse.Action) -> dict[str, Any]:
    """Returns the entry of one argument."""
    entry: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " ").capitalize(),
        "description": action.help,
        "value-key": _key(action),
        "type": _type(action),
        "optional": not action.required,
    }
    if action.option_strings:
        entry["command-line-flag"] = action.option_strings[-1]
    if action.choices:
        entry["value-choices"] = list(action.choices)
    if action.nargs == "+":
        entry |= {"list": True, "min-list-entries": 1}
    return entry


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    return "File" if action.type and action.dest not in WRITTEN else "String"
