"""The record of a comparison: the seconds of all modes, what they make as ratios, and what is not measured yet."""

import json
import pathlib

import numpy as np

from lgjax.runtime.files import atomic_write

OURS = {"lgjax": "ratios", "lgjax_graph": "graph_ratios"}  # our modes, and where their ratios stand
Samples = dict[str, dict[str, list[float]]]  # seconds of an iteration, by method and mode


class Record:
    """What a run says, written anew after every turn."""

    def __init__(self, path: pathlib.Path, about: dict, methods, precisions, repeats: int):
        """Takes what the run says whatever is timed, and what it is to time."""
        self.path, self.about, self.methods, self.repeats = path, about, methods, repeats
        self.samples: dict[str, Samples] = {precision: {} for precision in precisions}
        self.faults: list[str] = []

    def tell(self, text: str) -> None:
        """Notes what failed."""
        print(f"error: {text}", flush=True)
        self.faults.append(text)

    def note(self, method: str, precision: str, samples: dict[str, list[float]], threads: dict[str, int]) -> None:
        """Notes the turns so far of a method in a precision, and writes the file."""
        self.samples[precision][method] = samples
        self.about["threads"] = threads
        self.write()

    def write(self) -> None:
        """Writes the file."""
        left = incomplete(self.samples, self.methods, self.repeats)
        whole = self.about | results(self.samples) | {"incomplete": left, "faults": self.faults}
        atomic_write(self.path, json.dumps(whole, indent=1) + "\n")


def incomplete(samples: dict[str, Samples], methods, repeats: int) -> list[str]:
    """Methods and precisions of which lgjax has fewer runs than asked, or none."""
    return [
        f"{method}, {precision}"
        for precision, found in samples.items()
        for method in methods
        if len(found.get(method, {}).get("lgjax", ())) < repeats
    ]


def results(samples: dict[str, Samples]) -> dict:
    """What `summarise` says of one precision; of several, by precision."""
    found = {precision: summarise(methods) for precision, methods in samples.items()}
    if len(found) == 1:
        ((precision, of_one),) = found.items()
        return {"precision": precision, **of_one}
    return {"precisions": found}


def summarise(samples: dict[str, dict[str, list[float]]]) -> dict:
    """Ratios, and the fastest mode of PyTorch, by method where PyTorch has one, beside the samples.

    `ratios` are those of lgjax as everybody gets it, `graph_ratios` those of a restoration as one CUDA graph.
    """
    ratios, best = {mode: {} for mode in OURS}, {}
    for method, modes in samples.items():
        medians = {mode: float(np.median(seconds)) for mode, seconds in modes.items()}
        if peers := {mode: seconds for mode, seconds in medians.items() if mode not in OURS}:
            best[method] = min(peers, key=peers.get)
            for mode in OURS.keys() & medians.keys():
                ratios[mode][method] = medians[mode] / peers[best[method]]
    found = {name: ratios[mode] for mode, name in OURS.items() if mode == "lgjax" or ratios[mode]}
    return {**found, "best": best, "samples": samples}


def table(samples: dict[str, dict[str, list[float]]]) -> str:
    """Milliseconds an iteration, and how lgjax compares, by method and mode."""
    lines = [f"{'method':18}{'mode':36}{'ms / iteration: median':>24}{'least':>10}{'lgjax / it':>12}"]
    for method, modes in samples.items():
        for mode, seconds in modes.items():
            median, ratio = np.median(seconds), np.median(modes["lgjax"]) / np.median(seconds)
            lines.append(f"{method:18}{mode:36}{1e3 * median:24.3f}{1e3 * min(seconds):10.3f}{ratio:12.2f}")
    return "\n".join(lines)
