"""Where a program's time goes: the kernels that a device spent longest in, by JAX's own profiler.

On a GPU, a kernel is what a stream ran for an operation of XLA; CUDA graphs are off in a profile.
On CPU, a kernel is an operation of XLA from its start to its end, others beside it or not.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from lgjax.report import tables

LONGEST = 20  # kernels that are listed
NAME, SCOPE = 50, 70  # characters that are shown of a kernel's name, and of what asks for it
CONTROL = re.compile(r"(while|call|conditional|cond)(\.\d+)*$")  # what runs other operations
END = "end: "  # of an operation, on CPU


class Kernel(NamedTuple):
    """All runs of one kernel."""

    operation: str  # of XLA; "" where the profile names none
    name: str
    runs: int
    seconds: float  # of all of them


def of(run: Callable[[], Any]) -> list[Kernel]:
    """Runs something under the profiler; returns its kernels, the longest first."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(run())
        found = [jax.profiler.ProfileData.from_file(str(path)) for path in pathlib.Path(folder).rglob("*.xplane.pb")]
        return kernels(plane for data in found for plane in data.planes)


def kernels(planes: Iterable[Any]) -> list[Kernel]:
    """Adds up the kernels of all devices, the longest first.

    Args:
      planes: of a `ProfileData`.
    """
    planes = list(planes)
    runs = list(_of_streams(planes)) or list(_of_operations(planes))
    seconds: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for operation, name, taken in runs:
        seconds[operation, name].append(taken * 1e-9)
    found = [Kernel(*names, len(taken), sum(taken)) for names, taken in seconds.items()]
    return sorted(found, key=lambda kernel: -kernel.seconds)


def _of_streams(planes: Iterable[Any]) -> Iterator[tuple[str, str, float]]:
    """Yields operation and name of every kernel that a stream of a GPU ran, and the nanoseconds that it took."""
    lines = (line for plane in planes if plane.name.startswith("/device:GPU") for line in plane.lines)
    for line in lines:
        if line.name.startswith("Stream"):
            for event in line.events:
                yield str(dict(event.stats).get("hlo_op", "")), event.name, event.duration_ns


def _of_operations(planes: Iterable[Any]) -> Iterator[tuple[str, str, float]]:
    """Yields every operation that a CPU ran, as its own kernel, and the nanoseconds from its start to its end.

    An operation may go on in other threads when its own event is over, and says so by an event at its end.
    """
    begun: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    ended: dict[str, list[float]] = collections.defaultdict(list)
    for event in (event for plane in planes for line in plane.lines for event in line.events):
        if event.name.startswith(END):
            ended[event.name.removeprefix(END)].append(event.start_ns)
        elif "hlo_op" in dict(event.stats) and not CONTROL.match(event.name):
            begun[event.name].append((event.start_ns, event.duration_ns))
    for name, starts in begun.items():
        ends = sorted(ended[name])
        for start, duration in sorted(starts):
            while ends and ends[0] < start:
                ends.pop(0)
            yield name, name, max(duration, ends.pop(0) - start if ends else 0)


def as_json(found: list[Kernel], iterations: int, scopes: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a record keeps of a profile: the longest kernels, with their share of the seconds of all.

    Args:
      found: from `of`.
      iterations: that were profiled.
      scopes: what asks for each operation, see `hlo.scopes`.
    """
    total = sum(kernel.seconds for kernel in found)
    longest = [
        {**kernel._asdict(), "share": kernel.seconds / total, "scope": scopes.get(kernel.operation, "")}
        for kernel in found[:LONGEST]
    ]
    return {"iterations": iterations, "kernels": len(found), "seconds": total, "longest": longest}


def markdown(name: str, profile: dict[str, Any]) -> str:
    """Tabulates a profile from `as_json`."""
    lines = [
        [
            one["name"][:NAME],
            f"{100 * one['share']:.1f} %",
            str(one["runs"]),
            f"{1e6 * one['seconds'] / one['runs']:.4g}",
            one["scope"][-SCOPE:],
        ]
        for one in profile["longest"]
    ]
    head = (
        f"{name}: {profile['kernels']} kernels, {1e3 * profile['seconds']:.4g} ms in {profile['iterations']} "
        f"iterations. The {len(lines)} longest, and the end of what asks for each:"
    )
    return f"{head}\n\n{tables.aligned(['kernel', 'share', 'runs', 'mean, us', 'asked by'], lines)}"
