"""The record of a benchmark: what is measured in turn, and where the time of each contestant goes."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lgjax.runtime import devices, places, progress
from lgjax.speed import hlo, profile
from lgjax.speed.contestants import Contestant, Settings
from lgjax.speed.peaks import Rates

LOG = logging.getLogger(__name__)


def measure(settings: Settings, items: Sequence[Contestant], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Runs everything in turn, A B C A B C, so that a disturbance of the machine meets all alike.

    Args:
      settings: from `from_config`.
      items: from `contestants.compiled`.
      mesh: the devices.

    Returns:
      The record, as written to --output.
    """
    held = peak_memory(mesh)
    rates = Rates(mesh, settings.precision, settings.peak_sizes, settings.peak_length)
    with progress.track(None, "measuring", settings.repeats * (len(items) + 1), "run") as bar:
        for item in settings.repeats * [*items, rates]:
            item.sample()
            bar.update()
    peaks = rates.peaks()
    found: dict[str, dict] = {"methods": {}, "training": {}}
    for item in items:
        found[item.kind][item.name] = item.record(peaks, settings.as_paper)
    return {
        "what": "Measures how fast methods restore and models train on this machine, and how fast it could be.",
        "command": places.command(["python", "-m", "lgjax.bench", *sys.argv[1:]]),
        "versions": {**devices.versions(), "numpy": np.__version__, "python": sys.version.split()[0]},
        "devices": mesh.size,
        "cores": os.cpu_count(),
        "config": settings.as_json,
        "peaks": peaks._asdict(),
        "peak_bytes_of_process": held,
        **found,
    }


def peak_memory(mesh: jax.sharding.Mesh) -> int | None:
    """Returns the most bytes that this process has held on one device so far; None where devices do not count (CPU)."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in mesh.local_devices]
    return max((value for value in found if value is not None), default=None)


def add_profiles(record: dict[str, Any], items: Sequence[Contestant]) -> None:
    """Adds to a record where the time of each contestant goes, or why no profiler says so, which is a warning too."""
    for item in progress.track(items, "profiling", len(items), "program"):
        record[item.kind][item.name]["profile"] = _profile(item)


def _profile(item: Contestant) -> dict[str, Any]:
    """Profiles a contestant; returns what its record keeps."""
    try:
        text = item.compiled.program.as_text() or ""
        return profile.as_json(item.profile(), hlo.module(text), hlo.scopes(text))
    except Exception as error:  # every device has a profiler of its own; what was measured stands without
        fault = places.told(f"{type(error).__name__}: {error}".partition("\n")[0])
        LOG.warning("warning: %s: no profile: %s", item.name, fault)
        return {"fault": fault}
