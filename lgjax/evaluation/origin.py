"""What the sidecars of the evaluated subjects tell of how they were restored, and by what."""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

import lgjax
from lgjax.derivatives.sidecar import Convergence, Sidecar
from lgjax.evaluation.records import Provenance, Timing
from lgjax.evaluation.references import References
from lgjax.runtime import places


def timing(sidecars: Sequence[Sidecar]) -> Timing:
    """Returns the time of an iteration; the size of a batch where it is the same for all subjects."""
    times = [item.seconds_per_iteration for item in sidecars if item.seconds_per_iteration]
    first = sidecars[0]
    alike = all((item.batch_size, item.grid) == (first.batch_size, first.grid) for item in sidecars)
    batch_size, grid = (first.batch_size, first.grid) if alike else (None, None)
    return Timing(float(np.median(times)) if times else None, len(times), batch_size, grid)


def convergence(sidecars: Sequence[Sidecar]) -> Convergence | None:
    """Returns the mean trace of the subjects that have one at the same iterations as the first that has one."""
    traces = [item.convergence for item in sidecars if item.convergence]
    if not traces:
        return None
    traces = [item for item in traces if item.iteration == traces[0].iteration]
    means = np.mean([item.change for item in traces], axis=0)
    return Convergence(traces[0].iteration, [float(f"{value:.6g}") for value in means])


def provenance(folder: pathlib.Path, references: References, sidecars: Sequence[Sidecar]) -> Provenance:
    """Returns where the numbers come from."""
    first = sidecars[0]
    return Provenance(
        predictions=places.shown(folder),
        labels=places.shown(references.said),
        lesion_labels=references.values,
        trained_on=places.told(first.trained_on) if isinstance(first.trained_on, str) else first.trained_on,
        lambda_=first.strength,
        seed=first.seed,
        config_sha256=first.config_sha256,
        weights_sha256=first.weights_sha256,
        calibration_subjects=len(first.calibration_subjects),
        restored_by_version=_listed(item.version for item in sidecars),
        jax_version=_listed(item.jax_version for item in sidecars),
        device=_listed(item.device for item in sidecars),
        evaluated_by_version=lgjax.__version__,
    )


def _listed(values: Iterable[str | None]) -> str:
    """Returns the different values as one text."""
    return ", ".join(sorted({str(value) for value in values}))
