"""The viewer of one scan: a page that holds its volumes and the program that shows them, and asks no host for anything.

The program is NiiVue (vendor/niivue.LICENSE.txt). `show.py` makes what is shown of results on disk.
"""

import base64
import functools
import hashlib
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import markupsafe
import numpy as np

from lgjax.derivatives import lesions
from lgjax.derivatives.sidecar import Midplane
from lgjax.evaluation.records import percent
from lgjax.report import text, volumes

MOST_LESIONS = 20  # of a kind that the page lists, the largest first


class Shown(NamedTuple):
    """One scan and what was found in it; volumes are [X, Y, Z] on the scan's own grid."""

    identifier: str
    method: str
    unit: str  # of the anomaly map
    affine: np.ndarray  # [4, 4], voxel indices -> mm (RAS+)
    scan: np.ndarray
    brain: np.ndarray  # bool
    anomaly: np.ndarray
    restored: np.ndarray | None  # None: the method restores no image
    detected: np.ndarray | None  # bool; None: there is no calibrated mask
    reference: np.ndarray | None  # bool; None: no reference is known
    thresholds: Mapping[str, float]  # by false positive rate, in the unit of the map
    rate: str  # of `detected`
    about: str = ""  # kind of lesion and the like, in words
    plane: Midplane | None = None  # mid-sagittal, by which a lesion's side is told; None: none was looked for


class Line(NamedTuple):
    """One scan of a list."""

    identifier: str
    kind: str
    lesion_ml: float | None  # of the reference; None: no reference is known
    detected_ml: float | None
    dice: float | None


def page(shown: Shown, before: str | None = None, after: str | None = None, index: bool = False) -> str:
    """Returns the page of one scan.

    Args:
      shown: the scan.
      before, after: identifiers of the scans whose pages lie beside this one and come before and after.
      index: whether a page with the list of all scans lies beside this one.
    """
    part = volumes.box(shown.brain if shown.reference is None else shown.brain | shown.reference)
    layers = _layers(shown, part)
    scripts = (_code("vendor/niivue.umd.js"), _code("templates/viewer.js"))
    return text.template("viewer.html").render(
        shown=shown,
        notice=text.NOTICE,
        style=_code("templates/viewer.css"),
        scripts=scripts,
        allowed=" ".join(_allowed(script) for script in scripts),
        licence=_file("vendor/niivue.LICENSE.txt"),
        layers=layers,
        data=_for_the_program(shown, part),
        rates=[(rate, percent(rate), float(np.float32(value))) for rate, value in shown.thresholds.items()],
        rate=percent(shown.rate),
        lesions=_lesions(shown, part),
        most=MOST_LESIONS,
        before=before and address(before),
        after=after and address(after),
        index=index,
    )


def index(lines: Sequence[Line], rate: str) -> str:
    """Returns the page with the list of scans, the largest lesion first.

    Args:
      lines: in any order; scans without a reference are sorted by what was detected.
      rate: false positive rate of the detections.
    """
    return text.template("viewer_index.html").render(
        notice=text.NOTICE,
        style=_code("templates/viewer.css"),
        lines=[(line, address(line.identifier)) for line in ordered(lines)],
        kinds=any(line.kind for line in lines),
        rate=percent(rate),
    )


def ordered(lines: Sequence[Line]) -> list[Line]:
    """Sorts scans by the volume of their lesion, or of what was detected, the largest first."""
    return sorted(lines, key=lambda line: (-(line.lesion_ml or 0), -(line.detected_ml or 0), line.identifier))


def name(identifier: str) -> str:
    """Returns the file name of a scan's page."""
    return f"{identifier}.html"


def address(identifier: str) -> str:
    """Returns the address of a scan's page as seen from the pages beside it."""
    return urllib.parse.quote(name(identifier), safe="")


