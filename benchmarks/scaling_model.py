"""How long preparation, training and restoration take, by scans, slices, devices and hosts: a model and its fit.

All is pure. Seconds of cores (CPU seconds) are fitted, since other work changes them little; seconds on the
wall follow from them, from the seconds of devices and from the bytes of files: the slowest of the three decides.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize


class Run(NamedTuple):
    """A measured command, or a command to predict."""

    processes: int = 1  # hosts of training; processes that share an output folder
    devices: int = 1  # of each process
    scans: int = 0
    slices: int = 0  # of a scan, that hold brain
    steps: int = 0  # of training
    batch: int = 0  # slices of a training step


class Fit(NamedTuple):
    """What measurements say."""

    terms: dict[str, float]  # CPU seconds of each unit of a term, at least 0
    errors: list[float]  # of each run, predicted by the fit to all other runs: (predicted - measured) / measured


class Machine(NamedTuple):
    """What a host has."""

    cores: float
    devices: int
    bandwidth: float  # bytes a second between files and host
    link: float = math.inf  # bytes a second between devices
    latency: float = 0.0  # s of a message between devices


class Scan(NamedTuple):
    """What one scan takes."""

    cpu: float  # s of cores, in all
    device: float  # s of one device for a slice
    slices: int
    size: float  # bytes read and written


class Step(NamedTuple):
    """What a training step takes."""

    device: float  # s of one device for a slice
    batch: int  # slices
    gradients: float  # bytes


def restoration(run: Run, micro: int) -> dict[str, float]:
    """Counts what a restoration costs cores: starts, further devices, scans, and slices with the padding of batches.

    Args:
      run: the command.
      micro: slices that a device takes at a time.
    """
    dispatched = micro * run.devices
    share = math.ceil(run.scans / run.processes)  # of a process
    padded = run.processes * math.ceil(share * run.slices / dispatched) * dispatched
    further = run.processes * (run.devices - 1)
    return {"start": run.processes, "further device": further, "scan": run.scans, "slice": padded}


def preparation(run: Run) -> dict[str, float]:
    """Counts what a preparation costs cores: starts, scans and slices."""
    return {"start": run.processes, "scan": run.scans, "slice": run.scans * run.slices}


def training(run: Run) -> dict[str, float]:
    """Counts what a training costs cores: starts, further devices, slices, and steps of every device."""
    further = run.processes * (run.devices - 1)
    slices, steps = run.steps * run.batch, run.steps * run.processes * run.devices
    return {"start": run.processes, "further device": further, "slice": slices, "step of a device": steps}


def predicted(terms: Mapping[str, float], counts: Mapping[str, float]) -> float:
    """Returns CPU seconds: the sum of counts times what each unit costs."""
    return sum(terms[name] * count for name, count in counts.items())


def fit(counts: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> Fit:
    """Fits what each unit of a term costs, by least squares of relative errors without negative costs.

    Args:
      counts: of each run.
      seconds: of cores, measured, of each run.
    """
    everything = range(len(seconds))
    errors = []
    for left in everything:
        rest = [number for number in everything if number != left]
        terms = _solved([counts[number] for number in rest], [seconds[number] for number in rest])
        errors.append(predicted(terms, counts[left]) / seconds[left] - 1)
    return Fit(_solved(counts, seconds), errors)


def _solved(counts: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """Returns the costs with sum_r (predicted_r / seconds_r - 1)^2 smallest."""
    names = list(counts[0])
    rows = np.array([[each[name] for name in names] for each in counts], float) / np.asarray(seconds, float)[:, None]
    costs, _ = scipy.optimize.nnls(rows, np.ones(len(rows)))
    return dict(zip(names, map(float, costs), strict=True))


class Wall(NamedTuple):
    """The wall seconds of a stage, and what decides them."""

    seconds: float
    by: str  # "cores", "devices" or "files"


def cohort(scan: Scan, scans: int, hosts: int, machine: Machine, start: float, micro: int) -> Wall:
    """Predicts the wall seconds of scans that equal hosts share out by claims.

    The hosts read, compute and write at once, so the slowest of cores, devices and files decides. Before, a process
    starts; in the end the last scan of a host is prepared, restored and written with nothing beside it.

    Args:
      scan: what one scan takes.
      scans: how many.
      hosts: how many.
      machine: of each host.
      start: s until a process begins with the first scan, compilation with it.
      micro: slices that a device takes at a time.
    """
    share = math.ceil(scans / hosts)
    batches = math.ceil(share * scan.slices / (micro * machine.devices))
    kinds = {
        "cores": share * scan.cpu / machine.cores,
        "devices": batches * micro * scan.device,
        "files": share * scan.size / machine.bandwidth,
    }
    by = max(kinds, key=lambda name: kinds[name])
    last = math.ceil(scan.slices / (micro * machine.devices)) * micro * scan.device
    tail = scan.cpu + last + scan.size / machine.bandwidth  # which one core and all devices do, one after the other
    return Wall(start + kinds[by] + tail, by)


def reduction(size: float, devices: int, link: float, latency: float) -> float:
    """Returns the seconds in which devices sum gradients: 2 (n - 1) / n of the bytes over a ring, log2(n) messages."""
    return 2 * (devices - 1) / devices * size / link + latency * math.ceil(math.log2(devices))


def steps(step: Step, count: int, hosts: int, machine: Machine, start: float) -> float:
    """Predicts the wall seconds of a training: every device takes its share of a batch, then all sum gradients.

    Args:
      step: what a step takes.
      count: of steps.
      hosts: how many; the devices of all work on each step.
      machine: of each host.
      start: s until the first step.
    """
    devices = min(hosts * machine.devices, step.batch)  # more devices than slices have no work
    share = math.ceil(step.batch / devices) * step.device
    return start + count * (share + reduction(step.gradients, devices, machine.link, machine.latency))
