"""Says what measurements of speed hang on: the device, its driver, versions, and the code of this project.

python benchmarks/gpu_machine.py --device=gpu --output=F.json
"""

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from jax.extend import backend
from jax.sharding import Mesh

from lgjax import __version__
from lgjax.runtime import devices, files
from lgjax.runtime.errors import LgjaxError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = ("lgjax/**/*.py", "lgjax/**/*.json", "configs/*.py", "benchmarks/*.py", "benchmarks/peers/*.py")


def machine(mesh: Mesh) -> dict[str, str]:
    """Returns the devices of a mesh, and all whose versions decide their speed."""
    found = list(mesh.devices.flat)
    on_cpu, kind = found[0].platform == "cpu", devices.describe(found)
    return {
        "device": f"{processor()}, {kind}" if on_cpu else kind,
        "driver": "" if on_cpu else driver(),
        "runtime": backend.get_backend().platform_version.replace("\n", ", "),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "lgjax": f"{__version__}, code {code(ROOT)}",
    }


def driver() -> str:
    """Returns the version of NVIDIA's driver; nothing where nobody tells."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.check_output(asked, text=True, timeout=20).split("\n")[0].strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """Returns the model of this machine's processor."""
    told = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*)$", told.read_text() if told.exists() else "", re.MULTILINE)
    return found[1] if found else platform.machine()


def code(root: pathlib.Path) -> str:
    """Returns a checksum of all code that a measurement may run."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in root.glob(pattern)):
        found.update(f"{path.relative_to(root)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def main(words: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args(words)
    try:
        found = machine(devices.start(options.device))
    except LgjaxError as error:
        sys.exit(str(error))
    files.atomic_write(options.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
