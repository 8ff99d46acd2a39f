"""Runs of both sides in turns, whose restored slices are compared in float32 before the clock is looked at."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from agreement import CHECKED_ITERATIONS, RESTORED_TOLERANCE, at, make_slices, typical_difference
from remote import RemoteFault

PAUSE = 0.1  # seconds between runs, in which the other side's threads fall asleep
Tell = Callable[[str], None]


def measure(
    config, ours, theirs, variables, method: str, precisions, modes, repeats: int, tell: Tell
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Yields each precision in which lgjax runs, with the seconds per iteration of every mode, after every turn.

    A mode that fails, or that in float32 does not restore to what lgjax restores to, is told and left out from there.
    Where float32 is not timed, it is compared after few iterations and where no neighbours change: see `agreement`.

    Args:
      config: of the experiment.
      ours, theirs: the sides.
      variables: of both.
      method: of restoration, or `vae_train`.
      precisions: to time.
      modes: of PyTorch; none: all.
      repeats: runs of each.
      tell: takes what failed or differs.
    """
    sides = dict.fromkeys(ours.modes(method), ours)
    sides |= {mode: theirs for mode in theirs.modes(method) if not modes or mode in modes}
    compared = () if method == "vae_train" else ("float32",)
    for precision in dict.fromkeys((*compared, *precisions)):
        here = at(config, precision)
        if not (timed := precision in precisions):
            here.restore.iterations = CHECKED_ITERATIONS
        told = _under(f"{method}, {precision}", tell)
        slices = make_slices(here, here.restore.batch_size, isolated=not timed)
        maps = prepare(here, sides, variables, method, slices, told)
        if precision in compared:
            maps = alike(maps, slices[1], told)
            sides = {mode: sides[mode] for mode in maps}
        if timed and "lgjax" in maps:
            for samples in sample({mode: sides[mode] for mode in maps}, repeats, here.restore.iterations, told):
                yield precision, samples
        _clear(ours, theirs)


def prepare(config, sides: dict, variables, method: str, slices, tell: Tell) -> dict[str, np.ndarray | None]:
    """Compiles every mode and runs it once: what it restores to, for those that do not fail."""
    maps = {}
    for mode, side in sides.items():
        print(f"{method}, {config.restore.precision}: preparing {mode}", flush=True)
        try:
            maps[mode] = side.prepare(config, variables, method, mode, slices)
        except RemoteFault as fault:
            tell(f"{mode}: {fault}")
    return maps


def alike(maps: dict[str, np.ndarray], mask, tell: Tell) -> dict[str, np.ndarray]:
    """The maps of lgjax and of those modes that restore to the same; none without lgjax's."""
    kept = {}
    for mode, restored in maps.items() if "lgjax" in maps else ():
        typical = typical_difference(maps["lgjax"], restored, mask)
        if typical <= RESTORED_TOLERANCE:
            kept[mode] = restored
        else:
            tell(f"{mode}: half of the pixels differ from lgjax's by more than {typical:.2g}")
    return kept


def sample(sides: dict, repeats: int, iterations: int, tell: Tell) -> Iterator[dict[str, list[float]]]:
    """Yields the seconds per iteration of every mode after each turn, in which each mode runs once.

    A mode that fails is told and left out; where lgjax fails, the turns end.
    """
    samples = {mode: [] for mode in sides}
    for _ in range(repeats):
        for mode in list(samples):
            time.sleep(PAUSE)
            try:
                samples[mode].append(sides[mode].sample(mode) / iterations)
            except RemoteFault as fault:
                tell(f"{mode}: {fault}")
                del samples[mode]
        if "lgjax" not in samples:
            return
        yield {mode: seconds.copy() for mode, seconds in samples.items()}


def _under(heading: str, tell: Tell) -> Tell:
    """Tells with a heading."""
    return lambda text: tell(f"{heading}, {text}")


def _clear(*sides) -> None:
    """Lets each side forget what was prepared; one that has ended has nothing to forget."""
    for side in sides:
        try:
            side.clear()
        except RemoteFault as fault:
            print(f"not cleared: {fault}", flush=True)
