"""Quality control of prepared scans: who differs from the cohort, a table of all, and one page to look through."""

import math
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lgjax.preparation import dataset, mosaic
from lgjax.report import tables, text
from lgjax.runtime import places
from lgjax.scans import names

LIMIT = 3.5  # robust z-score above which a subject is an outlier (Iglewicz and Hoaglin 1993)
MIN_SUBJECTS = 5  # fewer tell nothing of a cohort
_TO_SD = 1.4826  # standard deviation of a normal distribution / its median absolute deviation
_FLOOR = 0.02  # least standard deviation, of the median or of 1: the median absolute deviation may be 0

Row = Mapping[str, Any]


class Feature(NamedTuple):
    """A number of every subject in which one may differ from the cohort; intensities have arbitrary units."""

    name: str
    above: str  # key of the row
    below: str  # key of what it is divided by; "": nothing
    pattern: str  # how it is written
    causes: str  # what to look for where it is far off

    def read(self, row: Row) -> float:
        """Returns its value; NaN where it is unknown."""
        above, below = row.get(self.above), row.get(self.below) if self.below else 1.0
        value = math.nan if above is None or not below else float(above) / float(below)
        return value if math.isfinite(value) else math.nan

    def describe(self, value: float) -> str:
        """Writes a value of the feature with its unit."""
        return self.pattern.format(value)


FEATURES = (
    Feature(
        "brain volume", "brain_ml", "", "{:.0f} ml", "a mask that leaks or cuts, a cropped scan, wrong voxel sizes"
    ),
    Feature("axial slices", "slices", "", "{:.0f}", "a scan that ends inside the brain, another slice thickness"),
    Feature("bias field max / min", "bias_high", "bias_low", "{:.2f}", "a lesion or bright tissue taken for shading"),
    Feature("intensity p50 / p99", "p50", "p99", "{:.2f}", "another sequence than T2, fat in the mask, a large lesion"),
    Feature("intensity p1 / p99", "p01", "p99", "{:.2f}", "air or background in the mask, another sequence than T2"),
    Feature(
        "intensity sd / mean", "std", "mean", "{:.2f}", "another sequence than T2, noise, artefacts, a large lesion"
    ),
)


class Spread(NamedTuple):
    """One feature over the cohort."""

    feature: Feature
    values: np.ndarray  # [N], NaN where unknown
    median: float  # NaN if all are
    scores: np.ndarray  # [N], robust z-scores; NaN where unknown, or of too few subjects

    def reason(self, place: int) -> str:
        """Returns "brain volume 640 ml, cohort median 1380 ml"."""
        feature = self.feature
        value, median = feature.describe(self.values[place]), feature.describe(self.median)
        return f"{feature.name} {value}, cohort median {median}"

    def extremes(self) -> tuple[float, float]:
        """Returns the lowest and the highest value of the cohort, of those that are known."""
        return float(np.nanmin(self.values)), float(np.nanmax(self.values))

    def position(self, value: float) -> float:
        """Returns where a value lies between the lowest (0) and the highest (100) of the cohort."""
        low, high = self.extremes()
        return 100 * (value - low) / (high - low) if high > low else 50.0

    def marks(self, names: Sequence[str]) -> list[tuple[float, str, bool]]:
        """Returns position, words and whether it is far off, of each subject where it is known; those far off last."""
        found = [
            (self.position(float(value)), f"{name}: {self.feature.describe(value)}", bool(score > LIMIT))
            for name, value, score in zip(names, self.values, self.scores, strict=True)
            if not np.isnan(value)
        ]
        return sorted(found, key=lambda mark: mark[2])


class Scored(NamedTuple):
    """A subject and how far it is from its cohort."""

    row: Row
    score: float | None  # its largest robust z-score; None: too few subjects
    reasons: tuple[str, ...]  # the features above LIMIT in words, largest first; else only the largest
    causes: tuple[str, ...]  # what to look for, for each reason of an outlier

    @property
    def outlier(self) -> bool:
        return self.score is not None and self.score > LIMIT

    @property
    def notes(self) -> list[str]:
        """What was noted while it was prepared."""
        filled = self.row["filled"]
        return [
            *self.row["warnings"],
            *([f"{filled} voxels of the brain were not finite and were filled"] if filled else []),
        ]


class Failure(NamedTuple):
    """A subject that could not be prepared."""

    participant_id: str
    problem: str
    remedy: str


def spreads(rows: Sequence[Row], features: Sequence[Feature] = FEATURES) -> list[Spread]:
    """Returns the features of a cohort, with robust z-scores |x - median| / max(1.4826 MAD, floor)."""
    found = []
    for feature in features:
        values = np.array([feature.read(row) for row in rows])
        known = values[~np.isnan(values)]
        median = float(np.median(known)) if known.size else math.nan
        scores = np.full(len(values), math.nan)
        if known.size >= MIN_SUBJECTS:
            scale = max(_TO_SD * np.median(np.abs(known - median)), _FLOOR * max(abs(median), 1.0))
            scores = np.abs(values - median) / scale
        found.append(Spread(feature, values, median, scores))
    return found


