"""Who was scanned, by the headers of a series: compared with the names of folders, and never shown.

Headers are read as far as the UID of the series, which follows all that tells of the patient.
"""

import contextlib
import itertools
import pathlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lgjax.runtime.errors import InputError
from lgjax.scans import dicom_header

_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson")
_NUMBERS = ("PatientID", "OtherPatientIDs")
_MORE_NUMBERS = "OtherPatientIDsSequence"
_WHOLE = (
    *("PatientBirthDate", "AccessionNumber", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"),
    *("StudyInstanceUID", "SeriesInstanceUID"),
)
_REMOVED = "PatientIdentityRemoved"
_LAST = 0x0020000E  # SeriesInstanceUID
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_CONTAINED = 4  # letters and digits: a shorter text must be a word of its own
_CONTAINED_SIGNS = 2  # of scripts whose signs are words
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # AnnRoe
_NOBODY = re.compile(r"(anon\w*( \d+)?|no ?name|none|unknown|removed|de ?id\w*|hidden|patient|subject|n ?a|x+|0+)?")
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})


class Identity(NamedTuple):
    """What a series says of who was scanned, and when."""

    words: frozenset[str]  # that tell as a word of a name
    texts: frozenset[str]  # that tell anywhere in a name, without its punctuation
    series: str  # UID; "" where no file has one
    comparable: bool  # whether a name can be found not to tell


class _Said(NamedTuple):
    """What one file says."""

    names: tuple[str, ...]
    numbers: tuple[str, ...]
    whole: tuple[str, ...]
    series: str
    removed: bool  # as the file itself says


def of(paths: Sequence[pathlib.Path]) -> Identity:
    """Reads the headers of all files of a series.

    A name can be compared with the series where every file was read, and a file has a patient's name, and a file has a
    patient's number. A file that says of itself that they were removed needs none.
    """
    read = [_read(path) for path in paths]
    found = {said for said in read if said}
    told = [said for said in found if not said.removed]
    words, texts = (frozenset(itertools.chain(*map(part, told))) for part in (_words_of, _texts_of))
    uids = Counter(said.series for said in read if said)
    series = min(uids, key=lambda uid: (-uids[uid], uid), default="")  # a report beside has another
    complete = any(said.names for said in told) and any(said.numbers for said in told)
    return Identity(words, texts, series, None not in read and (complete or not told))


def anybody(identities: Iterable[Identity]) -> Identity:
    """Returns what all of some series say together, as `tells` asks for it."""
    found = list(identities)
    words, texts = (frozenset().union(*(getattr(one, part) for one in found)) for part in ("words", "texts"))
    return Identity(words, texts, "", all(one.comparable for one in found))


def tells(identity: Identity, name: str) -> bool:
    """Returns whether a name holds what tells who was scanned, but for case, accents, order and punctuation."""
    for plain in _spellings(_CAMEL.sub("_", name)):
        runs = re.findall(r"[^\W\d_]+|\d+", plain)
        words, squeezed = (*_split(plain), *runs), "".join(_split(plain))
        if not identity.words.isdisjoint((*words, *_split(plain.replace("_", "")))):
            return True
        if any(_is_long(text) and text in squeezed for text in identity.texts):
            return True
    return False


def _read(path: pathlib.Path) -> _Said | None:
    """Returns what a file says; None: the file is damaged, or ends before the UID of its series."""
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    tags: list[Any] = [Tag(keyword) for keyword in (*_NAMES, *_NUMBERS, _MORE_NUMBERS, *_WHOLE, _REMOVED)]
    with contextlib.suppress(InputError), dicom_header.damage([path], 0, ""), open(path, "rb") as file:
        found = read_partial(file, lambda tag, *_: int(tag) > _LAST, specific_tags=tags)
        if "SeriesInstanceUID" in found:
            more = [item.get("PatientID") for item in found.get(_MORE_NUMBERS) or []]
            return _Said(
                names=_persons(found, _NAMES),
                numbers=(*_persons(found, _NUMBERS), *map(str, filter(None, more))),
                whole=tuple(text for each in _WHOLE for text in dicom_header.texts(found.get(each))),
                series=str(found.get("SeriesInstanceUID") or ""),
                removed=str(found.get(_REMOVED, "")).upper() == "YES",
            )
    return None


def _persons(found: Any, keywords: Iterable[str]) -> tuple[str, ...]:
    """Lists names or numbers that stand for somebody, also where their coding is another than the header says."""
    texts = []
    for keyword in keywords:
        raw = found.get_item(keyword).value if keyword in found else None
        if isinstance(raw, bytes) and b"\x1b" not in raw:  # which begins a change of the coding
            texts += [raw.decode(coding, "ignore") for coding in ("utf-8", "latin-1")]
        texts += dicom_header.texts(found.get(keyword))
    return tuple(text for text in dict.fromkeys(texts) if not _NOBODY.fullmatch(" ".join(_split(text.casefold()))))


def _words_of(said: _Said) -> Iterator[str]:
    """Yields what tells as a word."""
    for plain in itertools.chain(*map(_spellings, (*said.names, *said.numbers))):
        words = _split(plain)
        pairs = ("".join(pair) for pair in itertools.permutations(words, 2))
        digits = (word.lstrip("0") for word in re.findall(r"\d+", plain))
        yield from (word for word in (*words, *pairs, *digits) if len(word) > word.isascii())


def _texts_of(said: _Said) -> Iterator[str]:
    """Yields what tells anywhere in a name."""
    yield from _words_of(said)
    for text in (*said.names, *said.numbers, *said.whole):
        yield from ("".join(_split(plain)) for plain in _spellings(text))
    for date in filter(None, map(_DATE.match, said.whole)):
        year, month, day = date.groups()
        yield from (f"{year}{month}{day}", f"{day}{month}{year}", f"{month}{day}{year}")


def _is_long(text: str) -> bool:
    """Returns whether a text tells where other letters or digits stand around it."""
    return len(text) >= (_CONTAINED if text.isascii() else _CONTAINED_SIGNS)


def _spellings(text: str) -> set[str]:
    """Returns a text in small letters without accents, as English and as German writes such letters."""
    small = unicodedata.normalize("NFC", text).casefold()
    return {_plain(small), _plain(small.translate(_GERMAN))}


def _plain(small: str) -> str:
    decomposed = unicodedata.normalize("NFKD", small.translate(_LETTERS))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _split(plain: str) -> list[str]:
    return re.findall(r"[^\W_]+", plain)
