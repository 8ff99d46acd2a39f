"""Unsupervised lesion detection in brain MRI by locally Gaussian restoration (Chen et al. 2019). Research use only.

    import lgjax
    detector = lgjax.load("runs/vae")      # weights, lambda, thresholds, recipe
    scan = lgjax.read("scan.nii.gz")       # or a nibabel image; lgjax.find("folder") lists the scans of a folder
    found = detector(scan)                 # found.anomaly, found.masks["0.01"], found.restored: on the scan's own grid
    found.save("out")                      # what the command `lgjax restore` writes
    lgjax.view(found, "scan.html")         # a page that opens the volumes in a browser

Nothing heavy is imported before one of these names is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgjax.detector import Detection, Detector, find, load, read
    from lgjax.report.show import view

__version__ = "0.1.0"
__all__ = ["Detection", "Detector", "__version__", "find", "load", "read", "view"]


def __getattr__(name: str) -> Any:
    """Imports the public face when it is first asked for (PEP 562)."""
    if name in __all__:
        return getattr(importlib.import_module("lgjax.report.show" if name == "view" else "lgjax.detector"), name)
    raise AttributeError(f"module 'lgjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
