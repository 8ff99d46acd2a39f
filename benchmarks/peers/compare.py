"""Times lgjax against PyTorch with the same networks, weights, slices and iterations.

    bash benchmarks/peers/compare.sh --device=cpu --output=F.json            # 16 slices of 128x128
    bash benchmarks/peers/compare.sh --device=gpu --output=F.json            # 64 slices, the authors' batch
    bash benchmarks/peers/compare.sh --device=cpu --output=F.json --smoke    # small, to see that it works

A run goes from slices in the host's memory to restored slices in the host's memory, or is as many training steps on a
batch that lies on the device. All modes take turns, one run each, again and again; ratios are median(lgjax) /
median(best mode of PyTorch): below 1, lgjax is faster. Nothing else should run: OpenMP suffers from it more than XLA.

Each side has a process of its own, and one waits while the other works: in one process the threads of OpenMP, which
spin after their work, would take the cores from XLA's. Both get the same cores and as many threads. Before anything is
timed, both must compute the same (`check`), and every timed mode must restore to what lgjax restores to.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import pathlib
import platform
import sys
import time
import traceback

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from configs import vae as experiment

METHODS = ("vae_lg_neural_tv", "vae_lg_est_tv", "vae_elbo_tv", "vae_train")
SILENT = -60.0  # log variance of the latents: noise is drawn, and scaled to nothing, so that both sides can be compared
PAUSE = 0.1  # seconds between runs, in which the other side's threads fall asleep
BACKGROUND = -3.5
CHECKED_MODES = ("eager", "eager_channels_last")  # of restoration and of training
CHECKED_SLICES, CHECKED_ITERATIONS = 2, 3
OUTPUT_TOLERANCE, RESTORED_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-3, 5e-3


class Remote:
    """A `Side` in a process of its own: its methods are called by name, one at a time."""

    def __init__(self, module: str, *arguments):
        """Starts the process and makes module.Side(*arguments) there."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        context.Process(target=_serve, args=(other, module, arguments), daemon=True).start()
        self._answer()

    def __getattr__(self, name: str):
        def call(*arguments):
            self.pipe.send((name, arguments))
            return self._answer()

        return call

    def _answer(self):
        failed, value = self.pipe.recv()
        if failed:
            sys.exit(value)
        return value


def _serve(pipe, module: str, arguments) -> None:
    """What the process of a `Remote` does until its pipe is closed."""
    side = None
    while True:
        try:
            if side is None:
                side, value = importlib.import_module(module).Side(*arguments), None
            else:
                try:
                    name, arguments = pipe.recv()
                except EOFError:
                    return
                value = getattr(side, name)(*arguments)
            pipe.send((False, value))
        except Exception:
            pipe.send((True, traceback.format_exc()))
            return


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="small networks and slices, few iterations")
    parser.add_argument("--slices", type=int, help="of a batch; default: 16 on cpu, 64 on gpu")
    parser.add_argument("--iterations", type=int, help="of a run; default: 10 on cpu, 200 on gpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each mode")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side, on cpu")
    parser.add_argument("--methods", default=",".join(METHODS), help="to time, with commas between them")
    parser.add_argument("--modes", default="", help="of PyTorch, with commas between them; default: all")
    return parser.parse_args()


def make_config(options):
    """The experiment both sides run: the paper's, or a small one."""
    config = experiment.smoke() if options.smoke else experiment.paper()
    config.seed = 0
    config.restore.samples_est = 10
    config.restore.batch_size = options.slices or (4 if options.smoke else {"cpu": 24, "gpu": 64}[options.device])
    config.restore.iterations = options.iterations or (3 if options.smoke else {"cpu": 10, "gpu": 200}[options.device])
    return config


