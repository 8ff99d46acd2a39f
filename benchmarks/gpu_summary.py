"""What the records of benchmarks/gpu.py say, a line a phase.

python benchmarks/gpu_summary.py runs/gpu/all.json
"""

import json
import pathlib
import sys
from typing import Any

INCOMPLETE = "incomplete"  # what a comparison with PyTorch has not measured as often as asked
DEFAULT, ROUNDED = "restoration_tensorfloat32", "restoration_bfloat16"  # phases that levers are set beside


def summary(phases: dict[str, dict[str, Any]]) -> str:
    """Seconds, fate and main figures of phases, by name, as text."""
    lines = [f"{'phase':28}{'s':>7}  what came of it"]
    for name, phase in phases.items():
        told = [phase["fault"], *figures(phase["record"] or {}), *warnings(phase["said"])]
        default = ROUNDED if name.endswith("bfloat16") else DEFAULT
        if name.startswith("lever_") and (beside := _first(phases, default)) and (own := _first(phases, name)):
            told.append(f"{own / beside:.2f} of {default}")
        lines.append(f"{name:28}{phase['seconds']:7.1f}  {'; '.join(filter(None, told))}")
    lines.append(f"{'together':28}{sum(phase['seconds'] for phase in phases.values()):7.1f}")
    return "\n".join(lines)


def figures(record: dict[str, Any]) -> list[str]:
    """The main figures of a record: of lgjax.bench, of convolutions, of comparisons with PyTorch and of maps."""
    found = []
    for name, method in record.get("methods", {}).items():
        iteration = method["seconds_per_iteration"]
        texts = [f"{1e3 * iteration['median']:.3g} ms"] if iteration else []
        texts += [f"paper / ours {method['paper_over_ours']:.3g}"] if method["paper_over_ours"] else []
        texts += [f"{100 * share:.0f} % of the floor"] if (share := method.get("fraction_of_floor")) else []
        found.append(", ".join([f"{name}: {method['volume']['seconds']:.3g} s a volume", *texts]))
    for name, training in record.get("training", {}).items():
        found.append(f"training of {name} {training['steps_per_second']['median']:.3g} steps/s")
    if maps := record.get("differences"):
        found.append(f"maps differ by {max(each['restored'] for each in maps.values()):.1e} standard deviations")
    for what, kinds in record.get("medians", {}).items():
        found.append(f"{what}: lgjax / flax {kinds['lgjax'] / kinds['flax']:.2f}")
    for table in record.values():
        if isinstance(table, dict) and "layers" in table:
            other = sum(layer["form"] != "plain" for layer in table["layers"])
            left = table["about"]["not measured"]
            found.append(
                f"{len(table['layers'])} convolutions measured, {other} of them not plain; {left} not measured"
            )
    found += [f"incomplete: {what}" for what in record.get(INCOMPLETE, ())]
    parts = record.get("precisions", {record.get("precision", "float32"): record})
    for precision, part in parts.items():
        for name, key in (("lgjax", "ratios"), ("lgjax as one graph", "graph_ratios")):
            for method, ratio in part.get(key, {}).items():
                found.append(f"{method}, {precision}: {name} / {part['best'][method]} {ratio:.2f}")
    return found


def warnings(lines: list[str]) -> list[str]:
    """What a phase warned of: of a form that was refused, for instance."""
    return [line for line in lines if line.startswith("warning: ")]


def _first(phases: dict[str, dict[str, Any]], name: str) -> float | None:
    """Seconds an iteration of the first method of a phase's record."""
    record = phases.get(name, {}).get("record") or {}
    methods = list(record.get("methods", {}).values())
    return methods[0]["seconds_per_iteration"]["median"] if methods else None


if __name__ == "__main__":
    whole = json.loads(pathlib.Path(sys.argv[1]).read_text())
    print("\n".join(f"{name}: {value}" for name, value in whole["measured_on"].items()))
    print(summary(whole["phases"]))
