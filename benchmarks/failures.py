"""Draws what the released model misses: one synthetic patient of each kind, beside the lesion that is there.

    python benchmarks/failures.py --output=docs/released
    python benchmarks/failures.py --output=F --model=M --source=phantom@2+1:hard/midline:1

The patients are synthetic, with MNI152's head, so that the pictures may be passed on. Labels are read for the outline
alone.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

import lgjax
from lgjax.derivatives import sidecar
from lgjax.detector import Detector
from lgjax.runtime import files
from lgjax.scans import pictures
from lgjax.scans.sources import Subject

KINDS = "small+haemorrhage+bilateral"  # MS-like lesions of a few mm, dark ones, and equal ones on both sides


def panels(detector: Detector, subject: Subject) -> pictures.Panels:
    """Restores a patient and cuts the slice with most lesion."""
    found, lesion = detector(subject), subject.lesion().data > 0
    affine, rate = found.affine, found.about["MaskRate"]
    volumes = found.subject.image.data, found.restored, found.anomaly, found.masks[rate], lesion, found.brain
    image, restored, anomaly, detected, reference, brain = (pictures.radiological(part, affine) for part in volumes)
    index = pictures.shown_slice(reference, brain)
    cut = (part[..., index] for part in (image, restored, anomaly, detected, reference, brain))
    aspect, threshold = pictures.pixel_aspect(affine), found.about["Thresholds"][rate]
    overlap = 2 * (found.masks[rate] & lesion).sum() / (found.masks[rate].sum() + lesion.sum())
    volume = lesion.sum() * abs(np.linalg.det(affine)) / 1000
    print(f"{subject.identifier}: lesion {volume:.1f} mL, Dice {overlap:.3f} at {float(rate):.1%} FPR")
    return pictures.Panels(*cut, aspect, rate, threshold, unit=sidecar.short_unit(found.about["Score"]))


def small(png: bytes) -> bytes:
    """Returns a picture with 256 colours, a third of the size; the rare colours of outlines are kept."""
    written = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    colours = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours.save(written, "png", optimize=True)
    return written.getvalue()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--model", help="default: the released model")
    parser.add_argument("--source", default=f"phantom@2+1:hard/{KINDS}:1")
    given = parser.parse_args()
    detector = lgjax.load(given.model)
    for subject in lgjax.find(given.source):
        picture = pictures.subject_figure({detector.method.name: panels(detector, subject)})
        files.atomic_write(given.output / f"missed_{subject.kind}.png", small(picture))


if __name__ == "__main__":
    main()
