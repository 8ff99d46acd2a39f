"""Kills training, restoration and preparation at random moments, resumes them, and compares with undisturbed runs.

    python benchmarks/kills.py --output=benchmarks/kills_cpu.json             # each of the three killed 20 times
    python benchmarks/kills.py --output=F.json --kills=2 --seed=1

A moment lies between the first file that the command writes and the command's end. Scans and training are synthetic and
small. The same end: every file that is compared is equal bit for bit; of files with times in them, all but the times.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from lgjax import models
from lgjax.runtime import devices, files
from lgjax.training import settings
from lgjax.training import step as training
from lgjax.workdir import checkpoints, experiment

SMALL = [  # flags of a training of seconds
    "--config.model.channels=(4,8)",
    "--config.model.latent_channels=4",
    "--config.model.variance_channels=(4,4)",
    "--config.train.batch_size=8",
    "--config.train.steps=120",
    "--config.train.log_every=5",
    "--config.train.checkpoint_every=20",
]
QUICK = ["--config=data:smoke", "--config.bias_field.iterations=5"]


class Running(Protocol):
    """A command that was started: what `subprocess.Popen` has."""

    @property
    def pid(self) -> int | None:
        """The number of the process."""

    def poll(self) -> int | None:
        """Returns the exit code, None while the command runs."""

    def wait(self) -> int | None:
        """Waits for the end and returns the exit code."""

    def kill(self) -> None:
        """Sends SIGKILL."""


Start = Callable[[Sequence[str]], Running]
Words = Callable[[pathlib.Path], list[str]]
Contents = Callable[[pathlib.Path], dict[str, str]]


class Kill(NamedTuple):
    """What one kill did."""

    seconds: float  # after the first file
    written: int  # files there were then
    left: int  # of them: temporary files that nothing can remove any more


class Whole(NamedTuple):
    """An undisturbed run."""

    contents: dict[str, str]
    seconds: float  # from the first file to the end


def typed(words: Sequence[str]) -> subprocess.Popen:
    """Starts a command as a user does."""
    command = [sys.executable, "-m", f"lgjax.{words[0]}", *words[1:]]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def await_first_file(process: Running, folder: pathlib.Path) -> None:
    """Returns when a command has written its first file, or has ended."""
    while process.poll() is None and not any(path.is_file() for path in folder.rglob("*")):
        time.sleep(0.002)


def undisturbed(start: Start, words: Sequence[str], folder: pathlib.Path, contents: Contents) -> Whole:
    """Runs a command to its end.

    Raises:
      RuntimeError: it failed.
    """
    process = start(words)
    await_first_file(process, folder)
    began = time.perf_counter()
    if code := process.wait():
        raise RuntimeError(f"{' '.join(words)} ended with {code}")
    seconds = time.perf_counter() - began
    return Whole(contents(folder), seconds)


def killed(start: Start, words: Sequence[str], folder: pathlib.Path, seconds: float) -> Kill | None:
    """Kills a command some seconds after its first file; returns None where the command was faster."""
    process = start(words)
    await_first_file(process, folder)
    time.sleep(seconds)
    process.kill()
    if process.wait() == 0:
        return None
    found = [path for path in folder.rglob("*") if path.is_file()]
    return Kill(seconds, len(found), sum(path.suffix == ".tmp" for path in found))


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names what is not the same, or stands on one side alone."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def of_files(folder: pathlib.Path) -> dict[str, str]:
    """Returns a digest of every file, but for temporary ones; of the record of a restoration, what was done."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp"]
    found = {path.relative_to(folder).as_posix(): files.sha256(path) for path in paths}
    if "results.json" in found:
        scans = json.loads((folder / "results.json").read_text())["Scans"]
        done = {name: [scan["Outcome"] == "failed", scan.get("InputSHA256")] for name, scan in scans.items()}
        found["results.json"] = json.dumps(done, sort_keys=True)
    return found


def of_training(workdir: pathlib.Path) -> dict[str, str]:
    """Returns a digest of the newest checkpoint's arrays and of the losses, and the steps that are kept."""
    config = experiment.get_config(str(workdir / "config.json"))
    model = models.from_config(config, config.train.precision)
    shapes = training.state_shapes(model, settings.from_config(config))
    state, step = checkpoints.restore_newest(workdir / "checkpoints", shapes) or (None, 0)
    arrays = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]
    return {
        "newest": f"{step} {hashlib.sha256(arrays).hexdigest()}",
        "kept": str(checkpoints.steps(workdir / "checkpoints")),
        "losses": files.digest(losses),
        "training.json": files.sha256(workdir / "training.json"),
    }


def trial(start: Start, words: Words, contents: Contents, moments: Iterator[float], count: int, folder) -> dict:
    """Kills a command at random moments, each time in a new folder, and resumes it to its end.

    Args:
      start: starts a command.
      words: of the command that writes into a folder.
      contents: of a folder, to compare.
      moments: fractions, each within [0, 1], of the time that the command writes.
      count: how many kills; a command that is over before does not count.
      folder: to work in.

    Returns:
      The kills, how many runs were over before, and what was not the same after a kill.
    """
    whole = undisturbed(start, words(folder / "whole" / "out"), folder / "whole" / "out", contents)
    kills: list[dict] = []
    unequal, tries = {}, 0
    while len(kills) < count:
        tries += 1
        place = folder / str(tries) / "out"
        if kill := killed(start, words(place), place, next(moments) * whole.seconds):
            resumed = undisturbed(start, words(place), place, contents)
            if different := differences(resumed.contents, whole.contents):
                unequal[len(kills)] = different
            kills.append(kill._asdict())
    over = tries - count
    return {"seconds": whole.seconds, "files": len(whole.contents), "kills": kills, "over": over, "unequal": unequal}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, record = random.Random(given.seed), {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        scans, people = folder / "cohort", ["--input=phantom:train:6", "--calibration=sub-trainhealthy003"]
        undisturbed(typed, ["preprocess", *QUICK, *people, f"--output={scans}"], scans, of_files)
        commands: dict[str, tuple[Words, Contents]] = {
            "restore": (
                lambda place: ["restore", "--method=mirror_tv3d", "--input=phantom:test:1", f"--output={place}"],
                of_files,
            ),
            "preprocess": (lambda place: ["preprocess", *QUICK, *people, f"--output={place}"], of_files),
            "train": (
                lambda place: [
                    "train", "--config=vae:smoke", f"--config.data.source={scans}", *SMALL, f"--workdir={place}"
                ],
                of_training,
            ),
        }  # fmt: skip
        for command, (words, contents) in commands.items():
            undisturbed(typed, words(folder / command / "first"), folder / command / "first", contents)  # compiles
            moments = iter(rng.random, None)
            record[command] = trial(typed, words, contents, moments, given.kills, folder / command)
            print(command, len(record[command]["kills"]), "killed,", record[command]["unequal"] or "all equal")
    about = {"command": " ".join(["python", *sys.argv]), "seed": given.seed, **devices.versions()}
    files.atomic_write(given.output, json.dumps({**about, "commands": record}, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
