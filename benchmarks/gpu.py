"""Asks a GPU all that is to be known of speed there, in one go: the phases of benchmarks/gpu_phases.py.

    bash launch/gpu.sh bench                             # 8 minutes at most, into runs/gpu; again for what is left
    bash launch/gpu.sh bench --seconds=900               # 15 minutes at most
    bash launch/gpu.sh bench --device=cpu --smoke        # tiny sizes, into runs/tiny, to see that every phase works
    bash launch/gpu.sh bench --dry_run                   # prints the commands

Each phase is a process of its own, ended at its limit, and stops no other. DIR/all.json is written anew after each: it
holds all records, what an ended phase had measured too, and what they were measured on. Another device, version or
size wants another DIR. DIR/PHASE.log is what a phase printed, DIR/cache what compilers found out. The same command
again does what is left, first the phases that never began, and a phase begins only while half of its limit is left.
Exit codes: 0, all complete; 2, wrong words or DIR; 3, some phases are not complete; 4, no such device; 129, 130 and
143, signals.
"""

import argparse
import contextlib
import fnmatch
import importlib.util
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import gpu_records
from benchmarks.gpu_phases import AGREEMENT, OUTPUT, Phase, phases
from benchmarks.gpu_summary import summary
from lgjax.runtime import places
from lgjax.runtime.errors import EnvironmentFault, LgjaxError, UsageError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 480  # of all phases together, on a GPU
PATIENCE = {"gpu": 1, "cpu": 10}  # times all limits, unless --patience says another number
TUNED = "cache/lgjax/xla/xla_gpu_per_fusion_autotune_cache_dir"  # in the folder of the records, where JAX has it too
GRACE = 5  # seconds between SIGTERM and SIGKILL
MACHINE = Phase("machine", 60, ("benchmarks/gpu_machine.py", f"--output={OUTPUT}"))  # tells what is measured on


class Outcome(NamedTuple):
    """How a phase went: the keys of a phase in all.json."""

    command: str
    seconds: float = 0.0
    fault: str = ""  # in words; nothing: complete
    said: tuple[str, ...] = ()  # warnings, or the last lines of a phase that failed
    record: dict[str, Any] | None = None


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, help="folder of the records; default: runs/gpu, tiny: runs/tiny")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--only", default="*", help="phases, such as lever_*,profile; default: all")
    parser.add_argument("--seconds", type=float, help="of all phases together; default: 480, on cpu ten times as many")
    parser.add_argument("--patience", type=float, help="times the limits of phases; default: 1, on cpu 10")
    parser.add_argument("--again", action="store_true", help="repeats phases that are complete")
    parser.add_argument("--dry_run", action="store_true", help="prints the commands")
    options = parser.parse_args(words)
    options.output = options.output or pathlib.Path("runs/tiny" if options.smoke else "runs/gpu")
    options.seconds = options.seconds or SECONDS * PATIENCE[options.device]
    options.patience = options.patience or PATIENCE[options.device]
    return options


def chosen(options) -> list[Phase]:
    """The phases that were asked for.

    Raises:
      UsageError: a pattern fits none.
    """
    every, patterns = phases(options.device, options.smoke), options.only.split(",")
    for pattern in patterns:
        if not fnmatch.filter([phase.name for phase in every], pattern):
            names = ", ".join(phase.name for phase in every)
            raise UsageError(f"--only: no phase is called {pattern}. Choose among {names}.")
    found = [phase for phase in every if any(fnmatch.fnmatch(phase.name, pattern) for pattern in patterns)]
    return [phase._replace(limit=phase.limit * options.patience) for phase in found]


def python_of(phase: Phase) -> str:
    """The Python of a phase: this one, or for PyTorch the one that has it beside lgjax."""
    own = ROOT / "benchmarks" / "peers" / ".venv" / "bin" / "python"
    if phase.needs == "torch" and (given := os.environ.get("PEERS_PYTHON") or (str(own) if own.exists() else "")):
        return given
    return sys.executable


def lacking(phase: Phase) -> str:
    """What keeps a phase from running, in words."""
    if not phase.needs or python_of(phase) != sys.executable or importlib.util.find_spec(phase.needs):
        return ""
    return f"left out: there is no {phase.needs}; PEERS_PYTHON names a Python that has it and lgjax's needs"


def command(phase: Phase, output: pathlib.Path) -> list[str]:
    """The words of a phase that writes a file."""
    shared = str(output.with_name("agreement.json"))
    words = (word.replace(OUTPUT, str(output)).replace(AGREEMENT, shared) for word in phase.words)
    return [python_of(phase), *words]


def environment(phase: Phase, device: str, folder: pathlib.Path) -> dict[str, str]:
    """What a phase finds in its environment beside what is there.

    lgjax.bench compiles without JAX's cache, which keeps what XLA tuned: so XLA itself is told where to keep that.
    """
    cache = folder.resolve() / "cache"
    tuned = f"--xla_gpu_per_fusion_autotune_cache_dir={shlex.quote(str(folder.resolve() / TUNED))}"
    found = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "XLA_FLAGS": " ".join(filter(None, (os.environ.get("XLA_FLAGS"), tuned, phase.flags))),
        "XDG_CACHE_HOME": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }
    if device == "cpu":
        return {**found, "JAX_PLATFORMS": "cpu"}
    return {**found, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}


def shown(phase: Phase, folder: pathlib.Path, device: str) -> str:
    """A phase as a shell would take it."""
    values = [f"{name}={value}" for name, value in environment(phase, device, folder).items()]
    return shlex.join(["env", *values, "timeout", str(phase.limit), *command(phase, part(phase, folder))])


