"""Peak memory of preparing and restoring one big scan, 512x512x300 voxels, int16.

    python benchmarks/memory.py --workdir=W --output=benchmarks/memory_512x512x300_cpu.json

W is a trained work directory. The scan is a made-up head without its skull; memory is the resident memory of the
command and its workers, read every 0.2 s.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import nibabel as nib
import numpy as np
from cohort import run

from lgjax.runtime import devices, places

SHAPE = (512, 512, 300)


def write_scan(path: pathlib.Path) -> None:
    """An ellipsoid with a pattern and noise, 0.4 x 0.4 x 0.6 mm."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")
    data = np.zeros(SHAPE, np.int16)
    for k, z in enumerate(np.linspace(-1, 1, SHAPE[2])):
        inside = (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2 < 1
        signal = 200 + 60 * np.sin(9 * x) * np.cos(7 * y) * np.cos(5 * z) + rng.normal(0, 8, inside.shape)
        data[..., k] = np.where(inside, signal, 0)
    nib.save(nib.Nifti1Image(data, np.diag([0.4, 0.4, 0.6, 1.0])), path)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--method", default="vae_lg_neural_tv")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        write_scan(folder / "big.nii.gz")
        given = [f"--input={folder / 'big.nii.gz'}"]
        commands = {
            "preprocess": ["preprocess", *given, f"--output={folder / 'p'}", f"--recipe={arguments.workdir}"],
            "restore": ["restore", *given, f"--output={folder / 'r'}", f"--workdir={arguments.workdir}"],
        }
        commands["restore"].append(f"--method={arguments.method}")
        for name, words in commands.items():
            found[name] = run([sys.executable, "-m", f"lgjax.{words[0]}", *words[1:]], None, folder)
            del found[name]["finished"]
            found[name]["said"] = found[name]["said"].replace(f"{folder}/", "")
            print(name, found[name], flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "shape": SHAPE,
        **found,
    }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
