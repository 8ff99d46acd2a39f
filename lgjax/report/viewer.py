"""The viewer of one scan: a page that holds its volumes and the program that shows them, and asks no host for anything.

The program is NiiVue (vendor/niivue.LICENSE.txt). `show.py` makes what is shown of results on disk.
"""

import base64
import functools
import hashlib
import html
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple

import markupsafe
import numpy as np

from lgjax.calibration import promise
from lgjax.derivatives import lesions, pages
from lgjax.derivatives.sidecar import Midplane, Quality
from lgjax.evaluation.records import percent
from lgjax.preparation.likeness import MEANINGS
from lgjax.report import text, volumes

MOST_LESIONS = 20  # of a kind that the page lists, the largest first
START = 1 << 14  # characters of a page within which its line stands
_LINE = "lgjax-line"


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
    promised: Mapping[str, float] = MappingProxyType({})  # thresholds, by promised volume of false positives in mL
    plane: Midplane | None = None  # mid-sagittal, by which a lesion's side is told; None: none was looked for
    quality: Quality | None = None  # whether the scan is like healthy ones; None: the results do not say
    warnings: Sequence[str] = ()  # about the scan


class Line(NamedTuple):
    """One scan of a list."""

    identifier: str
    kind: str
    lesion_ml: float | None  # of the reference; None: no reference is known
    detected_ml: float | None
    dice: float | None
    rate: str  # false positive rate of the detection
    light: str = ""  # whether the scan is like healthy ones, see `likeness`; "": not stated, as by earlier versions
    warnings: int = 0  # about the scan


def page(shown: Shown, line: Line | None = None) -> str:
    """Returns the page of one scan.

    Args:
      shown: the scan.
      line: of the scan in the list that lies beside the page; the page holds it, see `read_line`, and leads to the
        neighbours by the list. None: the page lies alone.
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
        promises=[(volume, float(np.float32(value))) for volume, value in shown.promised.items()],
        cap=promise.CAP,
        rate=percent(shown.rate),
        lesions=_lesions(shown, part),
        most=MOST_LESIONS,
        about=describe(line) if line else "",
        meanings=MEANINGS,
        line=line and json.dumps(line._asdict()),
        name=_LINE,
        index=pages.INDEX,
        address=address(shown.identifier),
    )


def index(lines: Sequence[Line]) -> str:
    """Returns the page with the list of scans, the largest lesion first; without references, the largest detection.

    Every page leads to its neighbours by this one, which alone knows the order: `index.html#after=PAGE`.
    """
    script = _code("templates/viewer_index.js")
    return text.template("viewer_index.html").render(
        notice=text.NOTICE,
        style=_code("templates/viewer.css"),
        lines=[(line, address(line.identifier)) for line in ordered(lines)],
        kinds=any(line.kind for line in lines),
        lights=[(light, meaning) for light, meaning in MEANINGS.items() if any(line.light == light for line in lines)],
        warned=any(line.warnings for line in lines),
        compared=any(line.lesion_ml is not None for line in lines),
        rates=" or ".join(percent(rate) for rate in sorted({line.rate for line in lines})),
        script=script,
        allowed=_allowed(script),
        date=text.now(),
    )


def read_line(start: str) -> Line | None:
    """Returns the line of the list that a page holds.

    Args:
      start: the first `START` characters of the page, or all of it.

    Returns:
      None where the page is no page of a scan beside a list.
    """
    found = re.search(f'<meta name="{_LINE}" content="([^"]*)">', start)
    try:
        return Line(**json.loads(html.unescape(found[1]))) if found else None
    except (ValueError, TypeError):  # of another version
        return None


def describe(line: Line) -> str:
    """Returns what is known of a scan beside its volumes, in words."""
    volume = "" if line.lesion_ml is None else f"{line.lesion_ml:.1f} mL of lesion"
    found = "" if line.detected_ml is None else f"{line.detected_ml:.1f} mL detected"
    dice = "" if line.dice is None else f"Dice {line.dice:.3f}"
    return ", ".join(part for part in (line.kind, volume, found, dice) if part)


def ordered(lines: Sequence[Line]) -> list[Line]:
    """Sorts scans by the volume of their lesion, or of what was detected, the largest first."""
    return sorted(lines, key=lambda line: (-(line.lesion_ml or 0), -(line.detected_ml or 0), line.identifier))


def address(identifier: str) -> str:
    """Returns the address of a scan's page as seen from the pages beside it."""
    return urllib.parse.quote(pages.name(identifier), safe="")


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
    largest = max((*shown.thresholds.values(), *shown.promised.values()), default=0.0)
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
