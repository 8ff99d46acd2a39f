"""Names of scans that lie in folders, a patient each: the part of the path that tells whose a scan is."""

import os
import pathlib
import re
from collections.abc import Sequence

from lgjax.scans import names
from lgjax.scans.finding import label_folders

_GENERIC = re.compile(  # of a folder: it says what is inside, not whose it is
    "anat|nii|nifti1?|mri?|images?|imgs?|scans?|data|raw|rawdata|converted|output|series|struct(ural)?", re.IGNORECASE
)
_TECHNICAL = re.compile(  # a word of a file's name for the sequence and the place
    "t[12]w?|[tf]?se|ax|axial|tra|trans|sag|sagittal|cor|coronal|space|cube|vista|blade|propeller|spc|fs|[23]d|iso|hr|"
    "brain|head|acq|run|echo|image|scan|series|mri?|nii|reg|n4|orig|native"
)
_VISIT = re.compile(
    r"(ses|session|visit|scan|study|exam|time[ _-]?point|tp|v|t|m|month|y|year|w|week|fu|follow[ _-]?up)[ _-]?\d+"
    r"|ses-\w+|baseline|bl|follow[ _-]?up|fu|pre|post|pre[ _-]?op|post[ _-]?op"
    r"|(19|20)\d\d[-_.]?\d\d[-_.]?\d\d\D?.*",
    re.IGNORECASE,
)
_BIDS = re.compile(r"sub-[^_]+(_[a-zA-Z0-9]+-[^_]+)*_T2w")
_SKIPPED = re.compile(r"(derivatives|code|labels?\w*|seg\w*|figures)", re.IGNORECASE)


def is_skipped(folder: str) -> bool:
    """Tells whether a folder holds no scans by its name: labels, masks, derivatives."""
    return folder.startswith(".") or bool(_SKIPPED.fullmatch(folder)) or label_folders.may_hold_labels(folder)


def name(folders: list[str], stem: str, alone: bool) -> str:
    """Names a scan after its folders as BIDS would: sub-PATIENT_ses-VISIT_acq-FILE, but for what tells nothing.

    The name does not depend on which other patients there are.

    Args:
      folders: those between the input and the scan.
      stem: the name of the file without its ending.
      alone: whether no other scan lies in the same folder: then the name of the file adds nothing.
    """
    kept = [folder.removeprefix("sub-") for folder in folders if not _is_generic(folder)]
    people = [folder for folder in kept if not _VISIT.fullmatch(folder)]
    visits = [re.sub(r"^ses-", "", folder) for folder in kept if folder not in people]
    if not people:  # the input is the patient's folder, and each visit is listed; or the file alone tells
        people, visits = kept or [stem], []
    if not alone and not _is_technical(stem, {token for folder in people for token in _tokens(folder)}):
        people = [*people, stem]  # a folder of several patients
    parts = [("sub", "-".join(people)), ("ses", "".join(visits)), ("acq", "" if alone or stem in people else stem)]
    return "_".join(f"{key}-{value.replace('_', '-')}" for key, value in parts if value)


def of_participant(root: pathlib.Path, folders: Sequence[str], stem: str) -> str:
    """Returns the BIDS name of a scan where the input is its participant's folder, or a session's in it; else "".

    Args:
      root: the input.
      folders: those between the input and the scan.
      stem: the name of the file without its ending.
    """
    above = pathlib.PurePath(os.path.abspath(root)).parts[-2:]
    if not _BIDS.fullmatch(stem) or stem.partition("_")[0] not in above:
        return ""
    return names.of_session(stem.removesuffix("_T2w"), pathlib.PurePath(*above, *folders))


def _is_generic(folder: str) -> bool:
    return bool(_GENERIC.fullmatch(folder)) or all(map(_TECHNICAL.fullmatch, _tokens(folder)))


def _is_technical(stem: str, known: set[str]) -> bool:
    """Tells whether the name of a file says no more about the patient than the folders do."""
    return all(_TECHNICAL.fullmatch(token) or token in known or token.isdigit() for token in _tokens(stem))


def _tokens(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
