"""Who was scanned, from the name of a scan: all scans of one person belong into one split.

Dates and words for visits are left out of a name; the rest is the person where it holds a person's number:
HC000_20210101_T2 and HC000_20210608_T2 are HC000. Any other name is a person of its own. A name alone decides, not
its neighbours, so that a second visit that comes later moves nobody.
"""

import re
from collections.abc import Iterable

_MONTHS = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_START, _END = r"(?:^|(?<=[_.\s-]))", r"(?=$|[_.\s-])"
_TIME = r"(?:[T_-]?(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?)?"
_DATES = (
    rf"{_YEAR}(?P<a>[-_.]?){_MONTH}(?P=a){_DAY}",  # 20210131, 2021-01-31
    rf"{_DAY}(?P<b>[-_.]?){_MONTH}(?P=b){_YEAR}",  # 31012021, 31.01.2021
    rf"{_MONTH}(?P<c>[-_.]?){_DAY}(?P=c){_YEAR}",  # 01312021, 01-31-2021
    rf"{_DAY}[-_.]?{_MONTHS}[-_.]?{_YEAR}",  # 31Jan2021
    rf"{_YEAR}[-_.]?{_MONTHS}[-_.]?{_DAY}",  # 2021-Jan-31
    rf"{_YEAR}-{_MONTH}",  # 2021-01
)
_SAID = (  # means a visit wherever it stands
    r"(?:ses|session|visit|timepoint|tp)[_-]?\d{1,3}[a-d]?",
    r"baseline|follow-?up[_-]?\d{0,2}",
)
_LATER = (  # means a visit after a person's number
    r"(?:v|time|scan|run|rescan|retest|exam|mr|fu|month|mo|m|week|wk|w|day|d|year|yr|y)[_-]?\d{1,4}[a-d]?",
    r"bl|fu|pre|post|preop|postop|initial|final|test|retest|rescan|repeat|screening|first|second|third",
    rf"\d\d(?P<d>[-.]?){_MONTH}(?P=d){_DAY}",  # 210131
)
_ANYWHERE = re.compile(rf"{_START}(?:(?:{'|'.join(_DATES)}){_TIME}|{'|'.join(_SAID)}){_END}", re.IGNORECASE)
_AFTER = re.compile(rf"{_START}(?:{'|'.join(_LATER)}){_END}", re.IGNORECASE)
_JOINED = re.compile(rf"(?<=\d)(?:(?:ses|session|visit|v|tp|fu)-?\d{{1,2}}|baseline|followup){_END}", re.IGNORECASE)
_NO_PERSON = re.compile(  # numbers of sequences, sizes and sites
    r"t[12](?:w|star)?|\d(?:\.\d)?t|[23]d|\d+(?:\.\d+)?mm|\d+x\d+(?:x\d+)?|v?\d*iso\d*|(?:te|tr|ti|fa|echo)\d*|b\d+00|"
    r"(?:site|cent(?:er|re)|scanner|study|batch|cohort|group|series|part|release)\d*",
    re.IGNORECASE,
)
_SEQUENCE = re.compile("t2w?|t1w?|flair|tse|fse|space|ax|axial|tra|cor|sag|[23]d|iso|brain|bet|stripped", re.IGNORECASE)
_LAST = re.compile(r"(.*\d)(?:[_\s-]+(?:\d{1,2}|[a-eA-E])|[a-e])")  # a number or a letter that may count visits
_VISITED = 5  # times at most, where names count the visits
_TIME_POINT = re.compile(r"(?<=-\d{5})-\d{3}$|_ses-.*")  # of BraTS-GLI-00000-001


def person_of(name: str) -> str:
    """Returns who was scanned, by the name of the scan; the name itself where it tells nobody.

    Args:
      name: as found: sub-01 of sub-01_ses-2_run-1; what remains of other names without dates and visits.
    """
    if name.startswith("sub-"):
        return name.split("_")[0]
    short = _TIME_POINT.sub("", name)
    match = _ANYWHERE.search(short)
    if match and (_is_numbered(short[: match.start()]) or _is_numbered(_ANYWHERE.sub("", short), least=2)):
        short = _without(_ANYWHERE, short, match.start())
    short = _JOINED.sub("", short)
    match = next((found for found in _AFTER.finditer(short) if _is_numbered(short[: found.start()])), None)
    return _without(_AFTER, short, match.start()) if match else short


def likely(names: Iterable[str]) -> dict[str, list[str]]:
    """Lists scans that may be of one person though `person_of` does not say so: HC007_1, HC007_2; Smith at two dates.

    Returns:
      The names by their common start; {} unless all groups are small, for a study's number starts all of its names.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if (start := _undated(name)) and not name.startswith("sub-"):
            groups.setdefault(start, []).append(name)
        match = _LAST.fullmatch(person_of(name))
        if match and not name.startswith("sub-") and _is_numbered(match[1]):
            groups.setdefault(match[1], []).append(name)
    found = {start: sorted(scans) for start, scans in groups.items() if len(scans) > 1}
    return found if all(len(scans) <= _VISITED for scans in found.values()) else {}


def _undated(name: str) -> str:
    """Returns what stands before or behind a date in a name without a person's number, as Smith of Smith_20210101."""
    match = _ANYWHERE.search(name)
    if match is None or person_of(name) != name:
        return ""
    words = re.split(r"[_\s-]+", name[: match.start()] + "_" + name[match.end() :])
    return "_".join(word for word in words if word and not (_NO_PERSON.fullmatch(word) or _SEQUENCE.fullmatch(word)))


def _without(pattern: re.Pattern, name: str, start: int) -> str:
    """Leaves out of a name, from a place on, what a pattern matches, and words for the sequence there."""
    words = re.split(r"[_\s-]+", pattern.sub("", name[start:]))
    kept = [name[:start].strip("_-. "), *(word.strip(".") for word in words if not _SEQUENCE.fullmatch(word))]
    return "_".join(filter(None, kept))


def _is_numbered(text: str, least: int = 1) -> bool:
    """Returns whether a part of a name holds what may be a person's number, with so many digits at least."""
    words = (word for word in re.split(r"[_\s-]", text) if not _NO_PERSON.fullmatch(word))
    return any(re.search(rf"\d{{{least}}}", word) for word in words)
