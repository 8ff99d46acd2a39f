"""Predicts from benchmarks/cuda_programs.json how long the programs take on a GPU: the tables of docs/speed.md.

    python benchmarks/cuda_tables.py            # writes them into the page, each behind its mark
    python benchmarks/cuda_tables.py --print    # prints them

The laws of benchmarks/cuda_model.py are fitted to what was measured once (benchmarks/bench_h200.json), with the kernels
of that commit (`MEASURED`). All else is a prediction: nothing in the tables but the measured times was ever timed.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import cuda_kernels, pages
from benchmarks import cuda_model as model
from benchmarks.cuda_model import Fit, Peaks, Times
from lgjax.report import tables
from lgjax.runtime import files

FOLDER = pathlib.Path(__file__).parent
PAGE, WRITER = FOLDER.parent / "docs" / "speed.md", "cuda_tables"
RUNS = ("before", "now", "graph")  # of the record, side by side in the table of programs
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
            columns = [_cells(one, precision, peaks, found) if one else ["–"] * 7 for one in told]
            lines.append([name, precision, *(" → ".join(cells) for cells in zip(*columns, strict=True))])
    head = ["kernels", "once a run", "one CUDA graph", "GB", "GFLOP", "floor, ms", "predicted, ms"]
    return tables.aligned(["program", "precision", *head], lines)


def _cells(told: Mapping[str, Any], precision: str, peaks: Peaks, found: Mapping[str, Fit]) -> list[str]:
    kernels, each = cuda_kernels.read(told["kernels"]), times(told, peaks, precision)
    size, flops = (sum(one.times * getattr(one, of) for one in kernels) for of in ("bytes", "flops"))
    return [
        f"{each.launches:.4g}",
        str(told.get("once", "–")),
        "yes" if told["captured"] else "no",
        f"{size / 1e9:.3g}",
        f"{flops / 1e9:.3g}",
        f"{each.floor * 1e3:.2g}",
        predicted(found, each, told["captured"]),
    ]


def shares(record: Mapping[str, Any], bench: Mapping[str, Any], peaks: Peaks) -> str:
    """Tabulates what was measured against the least that the bytes of all kernels take, libraries' calls included."""
    lines = []
    for name, seconds in measured(bench).items():
        kernels = cuda_kernels.read(record["runs"][MEASURED]["programs"][name][PRECISION]["kernels"])
        size = sum(one.times * one.bytes for one in kernels)
        ours = sum(one.times * one.bytes for one in kernels if one.kind not in cuda_kernels.LIBRARIES)
        found = bench["training"]["vae"] if name == TRAINING else bench["methods"][name]
        least = size / peaks.bytes
        row = [f"{1e3 * seconds:.2f}", *(f"{number / 1e9:.2f}" for number in (found["bytes"], ours, size))]
        lines.append([name, *row, f"{1e3 * least:.2f}", f"{round(100 * least / seconds)} %"])
    head = ["measured, ms", "GB by XLA", "GB without libraries", "GB", "GB at the peak, ms", "share"]
    return tables.aligned(["program", *head], lines)


def compared(record: Mapping[str, Any]) -> str:
    """Tabulates kernels and bytes with and without kernels of lgjax's own, in the precision that was measured."""
    with_own, without = (record["runs"][run]["programs"] for run in ("now", "unfused"))
    lines = [[name, *(_launched(run[name][PRECISION]) for run in (with_own, without))] for name in without]
    return tables.aligned(["an iteration of", "both kernels", "XLA's forms"], lines)


def _launched(told: Mapping[str, Any]) -> str:
    kernels = cuda_kernels.read(told["kernels"])
    count, size = sum(one.times for one in kernels), sum(one.times * one.bytes for one in kernels)
    return f"{count:.4g} kernels, {size / 1e9:.3g} GB"


def commits(record: Mapping[str, Any]) -> str:
    """Tabulates of which commit a run of the record is, and by which versions it was compiled."""
    lines = [[f"`{run}`", found["commit"], found["versions"]["jax"]] for run, found in record["runs"].items()]
    return tables.aligned(["run", "commit", "jax"], lines)


def markdown(record: Mapping[str, Any], bench: Mapping[str, Any], runs: Sequence[str] = RUNS) -> dict[str, str]:
    """Returns the tables of the page, by mark.

    Args:
      record: benchmarks/cuda_programs.json.
      bench: benchmarks/bench_h200.json.
      runs: of the record, side by side in the table of programs.
    """
    peaks, seconds = Peaks(bench["peaks"]["bytes"], bench["peaks"]["flops"]), measured(bench)
    found = fits(record, peaks, seconds)
    return {
        "laws": laws(found, list(seconds)),
        "runs": commits(record),
        "programs": programs(record, runs, peaks, found),
        "shares": shares(record, bench, peaks),
        "kernels of our own": compared(record),
    }


def main() -> None:
    """Writes or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default=FOLDER / "cuda_programs.json", type=pathlib.Path)
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    chosen = parser.parse_args()
    record, bench = (json.loads(path.read_text()) for path in (chosen.record, FOLDER / "bench_h200.json"))
    found = markdown(record, bench)
    if chosen.print:
        print("\n\n".join(found.values()))
    else:
        files.atomic_write(PAGE, pages.written(PAGE.read_text(encoding="utf-8"), WRITER, found))


if __name__ == "__main__":
    main()
