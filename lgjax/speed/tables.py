"""What a benchmark tells: the tables of a record, as text that is valid Markdown."""

from typing import Any

from lgjax.report import tables
from lgjax.speed import profile, programs

NOTES = (
    "s/iteration: of one batch (of methods of volumes: of one volume), the slope between a short and a long run of the "
    "compiled program, so that what a run does once (starting, transfers) does not count. s/volume is measured on "
    "whole volumes where the long run makes all iterations, and where a method has none; otherwise it is computed from "
    "the long run and the slope. Batches are full, the last one padded; compilation and the preparation of the scan "
    "are left out. The solver of a method is Adam where no other one is named (the restorer's: proximal).",
    "GFLOP: floating-point operations of the program as written, counted as XLA does, on every device alike (a padded "
    "product is none). plain: the same with plain convolutions, without the zeros that put them into blocks of pixels. "
    "GB: what the kernels of the compiled program read and write, in a loop as often as it turns; more than a perfect "
    "program needs, and on CPU most of it comes from a cache. (Where the program's text does not tell: what all "
    "operations of the program as written do, an upper count, marked <=.) So the floor, max(GFLOP / best matrix "
    "product, GB / bandwidth), belongs to this program, and only the compute floor holds for every program of the same "
    "operations. MB: arguments, results and what lies between, on each device.",
)
BESIDE_PAPER = (
    "paper, s: seconds per iteration on a Titan X, Table 1 of Chen et al. 2019; the batch size is not stated in the "
    "paper (the authors' code restores 64 slices of 128x128 at a time)."
)
OTHER_SIZE = "These are not the paper's networks and slices: its seconds are not set beside ours."


def markdown(record: dict[str, Any]) -> str:
    """Returns the tables of a record, aligned for a terminal and valid as Markdown."""
    versions, peaks = record["versions"], record["peaks"]
    head = (
        f"Measured on {versions['device']}, lgjax {versions['lgjax']}, jax {versions['jax']}, {versions['date']}, in "
        f"{record['config']['precision']}: {record['config']['repeats']} times in turn, median and quartiles. Random "
        f"weights, synthetic slices: neither changes the work. Best rates of this device in this run: "
        f"{peaks['flops'] / 1e9:.4g} GFLOP/s (product of matrices), {peaks['bytes'] / 1e9:.4g} GB/s."
    )
    beside = BESIDE_PAPER if record["config"]["as_paper"] else OTHER_SIZE
    parts = [head, _times(record), beside, _programs(record), *_trainings(record), *NOTES, *_profiles(record)]
    parts += [f"Not complete: {what}." for what in record.get("incomplete", ())]
    return "\n\n".join(parts)


def _times(record: dict[str, Any]) -> str:
    """Tabulates how long methods take: an iteration, and a volume."""
    lines = []
    for name, found in record["methods"].items():
        seconds = found["seconds_per_iteration"]
        lines.append(
            [
                name,
                _batch(found),
                _number(found["iterations"]),
                _number(seconds and seconds["median"]),
                _quartiles(seconds),
                _number(found["paper_seconds"]),
                _number(found["paper_over_ours"]),
                _number(found["volume"]["seconds"]),
                "computed" if "computed_from" in found["volume"] else "measured",
                _number(found["compile_seconds"]),
            ]
        )
    volume = f"s/volume of {record['config']['volume_slices']}"
    head = ["method", "batch", "iterations", "s/iteration", "quartiles", "paper, s", "paper / ours", volume, "volume"]
    return tables.aligned([*head, "compile, s"], lines)


def _programs(record: dict[str, Any]) -> str:
    """Tabulates what iterations and training steps take of the device."""
    lines = [
        [
            name if found.get("iterations", 1) else f"{name}, a volume",
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
        for name, found in _rows(record).items()
    ]
    floors = ["floor, s", "floor / ours", "compute floor, s", "compute floor / ours"]
    return tables.aligned(["iteration of", "MB", "GFLOP", "plain", "GB", "GFLOP/s", *floors], lines)


def _trainings(record: dict[str, Any]) -> list[str]:
    """Tabulates how fast models train, if any was timed."""
    lines = []
    for name, found in record["training"].items():
        rate = found["steps_per_second"]
        texts = [_number(rate["median"]), _quartiles(rate), _number(found["compile_seconds"])]
        lines.append([name, _batch(found), *texts])
    return [tables.aligned(["training", "batch", "steps/s", "quartiles", "compile, s"], lines)] * bool(lines)


def _profiles(record: dict[str, Any]) -> list[str]:
    """Tabulates all that was profiled."""
    return [profile.markdown(name, found["profile"]) for name, found in _rows(record).items() if "profile" in found]


def _rows(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns all that was measured, by name."""
    return {**record["methods"], **{f"training of {name}": found for name, found in record["training"].items()}}


def _batch(found: dict[str, Any]) -> str:
    return "{} of {}x{}".format(found["batch_size"], *found["grid"])


def _bound(found: dict[str, Any]) -> str:
    """Marks what follows from an upper count of bytes."""
    return "<= " if found["bytes_of"] == programs.OPERATIONS else ""


def _number(value: float | None, unit: float = 1.0) -> str:
    return "–" if value is None else f"{value * unit:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _quartiles(found: dict[str, float] | None) -> str:
    return "–" if found is None else f"[{_number(found['lower'])}, {_number(found['upper'])}]"
