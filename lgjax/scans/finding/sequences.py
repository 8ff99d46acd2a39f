"""Which sequence a scan is of, as far as its name or the JSON sidecar of its conversion tells."""

import pathlib
import re
from typing import Any

from lgjax.scans import dicom_header
from lgjax.scans.finding import folders, sidecars, written

T2 = "T2"

_AT = r"(?<![a-z0-9])(?:[23]d|ax|axial|sag|cor|tra|tse|fse|[wrm]{1,2})?"  # what people write right before T1 or T2


def _word(pattern: str) -> str:
    return rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])"


_ALWAYS = {  # what a name says even where it says T2 too
    "a phase image": _word(r"part-phase|phase(?![ _-]?\d)") + r"|_pha?$",
    "a real or imaginary part": r"part-(?:real|imag)|_(?:real|imaginary)$",
    "FLAIR": r"flair|dark[ _.-]?fl|da-fl|tirm|" + _word("t2f"),
    "ADC": _word(r"e?adc(?:map)?"),
    "DWI": _word(
        r"dwis?|dti|ep2d\w*|ep_b\d+\w*|trace[wf]?|diff|diffusion|noddi|hardi|fa_?map|ivim|b[_-]?(?:[5-9]\d\d|[1-4]\d{3})"
    ),
    "SWI or T2*": r"t2[ _-]?star|t2\*|"
    + _word(r"swi|swan|qsm|hemo|gre|ffe|medic|venobold|megre|fl[23]d\w*|m(?:in|n)?ip"),
    "a T2 map": r"t2[ _-]?map",
    "STIR": _word("stir"),
    "PSIR": _word("psir"),
    "PD": _word("pdt2"),
    "a localizer": r"locali[sz]er|" + _word(r"(?:aa)?h?(?:ead)?[_ -]?scout|topogram"),
    "BOLD": _word(r"bold|fmri|rs-?fmri|func"),
}
_T1 = _AT + r"t1(?!\d)|mp2?rage|" + _word(r"f?spgr|bravo|tfl(?:3d\d*)?|vibe|mdeft")
_T2 = _AT + r"t2(?!\d)"
_ALONE = {  # what a name says where it says neither T1 nor T2: abbreviations that may also be a person's or a group's
    "PD": _word(r"pdw?|proton|(?:pd[ _-]?)density"),
    "a localizer": _word(r"loc|survey|3-?pl(?:ane)?"),
    "perfusion": _word(r"p?c?asl|cb[fv]|perf|perfusion|dsc|dce"),
    "an angiogram": _word(r"tof|mr[av]|angio\w*"),
    "a field map": _word(r"fieldmap|fmap|b0(?:map)?|magnitude\d?|phasediff|t?b1(?:map|\w*srge)"),
    "MT": _word(r"mtr|mtsat"),
    "balanced SSFP": _word(r"ciss|fiesta|b-?tfe|trufi\w*|bssfp"),
    "T1": _word(r"mpr|unit1|flash|inplane_?t1"),
    "an echo-planar image": _word("epi|sbref|m0scan"),
    "CT": _word("ct|cta"),
    "PET": _word("pet"),
}
_GROUP = re.compile(r"^(?:pd|loc)[ _-]?\d{2,}(?![a-z0-9])")  # PD_012: patient 12 of the group PD
_NOT_ITS_OWN = re.compile(  # where it was registered to, and whose it is
    r"(?:(?<=_)|^)(?:sub|ses|run|space|from|to|res)-[^_]*|[_-](?:to|onto|in|on)[_-]?(?:t1|t2|flair|dwi|mni|pd)[a-z0-9]*"
)
_ITS_SPACE = re.compile(  # likewise, where the name says T2 before: T2toFLAIR, T2_brain_regtoFLAIR
    r"(?:(?:co)?reg(?:istered)?[_-]?(?:to|2)[_-]?|(?:(?<=t2)|(?<=t2w))(?:to|2)|[_-]2)(?:t1|t2|flair|dwi|mni|pd)[a-z0-9]*"
)
_IMAGE_TYPES = {  # elements of DICOM's Image Type
    "a phase image": {"P", "PHASE", "PHASE MAP", "PHASE_MAP"},
    "a real or imaginary part": {"REAL", "IMAGINARY"},
    "ADC": {"ADC", "EADC"},
    "DWI": {"DIFFUSION", "TRACEW", "TRACE", "FA", "TENSOR", "DWI"},
    "SWI or T2*": {"SWI", "MNIP", "MINIP", "MIN IP"},
    "a T2 map": {"T2 MAP", "T2_MAP", "T2MAP", "R2 MAP"},
    "T1": {"T1", "T1 MAP", "T1_MAP"},
    "PD": {"PROTON_DENSITY"},
    "FLAIR": {"FLUID_ATTENUATED"},
    "a localizer": {"LOCALIZER"},
    "a projection": {"PROJECTION IMAGE", "MIP"},
    "perfusion": {"PERFUSION", "CBF", "CBV", "ASL"},
    "BOLD": {"FMRI"},
}


