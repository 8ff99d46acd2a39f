"""What a training tells while it runs: loss terms in metrics.jsonl, as TensorBoard scalars and as curves."""

import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lgjax.runtime import files, hosts
from lgjax.scans import pictures
from lgjax.training.scalars import Scalars

_HELD_OUT = "validation_"  # before a term of held-out slices
_PANELS = {"learning_rate": "learning rate", "steps_per_second": "steps per second"}  # beside those of loss terms


class Log:
    """Loss terms of every step, of held-out slices at some; only the first of several hosts writes them.

    A line of metrics.jsonl holds the step; the terms' means over the steps since the line before; `learning_rate`, of
    the last of these; `steps_per_second` of wall time since the line before, with what else was done then, such as
    compiling and writing a checkpoint; and where there was a validation, its terms as `validation_<term>`. A value
    that is not finite is null.
    """

    def __init__(self, workdir: pathlib.Path, start: int):
        """Keeps what was logged up to step `start`; later lines belong to a part that is now trained again."""
        self.path, self.picture = workdir / "metrics.jsonl", workdir / "curves.png"
        self.loss = math.nan
        self.board = None
        self.lines: list[dict[str, Any]] = []
        self._last = start, time.monotonic()
        if not hosts.is_first_host():
            return
        if start and self.path.exists():
            entries = (json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}"))
            self.lines = [entry for entry in entries if entry["step"] <= start]
        files.atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self.board = Scalars(workdir / "tensorboard", start)

    def write(
        self, step: int, terms: Sequence[dict], learning_rate: float, held_out: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Logs the mean of the steps since the last call and returns it.

        Args:
          step: the last one's number.
          terms: loss terms of one step each, or of several.
          learning_rate: of the last step.
          held_out: loss terms of held-out slices.
        """
        values = jax.device_get(terms)
        means = {name: float(np.hstack([v[name] for v in values]).mean(dtype=np.float64)) for name in values[0]}
        self.loss = means["loss"]
        (before, then), self._last = self._last, (step, time.monotonic())
        speed = (step - before) / (self._last[1] - then)
        if self.board:
            about = {"learning_rate": learning_rate, "steps_per_second": speed}
            validation = {f"{_HELD_OUT}{name}": value for name, value in (held_out or {}).items()}
            self._add(self.board, step, {**means, **about, **validation})
        return means

    def _add(self, board: Scalars, step: int, found: dict[str, float]) -> None:
        """Writes a line, and its values as scalars."""
        finite = {name: value if math.isfinite(value) else None for name, value in found.items()}
        self.lines.append({"step": step, **finite})
        with open(self.path, "a") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")
        for name, value in finite.items():
            if value is not None:
                board.add(name.replace(_HELD_OUT, "validation/"), value, step)

    def draw(self, best: int | None) -> None:
        """Draws the curves of all that was logged into curves.png, and marks the best step."""
        if self.board:
            files.atomic_write(self.picture, pictures.curves_figure(self.curves(), best))

    def curves(self) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
        """Returns the panels of curves.png: by name, then by who was seen, steps and values."""
        names = dict.fromkeys(["loss", *(name for line in self.lines for name in line if name != "step")])
        panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        for name in names:
            term = name.removeprefix(_HELD_OUT)
            seen = [(line["step"], line[name]) for line in self.lines if line.get(name) is not None]
            label = "training" if name == term else "held out"
            panels.setdefault(_PANELS.get(term, term), {})[label] = [s for s, _ in seen], [value for _, value in seen]
        return panels

    def close(self) -> None:
        """Closes the log of TensorBoard, where there is one."""
        if self.board:
            self.board.close()
