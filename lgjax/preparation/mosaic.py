"""The picture of one prepared subject: the raw scan with the outline of its brain, and what the model sees of it.

One pixel is one millimetre, so heads can be compared by eye. The picture is put together as an array of palette
numbers and encoded once.
"""

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from lgjax.preparation.slices import BACKGROUND, Slices
from lgjax.scans import orientation

WIDTH, HEIGHT = 960, 472  # pixels
WINDOW = (BACKGROUND, -BACKGROUND)  # z-scores, black and white
_PANEL = (216, 216, 180)  # pixels from inferior to superior, anterior to posterior, right to left
_GAP, _CAPTION = 6, 17  # pixels
_MARGIN = 8.0  # mm around the brain, both sides together
_HEIGHTS = (0.25, 0.5, 0.75)  # of the brain, where it is cut
_GREYS = 48  # few, for small files
_OUTSIDE, _OUTLINE, _BAR = _GREYS, _GREYS + 1, _GREYS + 2  # palette numbers
_COLOURS = ((30, 42, 58), (255, 210, 30), (120, 184, 224))  # of these
_BINS = 70
_HISTOGRAM_SLICES = 32  # at most


class _Cut(NamedTuple):
    """A plane of the raw scan."""

    values: np.ndarray  # [H, W]
    inside: np.ndarray  # [H, W] bool, brain
    rows: np.ndarray  # [panel's height, H], see `_overlap`
    columns: np.ndarray  # [panel's width, W]


def mosaic(image: np.ndarray, brain: np.ndarray, affine: np.ndarray, slices: Slices) -> bytes:
    """Returns the picture of one subject as PNG; every order of the voxel axes gives the same.

    Above, the raw scan with the outline of the brain: axial slices, a coronal and a sagittal one. Below, the same
    axial slices as the model sees them, and the histogram of z-scores. The patient's right, or anterior, is on the
    left. A brain too large for the panels makes a pixel more than one millimetre.

    Args:
      image: [X, Y, Z], the raw scan in its own units.
      brain: [X, Y, Z] bool, not empty.
      affine: [4, 4], voxel -> mm (RAS+).
      slices: of the scan, at least one.
    """
    order, zooms = orientation.to_lps(affine), orientation.zooms(affine)
    scan, inside = orientation.axial(image, order), orientation.axial(brain, order)  # [S, H, W]
    box = orientation.box(inside)
    sizes = ((part.stop - part.start) * zoom + _MARGIN for part, zoom in zip(box, zooms, strict=True))
    scale = max(1.0, *(size / pixels for size, pixels in zip(sizes, _PANEL, strict=True)))
    lengths = [zoom / scale for zoom in zooms]
    middle = [
        (part.start + part.stop) // 2 for part in box
    ]  # the edge of a voxel: where voxels are pixels, nothing is interpolated
    up, down, across = (_overlap(*part) for part in zip(scan.shape, lengths, _PANEL, middle, strict=True))
    places = _nearest(slices.number, box[0].start, box[0].stop)
    cuts = [_Cut(scan[k], inside[k], down, across) for k in slices.number[places]]
    _, row, column = (min(m, size - 1) for m, size in zip(middle, scan.shape, strict=True))
    cuts.append(_Cut(scan[:, row], inside[:, row], up[::-1], across))  # superior on top
    cuts.append(_Cut(scan[:, :, column], inside[:, :, column], up[::-1], down))
    captions = [f"slice {number}" for number in slices.number[places]]
    return _compose(_raw(cuts), [_seen(plane) for plane in slices.y[places, :, :, 0]], captions, slices)


def _overlap(size: int, length: float, pixels: int, centre: float) -> np.ndarray:
    """Returns [pixels, size]: how much of each pixel each voxel fills, 0 to 1.

    Args:
      size: voxels.
      length: of a voxel, in pixels.
      pixels: of the panel.
      centre: of the panel, in voxels from the start of the first one.
    """
    edges = np.arange(pixels + 1) - pixels / 2 + centre * length
    borders = np.arange(size + 1) * length
    return np.maximum(np.minimum(edges[1:, None], borders[1:]) - np.maximum(edges[:-1, None], borders[:-1]), 0)


def _nearest(index: np.ndarray, first: int, stop: int) -> list[int]:
    """Returns the places of the slices nearest to some heights of the brain, upwards, each once."""
    wanted = [first + height * (stop - 1 - first) for height in _HEIGHTS]
    return list(dict.fromkeys(int(np.abs(index - height).argmin()) for height in wanted))


def _raw(cuts: Sequence[_Cut]) -> list[np.ndarray]:
    """Returns panels of the raw scan on one grey scale: the brain's 0.5 to 99.8 percentile in these cuts."""
    values = np.concatenate([cut.values[cut.inside] for cut in cuts]).astype(np.float64)
    low, high = np.percentile(values[np.isfinite(values)], [0.5, 99.8])
    panels = []
    for cut in cuts:
        panel = _grey(cut.values, cut.rows, cut.columns, low, high)
        half = cut.rows @ cut.inside.astype(np.float64) @ cut.columns.T >= 0.5 - 1e-9
        panel[ndimage.binary_dilation(half) & ~half] = _OUTLINE  # outside, so that it hides nothing of the brain
        panels.append(panel)
    return panels


