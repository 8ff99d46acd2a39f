"""The text that tables and pages share: the notice, provenance in words, the templates of the pages."""

import datetime
import json
import math
from typing import Any

import jinja2
import numpy as np

NOTICE = "Research use only. Not a medical device: nothing here may guide the care of a patient."

ABSENT = "n/a"  # BIDS: an empty cell of a table


def now() -> str:
    """Returns when a page is made, to the minute."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe(value: Any) -> str:
    """Returns a provenance value for people."""
    if value is None or value in ("", "None"):
        return "not stated"
    return value if isinstance(value, str) else json.dumps(value)


def template(name: str) -> jinja2.Template:
    """Returns the template of a page; what a page of HTML is given is escaped."""
    loader, escaped = jinja2.PackageLoader("lgjax.report"), jinja2.select_autoescape(["html"])
    made = jinja2.Environment(loader=loader, autoescape=escaped, trim_blocks=True, lstrip_blocks=True)
    return made.get_template(name)


def plain(text: Any) -> str:
    """Returns text on one line, without control characters."""
    return "".join(letter for letter in " ".join(str(text).split()) if letter.isprintable())


def cell(value: Any) -> str:
    """Returns a value as BIDS writes it in a table; text never starts like a formula or a quotation."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if math.isfinite(value) else ABSENT
    written = plain("; ".join(value) if isinstance(value, list | tuple) else value or "").replace('"', "'")
    return f"'{written}" if written.startswith(("=", "+", "-", "@")) else written or ABSENT
