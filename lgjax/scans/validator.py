"""What the BIDS validator, where it is installed, has against a data set: names and metadata, no image is read."""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Collection
from typing import NamedTuple

from lgjax.runtime.errors import EnvironmentFault

NAME = "bids-validator-deno"


class Problem(NamedTuple):
    """One error of a data set."""

    code: str  # the validator's
    location: str  # path below the data set; "" for the whole
    message: str


def executable() -> str | None:
    """Returns the path of the validator; None where it is not installed."""
    return shutil.which(NAME) or shutil.which(NAME, path=str(pathlib.Path(sys.executable).parent))


def errors(command: str, root: pathlib.Path, participants: Collection[str] = ()) -> list[Problem]:
    """Lists the errors of a data set; warnings are not asked for.

    Args:
      command: from `executable`.
      root: the data set.
      participants: labels of those whose files are judged, without sub-; () for all.

    Raises:
      EnvironmentFault: the validator does not do its work.
    """
    arguments = [command, str(root.resolve()), "--format=json", "--ignoreWarnings", "--ignoreNiftiHeaders"]
    try:
        found = subprocess.run(arguments, capture_output=True, text=True, check=False)
        report = json.loads(found.stdout)["issues"]
        issues = [issue for issue in report["issues"] if issue["severity"] == "error"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "Mend its installation, or leave it out with --skip-bids-validation"
        raise EnvironmentFault(f"{NAME} says nothing of {root} ({error}). {remedy}.") from error
    messages = report.get("codeMessages", {})
    problems = [_problem(issue, messages) for issue in issues]
    return [one for one in problems if _is_about(one.location, participants)]


def _problem(issue: dict, messages: dict) -> Problem:
    said = issue.get("issueMessage") or messages.get(issue["code"]) or ""
    return Problem(issue["code"], issue.get("location", ""), " ".join(said.split()))


def _is_about(location: str, participants: Collection[str]) -> bool:
    """Returns whether a file concerns one of the participants: their own files, and those of nobody."""
    first = location.strip("/").split("/")[0]
    return not participants or not first.startswith("sub-") or first.removeprefix("sub-") in participants
