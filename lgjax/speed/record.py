"""What a benchmark measures and tells: the record, and its tables."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lgjax import models
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.methods import runner
from lgjax.models.base import Model
from lgjax.preparation.slices import Grid
from lgjax.report import tables
from lgjax.runtime import devices, places, progress
from lgjax.runtime.errors import UsageError
from lgjax.speed import peaks as speed_peaks
from lgjax.speed.contestants import Restoration, Training, random_state
from lgjax.training import settings as training_settings
from lgjax.workdir import experiment

NOTES = (
    "s/iteration: of one batch, the slope between a short and a long run of the compiled program, so that what a run "
    "does once (starting, transfers) does not count. s/volume is computed from the long run and this slope, all "
    "batches full, the last one padded, compilation and preparation of the scan left out.",
    "GFLOP: floating-point operations of the program as written, counted as XLA does, on every device alike (a padded "
    "product is none). plain: the same with plain convolutions, without the zeros that put them into blocks of pixels. "
    "GB: XLA's count of what each "
    "kernel of the compiled program reads and writes; more than a perfect program needs, and on CPU most of it comes "
    "from a cache. (Where XLA does not say: what all operations of the program as written do, an upper count, marked "
    "<=.) So the floor, max(GFLOP / best matrix product, GB / bandwidth), belongs to this program, and only the "
    "compute floor holds for every program of the same operations. MB: arguments, results and what lies between, on "
    "each device.",
)


BESIDE_PAPER = (
    "paper, s: seconds per iteration on a Titan X, Table 1 of Chen et al. 2019; the batch size is not stated in the "
    "paper (the authors' code restores 64 slices of 128x128 at a time)."
)


OTHER_SIZE = "These are not the paper's networks and slices: its seconds are not set beside ours."


class Experiment(NamedTuple):
    """One model whose methods and training are timed."""

    model: Model  # in the precision of its restoration
    restoration: runner.Settings
    trained: Model  # in the precision of its training
    training: training_settings.Settings
    grid: Grid


class Settings(NamedTuple):
    """How speed is measured, see configs/bench.py."""

    as_paper: bool  # whether networks and slices are of the size of the paper's
    volume_slices: int
    repeats: int
    run_seconds: float
    short_iterations: int
    train_models: tuple[str, ...]
    train_slices: int
    peak_dtype: str
    peak_sizes: tuple[int, ...]
    peak_length: int
    experiments: dict[str, Experiment]  # by model
    as_json: dict[str, Any]  # all of it, for the record


def from_config(config) -> Settings:
    """Takes what is timed, and how, from a config of configs/bench.py.

    Raises:
      UsageError: an experiment has an unknown value.
    """
    experiments = {}
    for name in config.experiments:
        part = config.experiments[name]
        experiment.check(part)
        experiments[name] = Experiment(
            models.from_config(part, part.restore.precision),
            runner.from_config(part),
            models.from_config(part, part.train.precision),
            training_settings.from_config(part),
            experiment.grid(part),
        )
    values = {field: config[field] for field in Settings._fields if field in config}
    return Settings(**{**values, "experiments": experiments, "as_json": experiment.as_json(config)})


def choose(names: Sequence[str] | None) -> list[str]:
    """Returns the methods that are timed: those given, or those of the paper's Table 1 that have a loop.

    Raises:
      UsageError: a method is unknown, or iterates no slices.
    """
    looped = [name for name, method in methods.available().items() if method.iterates and not method.volume]
    for name in names or ():
        if methods.parse(name).name not in looped:
            raise UsageError(f"{name} iterates no slices that could be timed. Choose among {', '.join(looped)}.")
    return list(dict.fromkeys(names or [entry.method for entry in published.TABLE1 if entry.method in looped]))


def trained(settings: Settings, names: Sequence[str]) -> list[str]:
    """Returns the models of some methods whose training is timed too."""
    found = dict.fromkeys(methods.parse(name).model for name in names)
    return [model for model in found if model in settings.train_models]


def contestants(settings: Settings, names: Sequence[str], mesh: jax.sharding.Mesh) -> Iterator[Restoration | Training]:
    """Compiles the methods and the trainings of their models, one after the other; yields each."""
    short, target = settings.short_iterations, settings.run_seconds
    for method in map(methods.parse, names):
        part = settings.experiments[method.model]
        params = models.freeze(random_state(part.trained, part.training).variables)
        yield Restoration(method, part.restoration, part.model, params, part.grid, mesh, short=short, target=target)
    for name in trained(settings, names):
        part = settings.experiments[name]
        size = part.grid.height, part.grid.width
        yield Training(name, part.trained, part.training, size, mesh, settings.train_slices, target)


def measure(settings: Settings, names: Sequence[str], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Runs everything in turn, A B C A B C, so that a disturbance of the machine meets all alike.

    Args:
      settings: from `from_config`.
      names: of methods, as from `choose`.
      mesh: the devices.

    Returns:
      The record, as written to --output.
    """
    count = len(names) + len(trained(settings, names))
    items = list(progress.track(contestants(settings, names, mesh), "compiling", count, "program"))
    held, peaks = speed_peaks.peak_memory(mesh), []
    sizes = (settings.peak_dtype, settings.peak_sizes, settings.peak_length)
    with progress.track(None, "measuring", settings.repeats * (count + 1), "run") as bar:
        for _ in range(settings.repeats):
            for item in items:
                item.sample()
                bar.update()
            peaks.append(speed_peaks.measure_peaks(mesh, *sizes))
            bar.update()
    best = speed_peaks.best(peaks)
    found: dict[str, dict] = {"methods": {}, "training": {}}
    for item in items:
        found[item.kind][item.name] = item.record(best, settings)
    return {
        "what": "Measures how fast methods restore and models train on this machine, and how fast it could be.",
        "command": places.command(["python", "-m", "lgjax.bench", *sys.argv[1:]]),
        "versions": {**devices.versions(), "numpy": np.__version__, "python": sys.version.split()[0]},
        "devices": mesh.size,
        "cores": os.cpu_count(),
        "config": settings.as_json,
        "peaks": best._asdict(),
        "peak_bytes_of_process": held,
        **found,
    }


