"""The methods section of a paper about the maps in a folder."""

import pathlib
from importlib import metadata

from lgjax import __version__
from lgjax.calibration import promise
from lgjax.derivatives import boilerplate, occupied, read
from lgjax.derivatives.boilerplate import Used
from lgjax.detector import Detector
from lgjax.runtime import devices


def write(detector: Detector, folder: pathlib.Path) -> None:
    """Writes the methods section of a paper, of the maps in a folder that a detector made."""
    found = occupied.sidecars(folder, read.identifiers(folder))
    others = {name for some in occupied.outdated(folder, found, detector.about).values() for name in some}
    brains = occupied.brains(seen for name, seen in found.items() if name not in others)
    boilerplate.write(folder, used(detector, brains, len(others)))


def used(detector: Detector, brains: frozenset[str], others: int) -> Used:
    """Returns what the methods section of a paper needs to know of a folder of maps.

    Args:
      detector: that made the maps.
      brains: where the brain masks came from.
      others: maps in the folder that were made otherwise.
    """
    about, search, pvalues = detector.about, detector.about.get("Search"), detector.about.get("PValues")
    packages = {"jax": "jax", "flax": "flax", "nibabel": "nibabel", "simpleitk": "SimpleITK"}
    return Used(
        versions={"lgjax": __version__, **{key: metadata.version(name) for key, name in packages.items()}},
        device=devices.describe(list(detector.runner.mesh.devices.flat)),
        method=detector.method,
        settings=detector.runner.settings,
        recipe=detector.trained.recipe,
        trained_on=about["TrainedOn"],
        score=about["Score"],
        unit=about["AnomalyUnits"],
        strength=about["Lambda"],
        ssim=search["target"] if search else None,
        reached=bool(search and search["reached"]),
        rate=about["MaskRate"],
        threshold=about["Thresholds"][about["MaskRate"]],
        subjects=len(about["CalibrationSubjects"]),
        healthy=about.get("CalibratedOn", "healthy scans"),
        pvalues=pvalues and (pvalues["Voxels"], pvalues["Strata"]),
        promised=tuple((float(volume), value) for volume, value in (about.get("VolumeThresholds") or {}).items()),
        cap=promise.CAP,
        slice_step=detector.step,
        brains=brains,
        others=others,
    )