def outliers(rows: Sequence[Row]) -> list[Scored]:
    """Orders the subjects of a cohort: first the outliers, then by score, the largest of their features' z-scores.

    Equal scores, to the digit that is shown, go by what was noted and then by name. Fewer than `MIN_SUBJECTS` have
    none.

    Args:
      rows: a dict for each prepared subject: participant_id, split, brain_ml, slices, bias_low and bias_high (of the
        removed field in the brain; None: none was), p01, p50 and p99 (of the corrected brain), mean and std (after
        matching), filled, warnings.
    """
    cohort, scored = spreads(rows), []
    for place, row in enumerate(rows):
        known = [spread for spread in cohort if not np.isnan(spread.scores[place])]
        known.sort(key=lambda spread: -spread.scores[place])
        far = [spread for spread in known if spread.scores[place] > LIMIT]
        reasons = tuple(spread.reason(place) for spread in far or known[:1])
        causes = tuple(spread.feature.causes for spread in far)
        scored.append(Scored(row, float(known[0].scores[place]) if known else None, reasons, causes))
    return sorted(scored, key=_order)


def page(title: str, rows: Sequence[Row], failures: Sequence[Failure], about: Mapping[str, Any]) -> str:
    """Returns the page of a prepared data set: HTML without script, beside the pictures that it shows.

    Args:
      title: names the data.
      rows: as in `outliers`, with voxels, zooms, orientation and brain_from.
      failures: the subjects that could not be prepared.
      about: what was done, by what and when, a line each.
    """
    scored = outliers(rows)
    return text.template("qc.html").render(
        title=title,
        notice=text.NOTICE,
        counts=_counts(scored, failures),
        outliers=[item for item in scored if item.outlier],
        others=[item for item in scored if not item.outlier],
        judged=any(item.score is not None for item in scored),
        failures=[failure._replace(problem=places.told(failure.problem)) for failure in failures],
        splits=_splits(scored),
        spreads=[spread for spread in spreads(rows) if not math.isnan(spread.median)],
        names=[row["participant_id"] for row in rows],
        about={key: places.told(text.describe(value)) for key, value in about.items()},
        limit=LIMIT,
        min_subjects=MIN_SUBJECTS,
        size=(mosaic.WIDTH, mosaic.HEIGHT),
        picture=_picture,
    )


def summary_tsv(rows: Sequence[Row]) -> str:
    """Returns summary.tsv: all columns of all subjects, outliers first, with nothing a spreadsheet would run.

    Args:
      rows: as in `outliers`; every key is a column.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = ["participant_id", "split", "score", "outlier", "reason"]
    keys = [*head, *(key for key in keys if key not in head)]
    lines = [keys]
    for item in outliers(rows):
        judged = {"score": item.score, "outlier": item.outlier, "reason": item.reasons}
        cells = {**item.row, **judged}
        lines.append([text.cell(cells.get(key)) for key in keys])
    return "".join("\t".join(line) + "\n" for line in lines)


def summary_text(rows: Sequence[Row], failures: Sequence[Failure], limit: int = 10) -> str:
    """Returns the summary for a terminal: counts, the subjects to look at first, and those that failed.

    Args:
      rows: as in `outliers`.
      failures: the subjects that could not be prepared.
      limit: the most lines of a table.
    """
    scored = outliers(rows)
    parts = [_counts(scored, failures) + "."]
    if scored and scored[0].score is None:
        parts.append(f"No scores: they need {MIN_SUBJECTS} subjects.")
    if scored:
        head = ["subject", "split", "brain, ml", "slices", "score", "look at"]
        parts.append(tables.aligned(head, [_line(item) for item in scored[:limit]]))
    if failures:
        lines = [[text.plain(part) for part in failure] for failure in failures[:limit]]
        parts.append(tables.aligned(["failed", "problem", "remedy"], lines))
    hidden = max(len(scored) - limit, 0) + max(len(failures) - limit, 0)
    return "\n\n".join([*parts, *([f"{hidden} more on the page."] if hidden else [])]) + "\n"


def _order(item: Scored) -> tuple:
    score = -1.0 if item.score is None else round(item.score, 1)
    return not item.outlier, -score, not item.notes, item.row["participant_id"]


def _counts(scored: Sequence[Scored], failures: Sequence[Failure]) -> str:
    """Returns "6 subjects prepared (5 train, 1 test), 1 outlier, 2 with notes, 1 failed"."""
    splits = ", ".join(f"{n} {text.plain(name)}" for name, n in Counter(item.row["split"] for item in scored).items())
    strange = sum(item.outlier for item in scored)
    parts = [f"{len(scored)} subject{'s' * (len(scored) != 1)} prepared" + (f" ({splits})" if splits else "")]
    if any(item.score is not None for item in scored):
        parts.append(f"{strange} outlier{'s' * (strange != 1)}")
    return ", ".join([*parts, f"{sum(bool(i.notes) for i in scored)} with notes", f"{len(failures)} failed"])


def _splits(scored: Sequence[Scored]) -> list[tuple[str, int, int, int, int]]:
    """Returns for each split: its name, subjects, slices, outliers and subjects with notes."""
    groups: dict[str, list[Scored]] = {}
    for item in scored:
        groups.setdefault(item.row["split"], []).append(item)
    return [
        (
            name,
            len(items),
            sum(item.row["slices"] for item in items),
            sum(item.outlier for item in items),
            sum(bool(item.notes) for item in items),
        )
        for name, items in sorted(groups.items())
    ]


def _line(item: Scored) -> list[str]:
    """Returns a subject's line for a terminal: an outlier has a star and its two strongest reasons."""
    row, score = item.row, "–" if item.score is None else f"{item.score:.1f}" + "*" * item.outlier
    look = "; ".join([*(item.reasons[:2] if item.outlier else ()), *item.notes])
    cells = (row["participant_id"], row["split"], f"{row['brain_ml']:.0f}", row["slices"], score, look)
    return [text.plain(cell) for cell in cells]


def _picture(identifier: str) -> str:
    """Returns the relative address of a subject's picture."""
    return names.figure("", urllib.parse.quote(identifier, safe=""), f"{dataset.PICTURE}.png").as_posix()
