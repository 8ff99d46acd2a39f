"""The last lines of a command: what was done to how many scans, and which of them failed."""

import pathlib
import sys
from collections.abc import Sequence

from lgjax.cli import app
from lgjax.runtime.counting import counted


def tell(
    total: int,
    skipped: int,
    elsewhere: int,
    failures: Sequence[tuple[str, str]],
    speed: tuple[int, float, float],
    folder: pathlib.Path,
) -> None:
    """Says how fast and what was done, here and by other processes meanwhile; failures come last, by identifier.

    Args:
      total: scans.
      skipped: of them: finished before.
      elsewhere: of them: restored by other processes.
      failures: of them: identifier, and why.
      speed: scans, and seconds in all and of the devices.
      folder: of the results.
    """
    _tell_speed(*speed)
    done = total - skipped - elsewhere - len(failures)
    others = f", {elsewhere} by other processes" if elsewhere else ""
    told = f"{done} restored{others}, {skipped} finished before, {len(failures)} failed of {counted(total, 'scan')}"
    print(f"{told} -> {folder}", flush=True)
    _failed(failures)


def _tell_speed(scans: int, seconds: float, busy: float) -> None:
    """Says how many scans an hour were restored, if any, and which share of the time the devices were at work."""
    if scans:
        rate, share = f"{3600 * scans / seconds:.4g} scans/hour", f"{busy:.1f} of {seconds:.1f} s"
        app.say(f"{rate}; the devices were at work for {share} ({busy / seconds:.0%})")


def tell_pages(
    written: Sequence[str], kept: Sequence[str], failures: Sequence[tuple[str, str]], index: pathlib.Path
) -> None:
    """Says where the list is of the pages of scans, and whose could not be written."""
    if written or kept:
        there = f", {len(kept)} there" if kept else ""
        app.say(f"Viewer: {index} ({counted(len(written), 'page')} written{there})")
    _failed(failures)


def _failed(failures: Sequence[tuple[str, str]]) -> None:
    for name, error in failures:
        print(f"failed: {name}: {error}", file=sys.stderr)
