"""Asks a GPU all that is to be known of speed there, in one go: the phases of benchmarks/gpu_phases.py.

    bash launch/gpu.sh bench --output=runs/gpu           # every phase, 8 minutes at most
    bash launch/gpu.sh bench --device=cpu --smoke        # tiny sizes, to see that every phase works
    bash launch/gpu.sh bench --dry_run                   # prints the commands

Each phase is a process of its own, ended at its limit. DIR/PHASE.json appears when a phase is complete; what a failed
or ended one wrote stays as DIR/PHASE.part.json, what it printed as DIR/PHASE.log. A failed phase stops no other. The
same command again does what is left. Exit codes: 0, all complete; 3, some are not; 130 and 143, signals.
"""

import argparse
import contextlib
import fnmatch
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.gpu_phases import OUTPUT, Phase, phases
from benchmarks.gpu_summary import summary
from lgjax.runtime import files, places

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 480  # of all phases together, on a GPU
PATIENCE = {"gpu": 1, "cpu": 10}  # times all limits
LEAST = 10  # seconds that must be left for a phase to begin
GRACE = 5  # seconds between SIGTERM and SIGKILL


class Outcome(NamedTuple):
    """How a phase went."""

    command: str
    seconds: float
    fault: str  # in words; nothing: complete


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/gpu"), help="folder of the records")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--only", default="*", help="phases, such as lever_*,profile; default: all")
    parser.add_argument("--seconds", type=float, help="of all phases together; default: 480, on cpu ten times as many")
    parser.add_argument("--again", action="store_true", help="repeats phases that are complete")
    parser.add_argument("--dry_run", action="store_true", help="prints the commands")
    options = parser.parse_args(words)
    options.seconds = options.seconds or SECONDS * PATIENCE[options.device]
    return options


def chosen(options) -> list[Phase]:
    """The phases that were asked for; exits where a pattern fits none."""
    every, patterns = phases(options.device, options.smoke), options.only.split(",")
    for pattern in patterns:
        if not fnmatch.filter([phase.name for phase in every], pattern):
            names = ", ".join(phase.name for phase in every)
            sys.exit(f"error: --only: no phase is called {pattern}: there are {names}")
    found = [phase for phase in every if any(fnmatch.fnmatch(phase.name, pattern) for pattern in patterns)]
    return [phase._replace(limit=phase.limit * PATIENCE[options.device]) for phase in found]


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
    return [python_of(phase), *(word.replace(OUTPUT, str(output)) for word in phase.words)]


def environment(phase: Phase, device: str) -> dict[str, str]:
    """What a phase finds in its environment beside what is there."""
    found = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    if phase.flags:
        found["XLA_FLAGS"] = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), phase.flags)))
    if device == "cpu":
        return {**found, "JAX_PLATFORMS": "cpu"}
    return {**found, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}


def shown(phase: Phase, folder: pathlib.Path) -> str:
    """A phase as a shell would take it."""
    flags = [f"XLA_FLAGS={phase.flags}"] if phase.flags else []
    return shlex.join(["env", *flags, "timeout", str(phase.limit), *command(phase, folder / f"{phase.name}.part.json")])


def run(phase: Phase, folder: pathlib.Path, device: str, limit: float) -> Outcome:
    """Runs a phase in a process group of its own, at most `limit` seconds; what ends this program ends the group."""
    part, log = (folder / f"{phase.name}.{ending}" for ending in ("part.json", "log"))
    part.unlink(missing_ok=True)
    began, line = time.perf_counter(), noted(phase)
    with open(log, "wb") as printed:
        process = subprocess.Popen(
            command(phase, part.resolve()),
            cwd=ROOT,
            env={**os.environ, **environment(phase, device)},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return Outcome(line, time.perf_counter() - began, f"ended at its limit of {limit:.0f} s")
        finally:
            end(process)
    fault = f"exit code {process.returncode}" if process.returncode else unreadable(part)
    if not fault:
        os.replace(part, folder / f"{phase.name}.json")
    return Outcome(line, time.perf_counter() - began, fault)


def end(process: subprocess.Popen) -> None:
    """Ends all that a phase started, and waits for its process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def unreadable(path: pathlib.Path) -> str:
    """What is wrong with a record, in words."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return "no record was written"
    return ""


def noted(phase: Phase) -> str:
    """A phase as it is recorded: without places of this machine, and wherever its record lies."""
    return places.command([phase.flags, "python", *phase.words])


def complete(phase: Phase, folder: pathlib.Path, outcomes: dict) -> bool:
    """Whether the record of a phase is there, made by the same command."""
    is_there = (folder / f"{phase.name}.json").exists()
    return is_there and outcomes.get(phase.name, {}).get("command") == noted(phase)


def attempt(phase: Phase, folder: pathlib.Path, device: str, left: float) -> Outcome:
    """Runs a phase if it can be run in the seconds that are left."""
    (folder / f"{phase.name}.json").unlink(missing_ok=True)
    if fault := lacking(phase):
        return Outcome(noted(phase), 0.0, fault)
    if left < min(LEAST, phase.limit):
        return Outcome(noted(phase), 0.0, "not begun: no time was left")
    return run(phase, folder, device, min(phase.limit, left))


def main(words: list[str] | None = None) -> int:
    """Runs the command line."""
    options = arguments(words)
    wanted, folder = chosen(options), options.output
    if options.dry_run:
        print("\n".join(shown(phase, folder) for phase in wanted))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "phases.json"
    outcomes = json.loads(kept.read_text()) if kept.exists() else {}
    until = time.perf_counter() + options.seconds
    for number, phase in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {phase.name}: ", end="", flush=True)
        if complete(phase, folder, outcomes) and not options.again:
            print("is complete (--again repeats it)", flush=True)
            continue
        outcome = attempt(phase, folder, options.device, until - time.perf_counter())
        outcomes[phase.name] = outcome._asdict()
        files.atomic_write(kept, json.dumps(outcomes, indent=1) + "\n")
        print(f"{outcome.fault or 'complete'}, {outcome.seconds:.1f} s", flush=True)
    asked = {phase.name: outcomes[phase.name] for phase in wanted}
    print(f"\n{summary(folder, asked)}\nrecords: {folder}")
    return 3 if any(outcome["fault"] for outcome in asked.values()) else 0


def _stop(number, frame) -> None:
    """Ends this program, and by the way its phase."""
    sys.exit(128 + number)


def guarded(words: list[str] | None = None) -> int:
    """Runs the command line; a signal ends the phase too."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    return main(words)


if __name__ == "__main__":
    sys.exit(guarded())
