"""What the records of benchmarks/gpu.py say, a line a phase."""

import json
import pathlib
from typing import Any


def summary(folder: pathlib.Path, outcomes: dict[str, dict[str, Any]]) -> str:
    """Seconds, fate and main figures of phases, by name, as text."""
    default = _first(folder, "lever_default")
    lines = [f"{'phase':28}{'s':>7}  what came of it"]
    for name, outcome in outcomes.items():
        record = _record(folder, name)
        told = [outcome["fault"], *figures(record), *warnings(folder / f"{name}.log")]
        if name.startswith("lever_") and default and (own := _first(folder, name)):
            told.append(f"{own / default:.2f} of default")
        lines.append(f"{name:28}{outcome['seconds']:7.1f}  {'; '.join(filter(None, told))}")
    lines.append(f"{'together':28}{sum(outcome['seconds'] for outcome in outcomes.values()):7.1f}")
    return "\n".join(lines)


def figures(record: dict[str, Any]) -> list[str]:
    """The main figures of a record: of lgjax.bench, of the comparison with PyTorch, of that of maps."""
    found = []
    for name, method in record.get("methods", {}).items():
        iteration = method["seconds_per_iteration"]
        texts = [f"{1e3 * iteration['median']:.3g} ms"] if iteration else []
        texts += [f"paper / ours {method['paper_over_ours']:.0f}"] if method["paper_over_ours"] else []
        found.append(", ".join([f"{name}: {method['volume']['seconds']:.3g} s a volume", *texts]))
    for name, training in record.get("training", {}).items():
        found.append(f"training of {name} {training['steps_per_second']['median']:.3g} steps/s")
    if maps := record.get("differences"):
        found.append(f"maps differ by {max(each['restored'] for each in maps.values()):.1e} standard deviations")
    parts = record.get("precisions", {record.get("precision", "float32"): record})
    for precision, part in parts.items():
        for name, key in (("lgjax", "ratios"), ("lgjax as one graph", "graph_ratios")):
            for method, ratio in part.get(key, {}).items():
                found.append(f"{method}, {precision}: {name} / {part['best'][method]} {ratio:.2f}")
    return found


def warnings(log: pathlib.Path) -> list[str]:
    """What a phase warned of, once each: of a form that was refused, for instance."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines() if log.exists() else []
    return list(dict.fromkeys(line.strip() for line in lines if line.startswith("warning: ")))


def _record(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """The record of a phase, or what there is of it."""
    for path in (folder / f"{name}.json", folder / f"{name}.part.json"):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            continue
    return {}


def _first(folder: pathlib.Path, name: str) -> float | None:
    """Seconds an iteration of the first method of a record."""
    methods = list(_record(folder, name).get("methods", {}).values())
    return methods[0]["seconds_per_iteration"]["median"] if methods else None
