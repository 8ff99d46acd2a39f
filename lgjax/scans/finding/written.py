"""The names of what lgjax.restore writes of a scan, and how a search knows such a file: it is nobody's scan."""

import pathlib
import re

from lgjax.scans.finding import sidecars

SPACE = "space-orig"
ANOMALY, PVALUE, RESTORED = MAPS = "desc-anomaly_T2w", "desc-pvalue_T2w", "desc-restored_T2w"
ANY_LESIONS = "seg-lesions_desc-*_dseg"  # with the name of a rate
_RATE, _VOLUME = "fpr", "vol"
_MAP = "|".join(name.partition("_")[0] for name in MAPS)
_NAMED = re.compile(rf"_({_MAP}|desc-{_RATE}\d[^_]*|label-lesion_desc-{_VOLUME}\d[^_]*)(?![a-z0-9])", re.IGNORECASE)
REASON = "written by lgjax"
_TOLD = {"Method", "Score", "InputSHA256"}  # by the sidecar of each image


def rate_name(rate: str) -> str:
    """Returns `fpr0p5` for the rate "0.005"."""
    return _RATE + f"{100 * float(rate):g}".replace(".", "p")


def volume_name(volume: str) -> str:
    """Returns `vol0p5` for the promised volume "0.5", mL."""
    return f"{_VOLUME}{volume}".replace(".", "p")


def is_named(image: pathlib.Path) -> bool:
    """Tells whether an image has a name that restore gives, whatever stands before and behind it."""
    return bool(_NAMED.search(image.name))


def here(image: pathlib.Path) -> str:
    """Tells that lgjax.restore wrote an image, by its name or its sidecar: that is no scan; "" for any other."""
    return REASON if is_named(image) or sidecars.read(image).keys() >= _TOLD else ""