def markdown(record: dict[str, Any]) -> str:
    """Returns the tables of a record, aligned for a terminal and valid as Markdown."""
    versions, peaks = record["versions"], record["peaks"]
    repeats = record["config"]["repeats"]
    head = (
        f"Measured on {versions['device']}, lgjax {versions['lgjax']}, jax {versions['jax']}, {versions['date']}: "
        f"{repeats} times in turn, median and quartiles. Random weights, synthetic slices: neither changes the work. "
        f"Best rates of this device in this run: {peaks['flops'] / 1e9:.4g} GFLOP/s (product of matrices), "
        f"{peaks['bytes'] / 1e9:.4g} GB/s."
    )
    beside = BESIDE_PAPER if record["config"]["as_paper"] else OTHER_SIZE
    return "\n\n".join([head, _times(record), beside, _programs(record), _training(record), *NOTES])


def _times(record: dict[str, Any]) -> str:
    """Tabulates how long methods take."""
    lines = []
    for name, found in record["methods"].items():
        seconds = found["seconds_per_iteration"]
        lines.append(
            [
                name,
                _batch(found),
                _number(seconds["median"]),
                _quartiles(seconds),
                _number(found["paper_seconds"]),
                _number(found["paper_over_ours"]),
                _number(found["volume"]["seconds"]),
                _number(found["compile_seconds"]),
            ]
        )
    volume = f"s/volume of {record['config']['volume_slices']}"
    head = ["method", "batch", "s/iteration", "quartiles", "paper, s", "paper / ours", volume, "compile, s"]
    return tables.aligned(head, lines)


def _programs(record: dict[str, Any]) -> str:
    """Tabulates what iterations and training steps take of the device."""
    rows = {**record["methods"], **{f"training of {name}": found for name, found in record["training"].items()}}
    lines = [
        [
            name,
            _number(found["program_bytes"], 1e-6),
            _number(found["flops"], 1e-9),
            _number(found["flops_of_plain_convolutions"], 1e-9),
            _bound(found) + _number(found["bytes"], 1e-9),
            _number(found["flops_per_second"], 1e-9),
            _bound(found) + _number(found["floor_seconds"]),
            _percent(found["fraction_of_floor"]),
            _number(found["floor_seconds_compute"]),
            _percent(found["fraction_of_compute_floor"]),
        ]
        for name, found in rows.items()
    ]
    floors = ["floor, s", "floor / ours", "compute floor, s", "compute floor / ours"]
    return tables.aligned(["iteration of", "MB", "GFLOP", "plain", "GB", "GFLOP/s", *floors], lines)


def _training(record: dict[str, Any]) -> str:
    """Tabulates how fast models train."""
    lines = []
    for name, found in record["training"].items():
        rate = found["steps_per_second"]
        texts = [_number(rate["median"]), _quartiles(rate), _number(found["compile_seconds"])]
        lines.append([name, _batch(found), *texts])
    return tables.aligned(["training", "batch", "steps/s", "quartiles", "compile, s"], lines)


def _batch(found: dict[str, Any]) -> str:
    return "{} of {}x{}".format(found["batch_size"], *found["grid"])


def _bound(found: dict[str, Any]) -> str:
    """Marks what follows from an upper count of bytes."""
    return "<= " if found["bytes_of"] == speed_peaks.OPERATIONS else ""


def _number(value: float | None, unit: float = 1.0) -> str:
    return "–" if value is None else f"{value * unit:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _quartiles(found: dict[str, float]) -> str:
    return f"[{_number(found['lower'])}, {_number(found['upper'])}]"
