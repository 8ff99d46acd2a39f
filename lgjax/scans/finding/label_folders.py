"""References in a folder of their own, beside the scans or beside the folder of the scans: images/ with labels/."""

import pathlib
import re

from lgjax.scans.finding.folders import home, is_nifti

_LABELS = re.compile(
    r"labels?|segs?|segmentations?|lesions?|lesion_?masks?|annotations?|ground_?truths?|gt", re.IGNORECASE
)
_MASKS = re.compile(r"masks?|manual\w*", re.IGNORECASE)  # may be those of the brain: the name of the file must tell
_IMAGES = re.compile(
    r"images?|imgs?|scans?|t2w?|mri?|nii|nifti|anat|data|raw|raw_?data|orig|pre|preprocessed(_?data)?", re.IGNORECASE
)


def places(image: pathlib.Path) -> list[pathlib.Path]:
    """Lists where folders of labels may lie: beside the scan, and beside a folder that is called images or the like."""
    folder = home(image)
    return [folder, folder.parent] if _IMAGES.fullmatch(folder.name) else [folder]


def files(place: pathlib.Path) -> list[tuple[pathlib.Path, bool]]:
    """Lists the files of a place's folders of labels, and whether a scan's own name is enough for each."""
    folders = [path for path in sorted(place.glob("*")) if may_hold_labels(path.name)]
    inside = [(path, _is_labels(folder)) for folder in folders if folder.is_dir() for path in sorted(folder.glob("*"))]
    return [(path, enough) for path, enough in inside if is_nifti(path)]


def may_hold_labels(folder: str) -> bool:
    """Tells whether a folder holds labels or masks, by its name."""
    return bool(_LABELS.fullmatch(folder) or _MASKS.fullmatch(folder))


def _is_labels(folder: pathlib.Path) -> bool:
    return bool(_LABELS.fullmatch(folder.name))
