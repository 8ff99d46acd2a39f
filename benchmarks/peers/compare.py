"""Times lgjax against PyTorch with the same networks, weights, slices and iterations.

    bash benchmarks/peers/compare.sh --device=cpu --output=F.json            # 24 slices of 128x128, float32
    bash benchmarks/peers/compare.sh --device=gpu --output=F.json            # 64 slices, TensorFloat-32 and bfloat16
    bash benchmarks/peers/compare.sh --device=cpu --output=F.json --smoke    # small, to see that it works

A run goes from slices in the host's memory to restored slices in the host's memory, or is as many training steps on a
batch that lies on the device. All modes take turns, one run each, again and again; ratios are median(lgjax) /
median(best mode of PyTorch): below 1, lgjax is faster. Nothing else should run: OpenMP suffers from it more than XLA.

Each side has a process of its own, and one waits while the other works: in one process the threads of OpenMP, which
spin after their work, would take the cores from XLA's. On CPUs lgjax trains in a third one, as `lgjax.train` would.
All get the same cores and as many threads. Before anything is timed, both sides must compute the same (agreement.py),
and every timed mode must restore in float32 to what lgjax restores to: a mode that does not, or that fails, is left out
and told, and the exit code is 3. The record is written anew after every turn; `incomplete` names what lacks runs. With
--agreement, what both computed alike is kept in a file: later runs on the same machine, with the same versions, code,
networks and weights, take it from there (`agreed_before`).
"""

import argparse
import os
import pathlib
import platform
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from agreement import METHODS, at, check, silence
from kept import Kept, conditions
from record import Record, table
from remote import Remote, RemoteFault
from timing import measure

from configs import vae as experiment
from lgjax.runtime import places

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
TIMED = {"cpu": ("float32",), "gpu": ("tensorfloat32", "bfloat16")}


def some_of(known: tuple[str, ...]):
    """Makes the reader of a list of known names with commas between them."""

    def names(text: str) -> list[str]:
        found = list(dict.fromkeys(text.split(",")))
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose among {', '.join(known)}")
        return found

    return names


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument("--agreement", type=pathlib.Path, help="JSON file that keeps what agreed, for later runs")
    parser.add_argument("--smoke", action="store_true", help="small networks and slices, few iterations")
    parser.add_argument("--slices", type=int, help="of a batch; default: 24 on cpu, 64 on gpu")
    parser.add_argument("--iterations", type=int, help="of a run; default: 10 on cpu, 200 on gpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each mode")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side, on cpu")
    parser.add_argument("--methods", type=some_of(METHODS), default=METHODS, help="to time, with commas between them")
    parser.add_argument("--modes", default="", help="of PyTorch, with commas between them; default: all")
    help = "to time, with commas between them; default: float32 on cpu, tensorfloat32,bfloat16 on gpu"
    parser.add_argument("--precisions", type=some_of(PRECISIONS), help=help)
    options = parser.parse_args(words)
    options.precisions = options.precisions or TIMED[options.device]
    return options


def make_config(options):
    """The experiment both sides run: the paper's, or a small one."""
    config = experiment.smoke() if options.smoke else experiment.paper()
    config.seed = 0
    config.restore.samples_est = 10
    config.restore.batch_size = options.slices or (4 if options.smoke else {"cpu": 24, "gpu": 64}[options.device])
    config.restore.iterations = options.iterations or (3 if options.smoke else {"cpu": 10, "gpu": 200}[options.device])
    return config


def choose_modes(text: str, theirs, methods) -> set[str]:
    """The modes of PyTorch that were named; exits if none of the methods has one of them."""
    modes, known = set(filter(None, text.split(","))), {mode for method in methods for mode in theirs.modes(method)}
    if unknown := modes - known:
        sys.exit(f"error: --modes: {', '.join(sorted(unknown))}: choose among {', '.join(sorted(known))}")
    return modes


def described(options, config, versions: dict[str, str], load: float) -> dict:
    """What a record says of a run, whatever is timed."""
    return {
        "device": versions["device"],
        "versions": {name: version for name, version in versions.items() if name != "device"},
        "batch": [config.restore.batch_size, config.data.height, config.data.width],
        "iterations": config.restore.iterations,
        "load_average_at_the_start": load,
        "command": places.command(["bash", "benchmarks/peers/compare.sh", *sys.argv[1:]]),
        "smoke": options.smoke,
    }


def timed(config, sides, variables, modes, record: Record) -> None:
    """Times all methods in all precisions of a record, by `sides`: lgjax's, lgjax's for training, and PyTorch's."""
    restores, trains, theirs = sides
    for method in record.methods:
        ours = trains if method == "vae_train" else restores
        settings = (tuple(record.samples), modes, record.repeats, record.tell)
        for precision, samples in measure(config, ours, theirs, variables, method, *settings):
            record.note(method, precision, samples, ours.threads() | theirs.threads())
    if any(record.samples.values()):
        record.write()  # with what failed since


def main() -> int:
    """Runs the command line."""
    options, load = arguments(), os.getloadavg()[0]
    if options.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    os.environ |= {"NPROC": str(options.threads), "OMP_NUM_THREADS": str(options.threads)}
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.4"  # the rest is PyTorch's
    config = make_config(options)
    ours = Remote("ours", options.device, options.threads)
    # A GPU's memory has room for one of them, and what the host does with its own matters there little.
    trains = Remote("trains", options.device, options.threads) if options.device == "cpu" else ours
    theirs = Remote("theirs", options.device, options.threads)
    modes = choose_modes(options.modes, theirs, options.methods)
    variables = ours.variables(at(config, "float32"))
    kept = Kept(options.agreement, conditions(config, variables, ours, theirs))
    agreement = check(config, variables, ours, theirs, options.methods, kept.part)
    print("\n".join(f"{name:40} agrees to {value:.1e}" for name, value in agreement.items()), flush=True)
    versions = ours.versions() | theirs.versions() | {"python": platform.python_version()}
    about = described(options, config, versions, load) | {"agreement": agreement, "agreed_before": kept.reused}
    record = Record(options.output, about, options.methods, options.precisions, options.repeats)
    timed(config, (ours, trains, theirs), silence(variables), modes, record)
    for precision, methods in record.samples.items():
        print(f"\n{precision}\n{table(methods)}")
    print(f"\nwritten: {options.output}")
    return 3 if record.faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RemoteFault as fault:
        sys.exit(f"error: {fault}")
