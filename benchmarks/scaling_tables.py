"""Predicts preparation, training and restoration on larger machines: the tables and the plot of docs/scaling.md.

    python benchmarks/scaling_tables.py                       # writes both into the page, each table behind its mark
    python benchmarks/scaling_tables.py --prices=MINE.json    # prints tables; in the form of benchmarks/prices.json

All numbers but those of the fit are predictions of benchmarks/scaling_model.py. Seconds of devices are from
benchmarks/bench_h200.json, seconds of cores from benchmarks/scaling_cpu.json, prices from benchmarks/prices.json.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib

from benchmarks import pages
from benchmarks import scaling_model as model
from benchmarks.scaling_model import Machine, Scan, Step, Wall
from configs import vae
from lgjax import models
from lgjax.runtime import files

FOLDER = pathlib.Path(__file__).parent
PAGE, WRITER = FOLDER.parent / "docs" / "scaling.md", "scaling_tables"
MICRO = 64  # slices that an accelerator takes at a time
ITERATIONS, STEPS = 800, 193_000  # of the paper
# Assumptions: a host of 8 H200 with 192 vCPUs; files at 1 GB/s a host; devices linked in a host and between hosts.
HOST = Machine(cores=96, devices=8, bandwidth=1e9, link=300e9, latency=2e-5)
BETWEEN = {"link": 25e9, "latency": 5e-5}
H200 = 4.8  # TB/s, nominal
SCANS, DEVICES = (100, 1000, 10_000), (1, 8, 64, 256)


class Known(NamedTuple):
    """What was measured."""

    cpu: dict[str, Any]  # benchmarks/scaling_cpu.json
    gpu: dict[str, Any]  # benchmarks/bench_h200.json

    def start(self, stage: str, compiled: float = 0.0) -> float:
        """Returns the seconds until a process begins with its work."""
        return self.cpu["stages"][stage]["terms"]["start"] + compiled

    def scan(self, method: str, bandwidth: float = H200) -> Scan:
        """Returns what a scan of full size takes that is prepared and restored on a GPU of a bandwidth in TB/s."""
        sizes = self.cpu["full_size"]
        cpu = sizes["preprocess"]["cpu_seconds"] + sizes["restore"]["cpu_seconds"]
        seconds = self.gpu["methods"][method]["seconds_per_iteration"]["median"] * ITERATIONS / MICRO
        size = sizes["restore"]["bytes_read"] + sizes["restore"]["bytes"]
        return Scan(cpu, seconds * H200 / bandwidth, self.gpu["config"]["volume_slices"], size)


def read() -> Known:
    """Returns what was measured, from the records."""
    return Known(*(json.loads((FOLDER / name).read_text()) for name in ("scaling_cpu.json", "bench_h200.json")))


def gradients() -> int:
    """Returns the bytes of the gradients of the paper's VAE."""
    config = vae.get_config()
    network = models.from_config(config, config.train.precision)
    shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def lasts(seconds: float) -> str:
    """Returns seconds as a person says them."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def hosts_of(devices: int) -> tuple[int, Machine]:
    """Returns the hosts that hold devices, and the machine of each: 8 devices with 96 cores, or a share of that."""
    hosts, each = max(devices // 8, 1), min(devices, 8)
    link = BETWEEN if hosts > 1 else {}
    return hosts, HOST._replace(devices=each, cores=HOST.cores * each / 8, **link)


def restored(known: Known, method: str, scans: int, devices: int) -> Wall:
    """Predicts a restoration on H200s."""
    hosts, machine = hosts_of(devices)
    start = known.start("restore", known.gpu["methods"][method]["compile_seconds"])
    return model.cohort(known.scan(method), scans, hosts, machine, start, MICRO)


def prepared(known: Known, scans: int, hosts: int) -> Wall:
    """Predicts a preparation on hosts of 96 cores."""
    sizes = known.cpu["full_size"]["preprocess"]
    scan = Scan(sizes["cpu_seconds"], 0.0, 0, sizes["bytes_read"] + sizes["bytes"])
    return model.cohort(scan, scans, hosts, HOST, known.start("preprocess"), MICRO)


def trained(known: Known, size: int, devices: int, batch: int) -> float:
    """Predicts the seconds of the paper's training on H200s, its slices in batches of some size."""
    found = known.gpu["training"]["vae"]
    step = Step(1 / (found["steps_per_second"]["median"] * found["batch_size"]), batch, size)
    hosts, machine = hosts_of(devices)
    count = STEPS * found["batch_size"] // batch
    return model.steps(step, count, hosts, machine, known.start("train", found["compile_seconds"]))


def cost(known: Known, method: str, machine: Mapping[str, Any], scans: int = 1000) -> tuple[Wall, float]:
    """Predicts how long scans take on a machine that is hired, and their price in dollars."""
    host = Machine(machine["vcpus"] / 2, machine["devices"], HOST.bandwidth)
    start = known.start("restore", known.gpu["methods"][method]["compile_seconds"])
    wall = model.cohort(known.scan(method, machine["bandwidth"]), scans, 1, host, start, MICRO)
    return wall, wall.seconds / 3600 * machine["dollars"]


