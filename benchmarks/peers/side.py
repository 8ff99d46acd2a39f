"""What both sides do alike: runs are prepared, each under the name of its mode, and timed when compare.py asks."""

import time
from collections.abc import Callable

import numpy as np


class Side:
    """The runs of one side, which says how they are made: `_restorer` and `_training_run` return them."""

    def __init__(self):
        self.runs: dict[str, Callable] = {}

    def prepare(self, config, variables, method: str, mode: str, slices) -> np.ndarray | None:
        """Compiles and runs what `sample` will time, a method or `vae_train`; the restored slices.

        Twice, since compilers may make a CUDA graph of a program at its second run: the slices are those of that one.
        """
        if method == "vae_train":
            run = self._training_run(config, variables, mode, slices)
        else:
            run = self._restorer(config, variables["frozen"], method, mode, slices)
        self.runs[mode] = run
        run()
        return run()

    def sample(self, mode: str) -> float:
        """Seconds of one run of what was prepared."""
        began = time.perf_counter()
        self.runs[mode]()
        return time.perf_counter() - began

    def clear(self) -> None:
        """Forgets what was prepared."""
        self.runs.clear()