def make_slices(config, count: int, isolated: bool = False):
    """Noise in a disc: slices and masks, [N, H, W, 1], and lambdas, [N].

    Args:
      config: of the experiment.
      count: N.
      isolated: no pixel that may change touches another one.
    """
    rows, columns = np.indices((config.data.height, config.data.width))
    radius = np.hypot(rows / config.data.height - 0.5, columns / config.data.width - 0.5)
    inside = (radius < 0.4) & ((rows + columns) % 2 <= (not isolated))
    mask = np.broadcast_to(inside[None, ..., None], (count, *inside.shape, 1)).astype(np.float32)
    noise = np.random.default_rng(config.seed).standard_normal(mask.shape, np.float32)
    return np.where(mask > 0, noise, np.float32(BACKGROUND)), mask, np.ones(count, np.float32)


def silence(variables: dict) -> dict:
    """Makes the latents' standard deviation nothing, in place."""
    for name in ("params", "frozen"):
        head = variables[name]["autoencoder"]["log_variance_head"]
        head["bias"] = head["bias"] + SILENT
    return variables


def agree(name: str, ours, theirs, tolerance: float, found: dict) -> None:
    """Notes the largest difference under a name; exits if it is more than the tolerance."""
    found[name] = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    if not found[name] <= tolerance:
        sys.exit(f"error: {name}: lgjax and PyTorch differ by {found[name]:.2g}, more than {tolerance:.0e}")


def check(config, ours, theirs) -> dict[str, float]:
    """Compares outputs, three iterations of every method and three training steps, all without TF32.

    Returns:
      The largest differences, by what was compared: absolute ones, of training losses relative ones.
    """
    config = config.copy_and_resolve_references()
    config.restore.batch_size, config.restore.iterations = CHECKED_SLICES, CHECKED_ITERATIONS
    config.train.learning_rate = 1e-4  # halves the loss in three steps; faster, rounding counts
    variables, found = ours.variables(config), {}
    _check_networks(config, variables["frozen"], ours, theirs, found)
    silence(variables)
    _check_restoration(config, variables["frozen"], ours, theirs, found)
    _check_training(config, variables, ours, theirs, found)
    return found