def _seen(plane: np.ndarray) -> np.ndarray:
    """Returns one of the model's slices, [H, W] z-scores, as large as a panel allows."""
    length = min(pixels / size for pixels, size in zip(_PANEL[1:], plane.shape, strict=True))
    sides = zip(plane.shape, _PANEL[1:], strict=True)
    rows, columns = (_overlap(size, length, pixels, size / 2) for size, pixels in sides)
    return _grey(plane, rows, columns, *WINDOW)


def _grey(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns a panel of palette numbers: the mean grey of what lies in each pixel, NaN as black."""
    values = np.ascontiguousarray(plane, np.float64)  # one order in memory: equal scans give equal sums
    levels = np.nan_to_num((np.clip(values, low, high) - low) / max(high - low, np.finfo(np.float64).tiny))
    covered = np.outer(rows.sum(axis=1), columns.sum(axis=1))
    mean = rows @ levels @ columns.T / np.maximum(covered, 1e-9)
    panel = np.rint(mean * (_GREYS - 1)).astype(np.uint8)
    panel[covered < 0.5] = _OUTSIDE
    return panel


def _compose(raw: Sequence[np.ndarray], seen: Sequence[np.ndarray], captions: Sequence[str], slices: Slices) -> bytes:
    """Puts panels, captions and the histogram in their places and encodes the picture."""
    canvas, text = np.zeros((HEIGHT, WIDTH), np.uint8), Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(text)
    lefts = [(_PANEL[2] + _GAP) * number for number in range(5)]
    top, below = _CAPTION, HEIGHT - _PANEL[0]
    for left, panel, caption in zip(lefts, raw, captions, strict=False):
        _place(canvas, draw, (left, top), panel, ("R", caption if left else f"raw scan, {caption}", "L"))
    for left, panel, caption in zip(lefts, seen, captions, strict=False):
        _place(canvas, draw, (left, below), panel, ("R", caption if left else f"model, {caption}", "L"))
    _place(canvas, draw, (lefts[3], top), raw[-2], ("R", "coronal", "L"))
    _place(canvas, draw, (lefts[4], top), raw[-1], ("A", "sagittal", "P"))
    _histogram(canvas, draw, (lefts[3] + 12, below), slices)
    ink = np.asarray(text).astype(np.float64) / 255
    picture = Image.fromarray(np.where(ink > 0, np.rint(ink * (_GREYS - 1)).astype(np.uint8), canvas))
    ramp = np.linspace(0, 255, _GREYS).astype(int).repeat(3)
    picture.putpalette([*ramp.tolist(), *(part for colour in _COLOURS for part in colour)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _place(
    canvas: np.ndarray,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    panel: np.ndarray,
    caption: tuple[str, str, str],
) -> None:
    """Puts a panel at a corner (left, top), and the caption's parts above its left end, middle and right end."""
    (left, top), (height, width) = corner, panel.shape
    canvas[top : top + height, left : left + width] = panel
    for x, anchor, text in zip((left + 2, left + width // 2, left + width - 3), "lmr", caption, strict=True):
        draw.text((x, top - 3), text, fill=255, anchor=f"{anchor}s", font=_font())


def _histogram(canvas: np.ndarray, draw: ImageDraw.ImageDraw, corner: tuple[int, int], slices: Slices) -> None:
    """Draws the histogram of the brain's z-scores, and below it the grey scale of the model's panels."""
    step = -(-len(slices.number) // _HISTOGRAM_SLICES)
    values = slices.y[::step][slices.mask[::step] > 0]
    low, high = WINDOW
    bins = np.floor((values - low) / (high - low) * _BINS).astype(int)
    counts = np.bincount(bins[(bins >= 0) & (bins < _BINS)], minlength=_BINS)
    size, height = 5, _PANEL[0] - 34  # pixels: width of a bar, height of the highest
    bars = np.rint(counts / max(counts.max(), 1) * height).repeat(size)
    panel = np.where(np.arange(height, 0, -1)[:, None] <= bars, _BAR, 0)
    ramp = np.tile(np.rint(np.linspace(0, _GREYS - 1, len(bars))), (12, 1))
    ramp[:2] = 0
    title = f"z-scores of the brain: {(bins < 0).mean():.1%} darker, {(bins >= _BINS).mean():.1%} brighter than this"
    _place(canvas, draw, corner, np.concatenate([panel, ramp]), ("", title, ""))
    for z in range(-3, 4):
        x = corner[0] + (z - low) / (high - low) * len(bars)
        draw.text((x, HEIGHT - 6), f"{z}", fill=255, anchor="ms", font=_font())


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)  # the one in Pillow: the same everywhere
