"""The text that tables and pages share: the notice, provenance in words, the templates of the pages."""

import json
from typing import Any

import jinja2

NOTICE = "Research use only. Not a medical device: nothing here may guide the care of a patient."


def words(value: Any) -> str:
    """Returns a provenance value for people."""
    if value is None or value in ("", "None"):
        return "not stated"
    return value if isinstance(value, str) else json.dumps(value)


def template(name: str) -> jinja2.Template:
    """Returns the template of a page; what it is given is escaped."""
    loader = jinja2.PackageLoader("lgjax.report")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)