def _check_networks(config, frozen, ours, theirs, found) -> None:
    """Encoder, decoder and variance network."""
    x = make_slices(config, CHECKED_SLICES)[0]
    factor = 2 ** len(config.model.channels)
    size = (config.data.height // factor, config.data.width // factor)
    z = np.random.default_rng(1).standard_normal((len(x), *size, config.model.latent_channels), np.float32)
    expected = ours.outputs(config, frozen, x, z)
    for mode in CHECKED_MODES:
        outputs = theirs.outputs(config, frozen, x, z, mode)
        for name, value in expected.items():
            agree(f"{name}, {mode}", value, outputs[name], OUTPUT_TOLERANCE, found)


def _check_restoration(config, frozen, ours, theirs, found) -> None:
    """Restored slices in which no neighbours change, and the gradient of TV by itself.

    Adam's first steps are all of one length: where neighbours take the same, rounding decides the sign of TV's
    gradient.
    """
    slices = make_slices(config, CHECKED_SLICES, isolated=True)
    change = np.random.default_rng(2).integers(-2, 3, slices[0].shape).astype(np.float32)
    agree("gradient of tv", ours.tv_gradient(change), theirs.tv_gradient(change), 0.0, found)
    for method in METHODS[:-1]:
        expected = ours.restored(config, frozen, method, slices)
        for mode in CHECKED_MODES:
            restored = theirs.restored(config, frozen, method, mode, slices)
            agree(f"{method}, {mode}", expected, restored, RESTORED_TOLERANCE, found)


def _check_training(config, variables, ours, theirs, found) -> None:
    """The terms of the loss, of which the later ones show the steps before them."""
    x, mask, _ = make_slices(config, 4 * CHECKED_SLICES)
    expected = ours.trained(config, variables, x, mask, CHECKED_ITERATIONS)
    for mode in CHECKED_MODES:
        terms = theirs.trained(config, variables, mode, x, mask, CHECKED_ITERATIONS)
        relative = [b[name] / a[name] for a, b in zip(expected, terms, strict=True) for name in b]
        agree(f"vae_train, {mode}", np.ones(len(relative)), relative, LOSS_TOLERANCE, found)


def measure(config, ours, theirs, variables, method: str, modes, repeats: int) -> dict[str, list[float]]:
    """Seconds per iteration of every mode, its runs interleaved with those of all others."""
    slices = make_slices(config, config.restore.batch_size)
    sides = {"lgjax": ours} | {mode: theirs for mode in theirs.modes(method) if not modes or mode in modes}
    results = {}
    for mode, side in sides.items():
        print(f"{method}: preparing {mode}", flush=True)
        results[mode] = side.prepare(config, variables, method, mode, slices)
        if method != "vae_train":
            typical = np.median(np.abs(results[mode] - results["lgjax"])[slices[1] > 0])
            if not typical <= RESTORED_TOLERANCE:
                sys.exit(f"error: {method}, {mode}: half of the pixels differ from lgjax's by more than {typical:.2g}")
    samples = {mode: [] for mode in sides}
    for _ in range(repeats):
        for mode, side in sides.items():
            time.sleep(PAUSE)
            samples[mode].append(side.sample(mode) / config.restore.iterations)
    ours.clear()
    theirs.clear()
    return samples


def summarise(samples: dict[str, dict[str, list[float]]]) -> tuple[dict[str, float], dict[str, str]]:
    """Ratios, and the fastest mode of PyTorch, by method; prints them as a table."""
    ratios, best = {}, {}
    print(f"\n{'method':18}{'mode':36}{'ms / iteration: median':>24}{'least':>10}{'lgjax / it':>12}")
    for method, modes in samples.items():
        medians = {mode: float(np.median(seconds)) for mode, seconds in modes.items()}
        for mode, seconds in medians.items():
            least, ratio = min(modes[mode]), medians["lgjax"] / seconds
            print(f"{method:18}{mode:36}{1e3 * seconds:24.3f}{1e3 * least:10.3f}{ratio:12.2f}")
        peers = {mode: seconds for mode, seconds in medians.items() if mode != "lgjax"}
        best[method] = min(peers, key=peers.get)
        ratios[method] = medians["lgjax"] / peers[best[method]]
    return ratios, best


def main() -> None:
    options, load = arguments(), os.getloadavg()[0]
    if options.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    os.environ |= {"NPROC": str(options.threads), "OMP_NUM_THREADS": str(options.threads)}
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.4"  # the rest is PyTorch's
    config = make_config(options)
    ours = Remote("ours", options.device, options.threads)
    theirs = Remote("theirs", options.device, options.threads)
    agreement = check(config, ours, theirs)
    print("\n".join(f"{name:40} agrees to {value:.1e}" for name, value in agreement.items()), flush=True)
    variables = silence(ours.variables(config))
    modes, samples = set(filter(None, options.modes.split(","))), {}
    for method in options.methods.split(","):
        samples[method] = measure(config, ours, theirs, variables, method, modes, options.repeats)
    ratios, best = summarise(samples)
    versions = ours.versions() | theirs.versions() | {"python": platform.python_version()}
    record = {
        "device": versions.pop("device"),
        "versions": versions,
        "ratios": ratios,
        "best": best,
        "samples": samples,
        "batch": [config.restore.batch_size, config.data.height, config.data.width],
        "iterations": config.restore.iterations,
        "agreement": agreement,
        "load_average_at_the_start": load,
        "threads": ours.threads() | theirs.threads(),
        "command": "bash benchmarks/peers/compare.sh " + " ".join(sys.argv[1:]),
        "smoke": options.smoke,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nlgjax / best of PyTorch: {json.dumps(ratios)}\nwritten: {options.output}")


if __name__ == "__main__":
    main()
