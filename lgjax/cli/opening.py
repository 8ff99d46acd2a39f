"""The first line of a command: what is read, how much of it, with which model of what age."""

import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
from absl import flags

from lgjax.methods.names import parse
from lgjax.runtime import devices
from lgjax.runtime.counting import counted
from lgjax.scans.finding import series
from lgjax.scans.sources import is_phantom
from lgjax.workdir import calibrations, experiment
from lgjax.workdir.recorded import RELEASED, SHIPPED, is_released

PUBLISHED = (  # see `models.precision`, where the bound is
    "lgjax's published times of GPUs are in it, and maps of vae_lg_neural_tv change by less than .01 standard "
    "deviations of the brain on average (emulated)"
)
MINUTE, HOUR, DAY = 60, 3600, 86400  # seconds


def scans(names: Sequence[str], count: int) -> str:
    """Says where scans come from, and how many there are; of names that tell who was scanned none is given."""
    named = (", ".join(names) or series.UNNAMED) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
    return f"input: {named} ({counted(count, 'scan')})"


def cohort(spec: str, count: int) -> str:
    """Says where healthy scans come from, and how many there are."""
    return scans([f"synthetic brains, {spec}" if is_phantom(spec) else spec], count)


def taken(config, workdir: pathlib.Path, names: Sequence[str]) -> str:
    """Says which model is taken, or that none is, and whose brains the thresholds are from."""
    if is_released(workdir):
        subjects = len(calibrations.read(workdir, names[0]).subjects)
        return released(config.name, "" if workdir == RELEASED else str(workdir), subjects, config.data.source)
    if experiment.has_model(config):
        return model(workdir, given=not flags.FLAGS["workdir"].using_default_value)
    if not calibrations.path(workdir, names[0]).exists():
        return untrained(workdir, None)
    subjects = len(calibrations.read(workdir, names[0]).subjects)
    return untrained(workdir, subjects, "" if workdir == SHIPPED else config.data.source)


def model(workdir: pathlib.Path, given: bool) -> str:
    """Says which model is taken, and its age; loudly where nobody named it."""
    others = "--workdir names another, --model=released the one that travels with lgjax"
    taken = "" if given else f", of those in runs/ calibrated, or else trained, last ({others})"
    return f"model: {workdir}{taken}, {age(workdir)}"


def released(name: str, place: str, subjects: int, source: str) -> str:
    """Says which released model is taken, and whose brains its thresholds are from.

    Args:
      name: of its config.
      place: its folder; "": the model travels with lgjax.
      subjects: of whose brains the thresholds are.
      source: of these brains.
    """
    brains = counted(subjects, "synthetic healthy brain" if is_phantom(source) else "healthy scan")
    where = f"in {place}" if place else "with lgjax"
    return f"model: {name}, released {where}; thresholds from {brains}; research use only"


def untrained(workdir: pathlib.Path, subjects: int | None, source: str = "") -> str:
    """Says that no model is taken.

    Args:
      workdir: that thresholds are kept in.
      subjects: of whose brains the thresholds are; None: there are none yet.
      source: of these brains; "": the thresholds travel with lgjax.
    """
    if subjects is None:
        return f"no model: {workdir}"
    if not source:
        return f"no model; thresholds from {counted(subjects, 'synthetic healthy brain')}, shipped"
    return f"no model: {workdir}, thresholds from {counted(subjects, 'healthy scan')} of {source}"


def restoring(mesh: jax.sharding.Mesh, config, workdir: pathlib.Path, methods: Sequence[str]) -> list[str]:
    """Lists what `faster` says of a restoration; nothing of a released model, whose thresholds are of one precision."""
    if is_released(workdir) or not any(parse(method).model for method in methods):
        return []
    return faster(mesh, {"restore.precision": config.restore.precision})


def faster(mesh: jax.sharding.Mesh, precisions: Mapping[str, str]) -> list[str]:
    """Lists the line that a GPU computes networks faster than in float32; no line where it does so already, or cannot.

    Args:
      mesh: the devices.
      precisions: of networks, by the name of their config value.
    """
    asked = [f"--config.{name}=tensorfloat32" for name, value in precisions.items() if value == "float32"]
    if not asked or not devices.rounds_products(mesh.devices.flat[0]):
        return []
    alike = "; calibrate and restore with the same value" if "restore.precision" in precisions else ""
    return [f"precision: float32, the paper's. This GPU is faster with {' '.join(asked)}: {PUBLISHED}{alike}"]


def age(workdir: pathlib.Path) -> str:
    """Says when a model was trained."""
    times = [path.stat().st_mtime for path in (workdir / "checkpoints").glob("[0-9]*")]
    return f"trained {ago(time.time() - max(times))}" if times else "not trained yet"


def ago(seconds: float) -> str:
    """Says how long ago something was, rounded down."""
    for length, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= length:
            return f"{counted(int(seconds // length), name)} ago"
    return "just now"