def full_size(known: Known) -> list[list[str]]:
    """Returns what a process and a scan of full size cost cores, and what the predictions make of both."""
    method = "vae_lg_neural_tv"
    start = known.start("restore", known.gpu["methods"][method]["compile_seconds"])
    rows = [
        [f"`{stage}`, measured", f"{known.start(stage):.1f}", f"{known.cpu['full_size'][stage]['cpu_seconds']:.1f}"]
        for stage in ("preprocess", "restore")
    ]
    return [*rows, [f"`{method}` on a GPU, predicted", f"{start:.1f}", f"{known.scan(method).cpu:.1f}"]]


def of_records() -> dict[str, str]:
    """Returns the tables of the page."""
    return tables(read(), json.loads((FOLDER / "prices.json").read_text()), gradients())


def tables(known: Known, prices: Mapping[str, Any], size: int) -> dict[str, str]:
    """Returns the tables by their headings."""
    found = {}
    rows = []
    for stage, fit in known.cpu["stages"].items():
        terms = ", ".join(f"{value:.3g} s a {name}" for name, value in fit["terms"].items())
        errors = fit["error_unseen"]
        error = f"{100 * errors['median']:.0f} %, {100 * errors['largest']:.0f} %"
        rows.append([f"`{stage}`", str(len(fit["runs"])), terms, error])
    found["Fit"] = table(["command", "runs", "seconds of cores", "error on unseen runs: median, largest"], rows)
    found["Full size"] = table(["seconds of cores", "a start", "a scan of 240x240x155"], full_size(known))
    head = ["scans", *(f"{n} device{'s' * (n > 1)}" for n in DEVICES)]
    for method in known.gpu["methods"]:
        rows = []
        for scans in SCANS:
            walls = [restored(known, method, scans, devices) for devices in DEVICES]
            rows.append([f"{scans:,}", *(f"{lasts(wall.seconds)} ({wall.by})" for wall in walls)])
        found[f"Restoration by {method}"] = table(head, rows)
    hosts = [hosts_of(devices)[0] for devices in DEVICES[1:]]
    rows = [[f"{scans:,}", *(lasts(prepared(known, scans, n).seconds) for n in hosts)] for scans in SCANS]
    found["Preparation"] = table(["scans", *(f"{n} host{'s' * (n > 1)}" for n in hosts)], rows)
    rows = [[f"{batch:,}", *(lasts(trained(known, size, n, batch)) for n in DEVICES)] for batch in (64, 512)]
    found["Training"] = table(["batch", *head[1:]], rows)
    head = ["machine", "GPUs", "$ an hour", "listed", *(f"`{method}`" for method in known.gpu["methods"])]
    rows = []
    for machine in prices["machines"]:
        costs = [cost(known, method, machine) for method in known.gpu["methods"]]
        cells = [f"${dollars:.2f}, {lasts(wall.seconds)} ({wall.by})" for wall, dollars in costs]
        gpus = f"{machine['devices']} {machine['gpu']}"
        rows.append([machine["name"], gpus, f"{machine['dollars']:.2f}", machine["date"], *cells])
    found["Cost of 1,000 scans"] = table(head, rows)
    return found


def plot(known: Known, size: int, path: pathlib.Path) -> None:
    """Draws the fit, restoration and training."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for stage, fit in known.cpu["stages"].items():
        measured = [run["cpu_seconds"] for run in fit["runs"]]
        unseen = [run["cpu_seconds"] * (1 + run["error_unseen"]) for run in fit["runs"]]
        left.plot(measured, unseen, "o", label=stage)
    left.axline((10, 10), slope=1, color="grey", linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="measured, s of cores", ylabel="by a fit to the other runs, s of cores")
    left.set_title("Two CPU cores: the model's error")
    numbers = [2**power for power in range(9)]
    for method in known.gpu["methods"]:
        speeds = [3600 * 10_000 / restored(known, method, 10_000, n).seconds for n in numbers]
        middle.plot(numbers, speeds, "o-", markersize=3, label=method)
    middle.set(xscale="log", yscale="log", xlabel="H200s, 12 cores each", ylabel="scans an hour, of 10,000")
    middle.set_title("Prediction: restoration")
    for batch in (64, 512):
        times = [trained(known, size, n, batch) / 60 for n in numbers]
        right.plot(numbers, times, "o-", markersize=3, label=f"batch {batch}")
    right.set(xscale="log", yscale="log", xlabel="H200s, 8 a host", ylabel="minutes for 12.4 million slices")
    right.set_title("Prediction: training")
    for axes in (left, middle, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    left.set_xticks([10, 20, 50], ["10", "20", "50"])
    left.set_yticks([10, 20, 50], ["10", "20", "50"])
    right.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prices", type=pathlib.Path, help="of other machines: print the tables, write nothing")
    given = parser.parse_args()
    if given.prices:
        parts = tables(read(), json.loads(given.prices.read_text()), gradients())
        print("\n".join(f"## {head}\n\n{text}" for head, text in parts.items()))
        return
    files.atomic_write(PAGE, pages.written(PAGE.read_text(encoding="utf-8"), WRITER, of_records()))
    plot(read(), gradients(), PAGE.with_suffix(".png"))


if __name__ == "__main__":
    main()
