"""The record of a benchmark: what is measured in turn, and where the time of each contestant goes."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lgjax.runtime import devices, places, progress
from lgjax.speed import hlo, profile
from lgjax.speed.contestants import Contestant, Settings
from lgjax.speed.peaks import Peaks, Rates
from lgjax.speed.turns import Entrant

LOG = logging.getLogger(__name__)


def measure(
    settings: Settings, entrants: Sequence[Entrant], mesh: jax.sharding.Mesh, keep: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Runs everything in turn, A B C A B C, so that a disturbance of the machine meets all alike.

    Each contestant is compiled when its first turn comes, and timed at once: whatever ends the process, what was timed
    before is kept.

    Args:
      settings: from `from_config`.
      entrants: from `contestants.entrants`.
      mesh: the devices.
      keep: is given the record after every turn of a contestant.

    Returns:
      The record, as written to --output.
    """
    rates = Rates(mesh, settings.precision, settings.peak_sizes, settings.peak_length)
    found: dict[str, Any] = {}
    with progress.track(None, "measuring", settings.repeats * (len(entrants) + 1), "run") as bar:
        for _ in range(settings.repeats):
            rates.sample()
            bar.update()
            for entrant in entrants:
                entrant.turn()
                bar.update()
                found = _record(settings, entrants, rates.peaks(), mesh)
                keep(found)
    return found


def _record(settings: Settings, entrants: Sequence[Entrant], peaks: Peaks, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Returns the record of the turns that were taken."""
    found: dict[str, dict] = {"methods": {}, "training": {}}
    for entrant in entrants:
        if entrant.turns:
            found[entrant.kind][entrant.name] = entrant.item.record(peaks, settings.as_paper)
    return {
        "what": "Measures how fast methods restore and models train on this machine, and how fast it could be.",
        "command": places.command(["python", "-m", "lgjax.bench", *sys.argv[1:]]),
        "versions": {**devices.versions(), "numpy": np.__version__, "python": sys.version.split()[0]},
        "devices": mesh.size,
        "cores": os.cpu_count(),
        "config": settings.as_json,
        "incomplete": [lacking for entrant in entrants if (lacking := entrant.lacks(settings.repeats))],
        "turns_left": sum(settings.repeats - entrant.turns for entrant in entrants),
        "peaks": peaks._asdict(),
        "peak_bytes_of_process": peak_memory(mesh),
        **found,
    }


def peak_memory(mesh: jax.sharding.Mesh) -> int | None:
    """Returns the most bytes that this process has held on one device so far; None where devices do not count (CPU)."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in mesh.local_devices]
    return max((value for value in found if value is not None), default=None)


def add_profiles(record: dict[str, Any], entrants: Sequence[Entrant]) -> None:
    """Adds to a record where the time of each contestant goes, or why no profiler says so, which is a warning too."""
    measured = [entrant for entrant in entrants if entrant.turns]
    for entrant in progress.track(measured, "profiling", len(measured), "program"):
        record[entrant.kind][entrant.name]["profile"] = _profile(entrant.item)


def _profile(item: Contestant) -> dict[str, Any]:
    """Profiles a contestant; returns what its record keeps."""
    try:
        text = item.compiled.program.as_text() or ""
        return profile.as_json(item.profile(), hlo.module(text), hlo.scopes(text))
    except Exception as error:  # every device has a profiler of its own; what was measured stands without
        fault = places.told(f"{type(error).__name__}: {error}".partition("\n")[0])
        LOG.warning("warning: %s: no profile: %s", item.name, fault)
        return {"fault": fault}
