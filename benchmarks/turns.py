"""Times a restoration by two checkouts of lgjax, in turns: whether a change of the code has cost speed.

    python benchmarks/turns.py --before=CLONE --workdir=W --input=SCAN --output=benchmarks/redesign_cpu.json

Each turn is the command `restore`, first by the other checkout and then by this one, each with this interpreter and
the same calibrated work directory. The sidecar says the seconds of an iteration, without compilation.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import nibabel as nib
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lgjax.derivatives import sidecar
from lgjax.runtime import devices, files

ROOT = pathlib.Path(__file__).resolve().parents[1]


def restored(checkout: pathlib.Path, options, output: str) -> tuple[dict[str, float], np.ndarray]:
    """The seconds of an iteration and of the whole command, and the anomaly map."""
    words = [f"--workdir={options.workdir}", f"--input={options.input}", f"--output={output}"]
    command = [sys.executable, "-m", "lgjax.restore", *words, f"--method={options.method}"]
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    (path,) = pathlib.Path(output).glob("sub-*/anat/*_desc-anomaly_T2w.json")
    about = sidecar.parse(json.loads(path.read_text()))
    image = nib.load(path.with_suffix(".nii.gz")).get_fdata(dtype=np.float32)
    return {"iteration": about.seconds_per_iteration, "command": whole}, image


def commit(checkout: pathlib.Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, required=True, help="the other checkout")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--method", default="vae_lg_neural_tv")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    for name in ("before", "workdir", "input"):
        setattr(options, name, getattr(options, name).resolve())
    sides = {"before": options.before, "after": ROOT}
    samples: dict[str, dict[str, list[float]]] = {side: {"iteration": [], "command": []} for side in sides}
    images: dict[str, np.ndarray] = {}
    for repeat in range(options.repeats + 1):
        for side, checkout in sides.items():
            with tempfile.TemporaryDirectory() as output:
                seconds, images[side] = restored(checkout, options, output)
            print(side, seconds, flush=True)
            for name, value in seconds.items() if repeat else ():  # the first turn may compile
                samples[side][name].append(value)
    medians = {side: {name: float(np.median(v)) for name, v in values.items()} for side, values in samples.items()}
    record = {
        "what": __doc__.splitlines()[0],
        "commits": {side: commit(checkout) for side, checkout in sides.items()},
        "versions": devices.versions(),
        "cores": os.cpu_count(),
        "input": options.input.name,
        "method": options.method,
        "median_seconds": medians,
        "after_over_before": {name: medians["after"][name] / medians["before"][name] for name in medians["after"]},
        "maps_are_equal_bit_for_bit": bool(np.array_equal(images["before"], images["after"])),
        "samples": samples,
    }
    files.atomic_write(options.output, json.dumps(record, indent=2) + "\n")
    print(json.dumps({name: record[name] for name in ("after_over_before", "maps_are_equal_bit_for_bit")}))


if __name__ == "__main__":
    main()
