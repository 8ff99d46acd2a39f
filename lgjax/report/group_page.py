"""The page of a cohort's results: distributions, every scan, what is unfinished; one file to read offline."""

import math
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lgjax.derivatives import sidecar
from lgjax.derivatives.sidecar import Sidecar
from lgjax.evaluation.records import percent
from lgjax.preparation.likeness import MEASURES
from lgjax.report import group, quality, text
from lgjax.report.group import Cohort
from lgjax.report.quality import Feature
from lgjax.runtime.counting import counted
from lgjax.scans import names

FEATURES = (
    Feature("lesion volume", "lesion_ml", "", "{:.1f} mL", "a large lesion, or a scan unlike the training brains"),
    Feature("lesions", "lesion_count", "", "{:g}", "noise, artefacts, a scan unlike the training brains"),
    Feature("highest score", "peak", "", "{:.2f}", "a bright lesion, or an artefact"),
    *(feature for feature in quality.FEATURES if feature.above in ("brain_ml", "slices")),
    Feature("midplane fit", "midplane_score", "", "{:.2f}", "a large lesion, a cropped or tilted head"),
    *(
        Feature(measure.words, f"qc_{name}", "", "{:.2g}" + measure.unit, measure.cause)
        for name, measure in MEASURES.items()
        if f"qc_{name}" in group.LIKENESS
    ),
)


def render(cohort: Cohort) -> str:
    """Returns the page: HTML without script, which opens from any place; links lead to the pictures beside it."""
    columns = group.columns(cohort)
    rows = [group.row(name, found, columns) for name, found in cohort.finished.items()]
    rows.sort(key=lambda row: (-row["lesion_ml"], row["bids_name"]))
    made = next((found.sidecar for found in cohort.finished.values()), None)
    return text.template("group.html").render(
        notice=text.NOTICE,
        date=text.now(),
        name=group.NAME,
        rows=rows,
        names=[row["bids_name"] for row in rows],
        columns=_columns(columns, rows),
        spreads=[spread for spread in quality.spreads(rows, FEATURES) if not math.isnan(spread.median)],
        limit=quality.LIMIT,
        least=quality.MIN_SUBJECTS,
        unfinished=cohort.unfinished,
        notes=[(name, note) for name, found in cohort.finished.items() for note in _notes(found.sidecar)],
        about=_about(made) if made else {},
        rate=percent(made.mask_rate) if made else "",
        picture=_picture,
        shown=_shown,
    )


def _columns(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists those columns of the table that have a value; the measures of likeness are shown as distributions alone."""
    return [name for name in names if name not in group.LIKENESS and any(row[name] is not None for row in rows)]


def _notes(told: Sidecar) -> list[str]:
    """Returns why a scan is unlike healthy ones, and the warnings about the scan."""
    unlike = told.quality.reasons if told.quality and told.quality.unlike else []
    return [*unlike, *told.warnings]


def _about(made: Sidecar) -> dict[str, str]:
    """Returns how the results were made, which is the same for all scans."""
    promised = ", ".join(f"{volume} mL: {value:.4g}" for volume, value in made.volume_thresholds.items())
    return {
        "method, score": f"{made.method}, {made.score}",
        "thresholds": ", ".join(f"{percent(rate)}: {value:.4g}" for rate, value in made.thresholds.items()),
        **({"thresholds of promised volumes": promised} if promised else {}),
        "calibrated on": counted(len(made.calibration_subjects), "healthy scan"),
        "trained on": text.describe(made.trained_on),
        "lgjax": text.describe(made.version),
    }


def _shown(value: Any) -> str:
    """Returns a value of the table for people: four digits of a number."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else text.cell(value)


def _picture(row: Mapping[str, Any]) -> str:
    """Returns the relative address of a scan's picture."""
    identifier = urllib.parse.quote(row["bids_name"].removesuffix("_T2w"), safe="")
    return names.figure("", identifier, f"{sidecar.SPACE}_{sidecar.ANOMALY}.png").as_posix()