def named(text: str, of_file: bool = True) -> str:
    """Returns the sequence that a name or a description says: T2, another one, or "" where it says none.

    Args:
      text: the name of a file without its ending, or a description.
      of_file: rather than of a folder, in which PD may be a group of patients.
    """
    text = re.sub(r"(?<=[a-z0-9])(?=T[12]w)", "_", text)  # subject1T1w
    text = _NOT_ITS_OWN.sub("", text.lower())
    text = _ITS_SPACE.sub(lambda found: "" if re.search(_T2, text[: found.start()]) else found[0], text)
    if found := _first_of(_ALWAYS, text):
        return found
    t1, t2 = re.search(_T1, text), re.search(_T2, text)
    if t1 or t2:  # T1_to_T2 is T1
        return T2 if t2 and not (t1 and t1.start() < t2.start()) else "T1"
    return "" if _GROUP.search(text) or not of_file else _first_of(_ALONE, text)


def other(image: pathlib.Path, texts: list[str]) -> str:
    """Tells that a scan is of another sequence than T2, and what says so; "" where nothing does.

    Args:
      image: the scan, beside which X.json may lie.
      texts: its name without the ending, then the names of folders that may tell, the nearest first.
    """
    said = "" if _is_counted(image, texts[0]) else named(texts[0])
    said = said or next((found for text in texts[1:] if (found := named(text, of_file=False))), "")
    if said and said != T2:
        return f"{said} by its name"
    slices = dicom_header.files_of(image)
    found, key = _by_record(dicom_header.summary(slices) if slices else sidecars.read(image))
    return f"{found} by {key} in its {'header' if slices else 'sidecar'}" if found else ""


def _is_counted(image: pathlib.Path, name: str) -> bool:
    """Returns whether a name is a letter and a number that more than one scan beside it counts on: B0, B1, B2."""
    counted = re.fullmatch(r"([A-Za-z])\d", name)
    if not counted:
        return False
    beside = (re.fullmatch(rf"{counted[1]}(\d+)\.(?:nii|hdr)(?:\.gz)?", path.name) for path in image.parent.glob("*"))
    return len({match[1] for match in beside if match}) > 2


def refusal(image: pathlib.Path, any_sequence: bool) -> tuple[str, str]:
    """Returns why an image that somebody named is not read, and what to do; "" twice where nothing says so.

    Args:
      image: a file, or the folder of a series.
      any_sequence: takes scans of any sequence; what lgjax.restore wrote is no scan all the same.
    """
    if here := written.here(image):
        return (
            f"is a result {here}, and no scan",
            "Give the scan that it was made from; rename it if another program wrote it",
        )
    said = "" if any_sequence else other(image, [folders.stem(image)])
    remedy = "Rename it if it is T2 after all, or give --any_sequence"
    return (f"is {said}, and no T2 scan", remedy) if said else ("", "")


def _first_of(table: dict[str, str], text: str) -> str:
    return next((sequence for sequence, pattern in table.items() if re.search(pattern, text)), "")


def _by_record(record: dict[str, Any]) -> tuple[str, str]:
    """Returns which other sequence than T2 a sidecar says, and the key that says so; "" twice where none does."""
    for sequence, values in _IMAGE_TYPES.items():
        if values & set(_texts(record.get("ImageType"))):
            return sequence, "ImageType"
    modality = str(record.get("Modality") or "MR")
    if modality != "MR":
        return modality, "Modality"
    kinds = set(re.split(r"[^A-Z]", str(record.get("ScanningSequence") or "").upper()))
    if "SE" not in kinds and kinds & {"GR", "EP"}:  # T2 is of spin echoes; the others are T1, T2*, DWI, BOLD
        return "a gradient echo" if "GR" in kinds else "an echo-planar image", "ScanningSequence"
    for key in ("SeriesDescription", "ProtocolName", "SequenceName"):
        if said := named(str(record.get(key) or "").lstrip("*")):
            if said != T2:
                return said, key
            break
    echo, inversion = (_number(record.get(key)) for key in ("EchoTime", "InversionTime"))  # s, as dcm2niix writes
    if echo is not None and 0 < echo < 0.03:
        return "T1 or PD", f"EchoTime {echo:g} s"
    if echo is not None and inversion is not None and echo > 0.06 and inversion > 1.5:
        return "FLAIR", f"InversionTime {inversion:g} s"
    return "", ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else str(value or "").split("\\")
    return [str(part).strip().upper() for part in values]
