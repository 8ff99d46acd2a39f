"""The card of a released model: what it is, what it was trained and calibrated on, and what its authors say of it."""

from collections.abc import Mapping, Sequence

from lgjax import __version__
from lgjax.report import text
from lgjax.workdir.calibrations import Calibration
from lgjax.workdir.weights import Trained

NAME = "MODEL_CARD.md"
SHOWN = "0.01"  # the false positive rate whose thresholds the card shows
NO_NOTES = "## Figures and known failures\n\nNone are stated: measure this model on scans like yours first.\n"


def render(
    name: str,
    model: str,
    parameters: int,
    dtype: str,
    trained: Trained,
    calibrations: Sequence[Calibration],
    calibrated_on: str,
    score: str,
    files: Mapping[str, str],
    notes: str,
) -> str:
    """Returns the card, in Markdown.

    Args:
      name: of the model.
      model: its kind of networks.
      parameters: their number.
      dtype: of the weights on disk.
      trained: what they were trained on, and how scans are prepared.
      calibrations: of the methods.
      calibrated_on: what the healthy scans of these are, see `cohort.kind`.
      score: whose thresholds are shown.
      files: SHA-256 by name.
      notes: what the authors say, in Markdown; "": nothing.
    """
    return text.template(NAME).render(
        name=name,
        model=model,
        parameters=parameters,
        dtype=dtype,
        version=__version__,
        preparation=trained.recipe.describe(),
        trained_on=trained.trained_on,
        subjects=len(trained.subjects),
        calibrated_on=calibrated_on,
        calibrations=[_row(calibration, score) for calibration in calibrations],
        files=files,
        notes=notes or NO_NOTES,
    )


def _row(calibration: Calibration, score: str) -> dict[str, str]:
    """Returns the cells of one calibration."""
    score = score if score in calibration.thresholds else next(iter(calibration.thresholds))
    threshold = calibration.thresholds[score].get(SHOWN)
    return {
        "method": calibration.method,
        "strength": "–" if calibration.strength is None else f"{calibration.strength:.3g}",
        "scans": str(len(calibration.subjects)),
        "voxels": f"{calibration.voxels:,}",
        "threshold": "–" if threshold is None else f"{threshold:.3g} ({score})",
        "date": str(calibration.versions.get("date", "–")),
    }