def noted(phase: Phase) -> str:
    """A phase as it is recorded: without places of this machine, and wherever its record lies."""
    return places.command([*(["env", f"XLA_FLAGS={phase.flags}"] if phase.flags else []), "python", *phase.words])


def part(phase: Phase, folder: pathlib.Path) -> pathlib.Path:
    """Where a phase writes its record."""
    return folder.resolve() / f"{phase.name}.part.json"


def run(phase: Phase, folder: pathlib.Path, device: str, limit: float) -> Outcome:
    """Runs a phase in a process group of its own, at most `limit` seconds; what ends this program ends the group."""
    output, log = part(phase, folder), folder / f"{phase.name}.log"
    gpu_records.taken(output)
    began, late = time.perf_counter(), ""
    (folder / TUNED).mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as printed:
        process = subprocess.Popen(
            command(phase, output),
            cwd=ROOT,
            env={**os.environ, **environment(phase, device, folder)},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            process_group=0,  # not a session: what ends ours from outside ends a phase too
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = f"ended at its limit of {limit:.0f} s"
        finally:
            end(process)
    record = gpu_records.taken(output)
    fault = late or (f"exit code {process.returncode}" if process.returncode else "")
    fault = fault or ("" if record is not None else "no record was written")
    return Outcome(noted(phase), time.perf_counter() - began, fault, gpu_records.said(log, bool(fault)), record)


def end(process: subprocess.Popen) -> None:
    """Ends all that a phase started, and waits for its process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def attempt(phase: Phase, folder: pathlib.Path, device: str, left: float) -> Outcome:
    """Runs a phase if the seconds that are left are half of its limit at least, which is what it should need."""
    if fault := lacking(phase):
        return Outcome(noted(phase), fault=fault)
    if left < phase.limit / 2:
        return Outcome(noted(phase), fault="not begun: too little time was left")
    return run(phase, folder, device, min(phase.limit, left))


def measured_on(options) -> dict[str, str]:
    """What all records of a folder have in common.

    Raises:
      EnvironmentFault: there is no such device.
    """
    phase = MACHINE._replace(words=(*MACHINE.words, f"--device={options.device}"))
    found = run(phase, options.output, options.device, phase.limit * options.patience)
    if found.fault:
        raise EnvironmentFault(f"{options.device} cannot be asked: {[found.fault, *found.said][-1]}")
    flags = places.told(os.environ.get("XLA_FLAGS", ""))
    return {**found.record, "size": "tiny" if options.smoke else "the paper's", "XLA_FLAGS": flags}


def improves(outcome: Outcome, before: dict[str, Any] | None) -> bool:
    """Whether an outcome replaces what is known of a phase.

    No fault replaces a record that is whole, no record is replaced by none or by one that lacks more, and what began by
    what did not.
    """
    if not outcome.fault or not before:
        return True
    if not before["fault"] or (begun(before) and not outcome.seconds):
        return False
    if outcome.record is None or before["record"] is None:
        return before["record"] is None
    return gpu_records.lacking(outcome.record) <= gpu_records.lacking(before["record"])


def begun(known: dict[str, Any] | None) -> bool:
    """Whether a phase ever began, by what is known of it."""
    return bool(known and known["seconds"])


def ask(wanted: list[Phase], options, on: dict[str, str], known: dict[str, dict[str, Any]], until: float) -> list[str]:
    """Runs phases one after the other and keeps what comes of each; the names of those that fail.

    Those that never began come first: else one that fails at its limit would take their time in every call.
    """

    def keep(phase: Phase, outcome: Outcome) -> None:
        if improves(outcome, known.get(phase.name)):
            known[phase.name] = outcome._asdict()
            gpu_records.write(options.output, on, known)

    left = []
    ordered = sorted(wanted, key=lambda phase: begun(known.get(phase.name)))
    for number, phase in enumerate(ordered, 1):
        print(f"[{number}/{len(wanted)}] {phase.name}: ", end="", flush=True)
        before, began = known.get(phase.name), time.perf_counter()
        if before and not before["fault"] and not options.again:
            print("is complete (--again repeats it)", flush=True)
            continue
        try:
            outcome = attempt(phase, options.output, options.device, until - began)
        except SystemExit:  # a signal
            found = gpu_records.taken(part(phase, options.output))
            keep(phase, Outcome(noted(phase), time.perf_counter() - began, "ended by a signal", (), found))
            raise
        keep(phase, outcome)
        if outcome.fault:
            left.append(phase.name)
        print(f"{outcome.fault or 'complete'}, {outcome.seconds:.1f} s", flush=True)
    return left


def main(words: list[str] | None = None) -> int:
    """Runs the command line."""
    options = arguments(words)
    until = time.perf_counter() + options.seconds - 2 * GRACE
    wanted = chosen(options)
    if options.dry_run:
        print("\n".join(shown(phase, options.output, options.device) for phase in wanted))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    on = measured_on(options)
    known = gpu_records.read(options.output, on)
    print("; ".join(f"{name} {value}" for name, value in on.items() if value), flush=True)
    left = ask(wanted, options, on, known, until)
    print(f"\n{summary({phase.name: known[phase.name] for phase in wanted})}")
    print(f"all records: {options.output / gpu_records.NAME}")
    if left:
        print(f"not complete: {', '.join(left)}. The same command does these, without --again these alone.")
    return 3 if left else 0


def _stop(number, frame) -> None:
    """Ends this program, and by the way its phase."""
    sys.exit(128 + number)


def listen() -> None:
    """Has signals end the program, and its phase."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _stop)


def guarded(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        return main(words)
    except LgjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    listen()
    sys.exit(guarded())