def _layers(shown: Shown, part: tuple[slice, slice, slice]) -> list[tuple[str, str, str]]:
    """Returns what can be switched on and off: key, name and the gzipped NIfTI file as text; the scan is first."""
    affine = volumes.shifted(shown.affine, part)

    def encoded(data: np.ndarray) -> str:
        found = volumes.rounded(np.nan_to_num(data[part].astype(np.float32), posinf=0, neginf=0))
        return volumes.text(volumes.nifti(found.levels, affine, found.slope, found.intercept))

    def mask(data: np.ndarray) -> str:
        return volumes.text(volumes.nifti(volumes.bordered(data[part]), affine))

    found = volumes.rounded_above(shown.anomaly[part], shown.thresholds.get(shown.rate, 0.0))
    anomaly = volumes.text(volumes.nifti(found.levels, affine, found.slope, found.intercept))
    layers = [("scan", "Scan", encoded(shown.scan))]
    if shown.restored is not None:
        layers.append(("restored", "Restored", encoded(shown.restored)))
    layers.append(("anomaly", "Anomaly map", anomaly))
    if shown.detected is not None:
        layers.append(("detected", f"Detected at {percent(shown.rate)}", mask(shown.detected)))
    if shown.reference is not None:
        layers.append(("reference", "Reference", mask(shown.reference)))
    return layers


def _for_the_program(shown: Shown, part: tuple[slice, slice, slice]) -> markupsafe.Markup:
    """Returns what the program of the page is told, as JSON that is safe inside a script element."""
    inside = shown.scan[shown.brain & np.isfinite(shown.scan)]
    low, high = np.percentile(inside, (1, 99.5)) if inside.size else (0.0, 1.0)
    largest = max(shown.thresholds.values(), default=0.0)
    values = shown.anomaly[shown.brain]
    top = max(1.5 * largest, float(np.percentile(values, 99.95)) if values.size else 0.0, 1e-6)
    told: dict[str, Any] = {
        "window": [float(low), float(max(high, low + 1e-6))],
        "threshold": float(np.float32(shown.thresholds.get(shown.rate, 0.0))),
        "top": top,
        "unit": shown.unit,
        "voxelOf": np.linalg.inv(shown.affine).tolist(),
        "voxelMl": abs(float(np.linalg.det(shown.affine[:3, :3]))) / 1000,
        "start": _start(shown),
    }
    return markupsafe.Markup(json.dumps(told, allow_nan=False).replace("<", "\\u003c"))


def _start(shown: Shown) -> list[float]:
    """Returns where the crosshair starts, mm: at the strongest anomaly that a reference, or else the mask, holds."""
    for inside in (shown.reference, shown.detected, shown.brain):
        if inside is not None and inside.any():
            place = np.unravel_index(np.argmax(np.where(inside, shown.anomaly, -np.inf)), inside.shape)
            return (shown.affine[:3, :3] @ np.array(place, float) + shown.affine[:3, 3]).tolist()
    return [0.0, 0.0, 0.0]


def _lesions(shown: Shown, part: tuple[slice, slice, slice]) -> list[tuple[str, list[lesions.Lesion]]]:
    """Returns the connected components of the reference and of the mask, each with its name, the largest first."""
    masks = (("Reference", shown.reference), (f"Detected at {percent(shown.rate)}", shown.detected))
    affine = volumes.shifted(shown.affine, part)

    def measured(mask: np.ndarray) -> list[lesions.Lesion]:
        labels = lesions.label(mask[part], affine)
        return lesions.measure(labels, shown.anomaly[part], shown.brain[part], affine, shown.plane)

    return [(title, measured(mask)) for title, mask in masks if mask is not None]


def _allowed(script: str) -> str:
    """Returns the hash by which the page's policy lets one script run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@functools.cache
def _file(path: str) -> str:
    return resources.files("lgjax.report").joinpath(path).read_text(encoding="utf-8")


def _code(path: str) -> markupsafe.Markup:
    """Returns a file of this package that stands in the page as it is."""
    return markupsafe.Markup(_file(path))
