"""The table of a scan's lesions, as BIDS has it beside an image of labels, and the dictionary of its columns."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lgjax.derivatives.lesions import ONE_SIDE, Lesion


class Column(NamedTuple):
    """One column: how to read its value, what it says, and in which unit or with which values."""

    read: Callable[[Lesion], Any]
    about: str
    units: str = ""
    levels: dict[str, str] | None = None
    format: str = ""  # of BIDS; "": any text or number


_SIDES = {
    "left": f"{ONE_SIDE:.0%} of the voxels or more lie to the patient's left of the mid-sagittal plane",
    "right": f"{ONE_SIDE:.0%} of the voxels or more lie to the patient's right of the mid-sagittal plane",
    "midline": "fewer of the voxels lie on either side",
}
_BOX = "Centroid in the box around the brain mask, along the scanner's axes:"
_P = "Share of healthy scans whose largest false positive is at least as big, (1 + count) / (scans + 1); n/a: unknown"
COLUMNS = {
    "index": Column(
        lambda lesion: lesion.label, "Value of its voxels in the image; 1 is the largest", format="integer"
    ),
    "name": Column(lambda lesion: f"lesion {lesion.label}", "Name of the lesion"),
    "volume_ml": Column(lambda lesion: lesion.volume_ml, "Volume", "mL"),
    "x_mm": Column(lambda lesion: lesion.centroid_mm[0], "Centroid in the scanner, to the right", "mm"),
    "y_mm": Column(lambda lesion: lesion.centroid_mm[1], "Centroid in the scanner, to the front", "mm"),
    "z_mm": Column(lambda lesion: lesion.centroid_mm[2], "Centroid in the scanner, upwards", "mm"),
    "left_right": Column(lambda lesion: lesion.centroid_percent[0], f"{_BOX} 0 is left, 100 right", "percent"),
    "back_front": Column(lambda lesion: lesion.centroid_percent[1], f"{_BOX} 0 is the back, 100 the front", "percent"),
    "bottom_top": Column(lambda lesion: lesion.centroid_percent[2], f"{_BOX} 0 is the bottom, 100 the top", "percent"),
    "side": Column(lambda lesion: lesion.side, "Side of the head, the patient's own", levels=_SIDES),
    "peak": Column(lambda lesion: lesion.peak, "Highest magnitude of the score in the lesion"),
    "mean": Column(lambda lesion: lesion.mean, "Mean magnitude of the score in the lesion"),
    "p": Column(lambda lesion: lesion.p, _P),
}
_SCORES = ("peak", "mean")  # whose unit is the anomaly map's


def table(lesions: Sequence[Lesion]) -> str:
    """Returns the lines of the table, a lesion each, below their heading."""
    lines = [[_cell(column.read(lesion)) for column in COLUMNS.values()] for lesion in lesions]
    return "".join("\t".join(line) + "\n" for line in [list(COLUMNS), *lines])


def dictionary(unit: str) -> dict[str, Any]:
    """Returns what the columns mean, for the JSON file beside the table.

    Args:
      unit: of the anomaly map.
    """
    return {name: _entry(column, unit if name in _SCORES else column.units) for name, column in COLUMNS.items()}


def _entry(column: Column, units: str) -> dict[str, Any]:
    parts = {"Description": column.about, "Units": units, "Levels": column.levels, "Format": column.format}
    return {key: value for key, value in parts.items() if value}


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
