"""Predicts from benchmarks/cuda_programs.json how long the programs take on a GPU: tables in Markdown.

    python benchmarks/cuda_tables.py [--runs before main]

The laws of benchmarks/cuda_model.py are fitted to what was measured once (benchmarks/bench_h200.json), with the kernels
of that commit (`MEASURED`). All else is a prediction: nothing in the tables but the measured times was ever timed.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import cuda_kernels
from benchmarks import cuda_model as model
from benchmarks.cuda_model import Fit, Peaks, Times
from lgjax.report import tables

FOLDER = pathlib.Path(__file__).parent
MEASURED, PRECISION = "before", "tensorfloat32"  # the run and the precision whose times were measured
BEST = "each"  # the law with the smallest errors
TRAINING = "training of vae"
MEANINGS = {
    "sum": "launches and least times add: a sum r + b n",
    "each": "a kernel takes a r, but no less than b",
    "host": "host or device is the slower one: max(a sum r, b n)",
}


def measured(bench: Mapping[str, Any]) -> dict[str, float]:
    """Returns the seconds of an iteration or a step, by program, from benchmarks/bench_h200.json."""
    found = {name: each["seconds_per_iteration"]["median"] for name, each in bench["methods"].items()}
    return found | {TRAINING: 1 / bench["training"]["vae"]["steps_per_second"]["median"]}


def times(found: Mapping[str, Any], peaks: Peaks, precision: str) -> Times:
    """Returns the times of a program in the record."""
    return model.times(cuda_kernels.read(found["kernels"]), peaks, precision)


def fits(record: Mapping[str, Any], peaks: Peaks, seconds: Mapping[str, float]) -> dict[str, Fit]:
    """Fits every law to what was measured."""
    programs = record["runs"][MEASURED]["programs"]
    known = {name: times(programs[name][PRECISION], peaks, PRECISION) for name in seconds}
    return {name: model.fit(law, known, seconds) for name, law in model.LAWS.items()}


def laws(found: Mapping[str, Fit], names: Sequence[str]) -> str:
    """Tabulates the fits and their errors."""
    lines = [
        [
            MEANINGS[law],
            f"{one.factor:.2f}",
            f"{one.fixed * 1e6:.1f}",
            *(
                f"{round(100 * error):+d} ({round(100 * unseen):+d})"
                for error, unseen in zip(one.errors, one.unseen, strict=True)
            ),
        ]
        for law, one in found.items()
    ]
    return tables.aligned(["law", "a", "b, µs", *(f"{name}, %" for name in names)], lines)


def predicted(found: Mapping[str, Fit], each: Times, captured: bool) -> str:
    """Returns the milliseconds that the laws predict: the least and the most, before them those of the law `BEST`.

    What launches cost within a CUDA graph was never measured: at least nothing, at most what they cost outside.
    """
    seconds = {law: model.LAWS[law](each, one.fixed, one.factor) for law, one in found.items()}
    free = [one.factor * each.floor for one in found.values()] if captured else []
    span = f"{1e3 * min([*seconds.values(), *free]):.2f}–{1e3 * max(seconds.values()):.2f}"
    return span if captured else f"{1e3 * seconds[BEST]:.2f} ({span})"


def programs(record: Mapping[str, Any], runs: Sequence[str], peaks: Peaks, found: Mapping[str, Fit]) -> str:
    """Tabulates kernels, bytes, operations, the floor and the predicted time of every program, runs side by side."""
    lines = []
    counted = [record["runs"][run]["programs"] for run in runs]
    for name in dict.fromkeys(name for each in counted for name in each):
        for precision in dict.fromkeys(precision for each in counted for precision in each.get(name, {})):
            told = [each.get(name, {}).get(precision) for each in counted]
            columns = [_cells(one, precision, peaks, found) if one else ["–"] * 6 for one in told]
            lines.append([name, precision, *(" → ".join(cells) for cells in zip(*columns, strict=True))])
    head = ["kernels", "one CUDA graph", "GB", "GFLOP", "floor, ms", "predicted, ms"]
    return tables.aligned(["program", "precision", *head], lines)


def _cells(told: Mapping[str, Any], precision: str, peaks: Peaks, found: Mapping[str, Fit]) -> list[str]:
    kernels, each = cuda_kernels.read(told["kernels"]), times(told, peaks, precision)
    size, flops = (sum(one.times * getattr(one, of) for one in kernels) for of in ("bytes", "flops"))
    return [
        f"{each.launches:.4g}",
        "yes" if told["captured"] else "no",
        f"{size / 1e9:.3g}",
        f"{flops / 1e9:.3g}",
        f"{each.floor * 1e3:.2g}",
        predicted(found, each, told["captured"]),
    ]


def markdown(record: Mapping[str, Any], bench: Mapping[str, Any], runs: Sequence[str]) -> tuple[str, str]:
    """Returns the tables of the laws and of the programs.

    Args:
      record: benchmarks/cuda_programs.json.
      bench: benchmarks/bench_h200.json.
      runs: of the record, side by side.
    """
    peaks, seconds = Peaks(bench["peaks"]["bytes"], bench["peaks"]["flops"]), measured(bench)
    found = fits(record, peaks, seconds)
    return laws(found, list(seconds)), programs(record, runs, peaks, found)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default=FOLDER / "cuda_programs.json", type=pathlib.Path)
    parser.add_argument("--runs", nargs="+", help="runs of the record, side by side; default: all")
    chosen = parser.parse_args()
    record = json.loads(chosen.record.read_text())
    bench = json.loads((FOLDER / "bench_h200.json").read_text())
    print("\n\n".join(markdown(record, bench, chosen.runs or list(record["runs"]))))


if __name__ == "__main__":
    main()
