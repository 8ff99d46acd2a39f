"""Where a program's time goes: what a device spent longest in, by JAX's own profiler.

On a GPU, these are kernels: what the streams of the device ran. What the host did meanwhile counts nothing, even where
the host names operations of XLA. CUDA graphs are off in a profile.
On CPU, these are operations of XLA, each from its start to its end, others beside it or not.
"""

import collections
import itertools
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from lgjax.report import tables
from lgjax.runtime.counting import counted

LONGEST = 20  # kernels that are listed
NAME, SCOPE = 50, 70  # characters that are shown of a kernel's name, and of what asks for it
CONTROL = re.compile(r"(while|call|conditional|cond)(\.\w+)*$")  # what runs other operations
END = "end: "  # of an operation, on CPU
KERNELS = "kernels"
OPERATIONS = "operations of XLA on CPU, each from its start to its end, others beside it or not"


class Kernel(NamedTuple):
    """All runs of one kernel, or of one operation on CPU."""

    module: str  # of XLA: the program; "" where the profile names none
    operation: str  # of XLA; "" where the profile names none
    name: str
    runs: int
    seconds: float  # of all of them


class Profile(NamedTuple):
    """Where the time of a run went."""

    what: str  # KERNELS or OPERATIONS
    kernels: list[Kernel]  # the longest first
    iterations: int  # of the run


class Run(NamedTuple):
    """One run of a kernel."""

    module: str
    operation: str
    name: str
    nanoseconds: float


def of(run: Callable[[], Any], mesh: jax.sharding.Mesh, iterations: int) -> Profile:
    """Runs some iterations on the devices of a mesh under the profiler.

    Raises:
      LookupError: the profiler saw nothing that the devices ran.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(run())
        found = [jax.profiler.ProfileData.from_file(str(path)) for path in pathlib.Path(folder).rglob("*.xplane.pb")]
        planes = [plane for data in found for plane in data.planes]
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        return Profile(OPERATIONS if on_cpu else KERNELS, kernels(planes, on_cpu), iterations)


def kernels(planes: Iterable[Any], on_cpu: bool) -> list[Kernel]:
    """Adds up what all devices ran, the longest first.

    Args:
      planes: of a `ProfileData`.
      on_cpu: whether the devices are the host itself; others have planes of their own.

    Raises:
      LookupError: there is nothing that they ran.
    """
    seconds: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    for run in _of_operations(planes) if on_cpu else _of_streams(planes):
        seconds[run[:3]].append(run.nanoseconds * 1e-9)
    if not seconds:
        raise LookupError("the profiler saw nothing that a device ran")
    found = [Kernel(*names, len(taken), sum(taken)) for names, taken in seconds.items()]
    return sorted(found, key=lambda kernel: -kernel.seconds)


def _of_streams(planes: Iterable[Any]) -> Iterator[Run]:
    """Yields every kernel that a stream of a device ran; the other lines of a device repeat the streams."""
    lines = (line for plane in planes if plane.name.startswith("/device:") for line in plane.lines)
    for event in (event for line in lines if line.name.startswith("Stream") for event in line.events):
        yield _run(event, event.duration_ns)


def _of_operations(planes: Iterable[Any]) -> Iterator[Run]:
    """Yields every operation that a CPU ran.

    An operation may go on in other threads when its own event is over, and says so by an event at its end. That end is
    of the last operation of the name that has begun and not ended: where an end is lost, no later one stands for it.
    """
    lines = (line for plane in planes if plane.name.startswith("/host:CPU") for line in plane.lines)
    begun: dict[str, list[Any]] = collections.defaultdict(list)
    for event in sorted((event for line in lines for event in line.events), key=_ends_first):
        if not event.name.startswith(END):
            if "hlo_op" in dict(event.stats) and not CONTROL.match(event.name):
                begun[event.name].append(event)
        elif waiting := begun[event.name.removeprefix(END)]:
            first = waiting.pop()
            yield _run(first, max(first.duration_ns, event.start_ns - first.start_ns))
    for event in itertools.chain.from_iterable(begun.values()):
        yield _run(event, event.duration_ns)


def _ends_first(event: Any) -> tuple[float, bool]:
    """Sorts events by time, ends before what begins at the same time."""
    return event.start_ns, not event.name.startswith(END)


def _run(event: Any, nanoseconds: float) -> Run:
    """Returns the run of a kernel, with what the event says of XLA."""
    told = dict(event.stats)
    return Run(str(told.get("hlo_module", "")), str(told.get("hlo_op", "")), event.name, nanoseconds)


def as_json(found: Profile, module: str, scopes: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a record keeps of a profile: the longest kernels, with their share of the seconds of all.

    Args:
      found: from `of`.
      module: the program that was profiled; other ones may have run beside it.
      scopes: what asks for each operation of the program, see `hlo.scopes`.
    """
    total = sum(kernel.seconds for kernel in found.kernels)

    def line(kernel: Kernel) -> dict[str, Any]:
        asked = scopes.get(kernel.operation, "") if kernel.module in ("", module) else ""
        return {**kernel._asdict(), "share": kernel.seconds / total, "scope": asked}

    return {
        "what": found.what,
        "iterations": found.iterations,
        "kernels": len(found.kernels),
        "seconds": total,
        "longest": [line(kernel) for kernel in found.kernels[:LONGEST]],
    }


def markdown(name: str, profile: dict[str, Any]) -> str:
    """Tabulates a profile from `as_json`, or says why there is none."""
    if "fault" in profile:
        return f"{name}: no profile: {profile['fault']}"
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
        f"{name}: {profile['kernels']} {profile['what']}: {1e3 * profile['seconds']:.4g} ms in "
        f"{counted(profile['iterations'], 'iteration')}. The {len(lines)} longest, and the end of what asks for each:"
    )
    return f"{head}\n\n{tables.aligned(['name', 'share', 'runs', 'mean, us', 'asked by'], lines)}"
