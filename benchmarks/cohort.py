"""Prepares a cohort of synthetic subjects in Cam-CAN's layout, kills the run half way, and resumes it.

    python benchmarks/cohort.py --subjects=200 --workers=2 --output=benchmarks/cohort_200_cpu.json

Writes the subjects as gzipped NIfTI with a brain mask beside each, runs lgjax.preprocess with N4 on them, sends SIGKILL
when half of them are corrected, runs it again, and checks that no finished subject was touched. Memory is the largest
sum of the resident memory of the command and its workers, read every 0.2 s (shared pages count for each of them).
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from lgjax.runtime import devices, places
from lgjax.scans import nifti, sources


def write_cohort(root: pathlib.Path, subjects: int) -> None:
    """Writes the subjects as Cam-CAN's release has them."""
    for number, subject in enumerate(sources.find(f"phantom:train:{subjects}")):
        name = f"sub-CC{110000 + number}"
        anat = root / "BIDS_20190411" / "anat" / name / "anat"
        image = subject.image()
        nifti.write(anat / f"{name}_T2w.nii.gz", image.data, image, np.float32)
        nifti.write(anat / f"{name}_T2w_mask.nii.gz", subject.mask().data, image, np.uint8)


def resident(pid: int) -> int:
    """Bytes of resident memory of a process and all its descendants."""
    total, todo = 0, [pid]
    while todo:
        process = todo.pop()
        try:
            status = pathlib.Path(f"/proc/{process}/status").read_text()
            total += 1024 * int(status.split("VmRSS:")[1].split()[0])
            for task in pathlib.Path(f"/proc/{process}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):  # it has just ended
            continue
    return total


def run(command: list[str], stop: int | None, folder: pathlib.Path) -> dict:
    """Runs the command, until `stop` subjects are corrected if that is given."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        if stop is not None and len(finished(folder)) >= stop:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    lines = process.communicate()[0].strip().splitlines()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_bytes": peak,
        "exit_code": process.returncode,
        "finished": len(finished(folder)),
        "said": lines[-1] if lines else "",
    }


def finished(folder: pathlib.Path) -> dict[pathlib.Path, int]:
    """When each corrected subject was finished."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("sub-*/anat/*_desc-preproc_T2w.json")}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--config", default="configs/data.py:smoke")
    parser.add_argument("--folder", help="where cohort and result are kept; default: a folder that is removed again")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(arguments.folder or place)
        raw, folder = root / "raw", root / "prepared"
        started = time.perf_counter()
        write_cohort(raw, arguments.subjects)
        written = time.perf_counter() - started
        command = [sys.executable, "-m", "lgjax.preprocess", f"--config={arguments.config}", f"--input={raw}"]
        command += [f"--output={folder}", f"--config.workers={arguments.workers}"]
        killed = run(command, arguments.subjects // 2, folder)
        before = finished(folder)
        resumed = run(command, None, folder)
        after = finished(folder)
        record = {
            "what": __doc__.splitlines()[0],
            "command": places.command(["python", *sys.argv]),
            "versions": devices.versions(),
            "cores": os.cpu_count(),
            "subjects": arguments.subjects,
            "workers": arguments.workers,
            "config": arguments.config,
            "seconds_writing_the_cohort": round(written, 1),
            "killed": killed,
            "resumed": resumed,
            "redone": sum(after.get(path) != when for path, when in before.items()),
            "prepared_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        }
    pathlib.Path(arguments.output).write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
