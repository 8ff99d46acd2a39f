"""Subjects of the embedded synthetic data set, by a source such as phantom:test."""

import dataclasses
import functools
import re
from typing import NamedTuple

import numpy as np

from lgjax.runtime.errors import UsageError
from lgjax.scans import phantom
from lgjax.scans.subject import Subject
from lgjax.scans.volume import Scan, Volume


class _Split(NamedTuple):
    seed: int
    kinds: tuple[str, ...]
    default: int  # subjects of each kind, where a source names no number
    heads: str  # the split whose heads are drawn, see phantom.heads


_SPLITS = {
    "train": _Split(1, ("healthy",), 652, "train"),
    "calibration": _Split(2, ("healthy",), 24, "calibration"),
    "test": _Split(3, phantom.KINDS, 6, "test"),
    "dev": _Split(4, phantom.KINDS, 6, "dev"),
    "hard": _Split(5, phantom.HARD, 6, "test"),
    "hard-dev": _Split(6, phantom.HARD, 6, "dev"),
}


class _Asked(NamedTuple):
    """One subject of a source."""

    split: str
    number: int  # within split and kind
    request: phantom.Request


def is_phantom(spec: str) -> bool:
    """Returns whether a source is the embedded data set rather than a path."""
    return re.split("[:@]", spec)[0] == "phantom"


def subjects(spec: str) -> list[Subject]:
    """Lists subjects of the embedded data set; a split is a seed and, of three heads or more, its own heads."""
    return sorted((_subject(*asked) for asked in _asked(spec)), key=lambda subject: subject.identifier)


def twins(spec: str) -> list[tuple[Subject, Subject]]:
    """Pairs each patient of a source with the healthy brain that the patient was made from.

    Twins share head, grid, contrast, bias field and noise. They are equal to the bit outside the lesion and its soft
    border; a glioma also displaces the brain, and outside its masks twins differ by at most .1 standard deviations.

    Args:
      spec: phantom[@THICKNESS[+GAP]]:SPLIT[/KIND[+KIND ...]][:COUNT[:LABELS]], as `subjects` takes; healthy subjects
        have no pair.

    Returns:
      (patient, healthy twin), sorted by the patient's identifier; empty for the splits train and calibration.
    """
    patients = [asked for asked in _asked(spec) if asked.request.kind != "healthy"]
    healthy = [asked._replace(request=asked.request._replace(twin=True)) for asked in patients]
    pairs = [(_subject(*ill), _subject(*well)) for ill, well in zip(patients, healthy, strict=True)]
    return sorted(pairs, key=lambda pair: pair[0].identifier)


def _asked(spec: str) -> list[_Asked]:
    """Lists what a source asks for."""
    name, _, rest = spec.partition(":")
    split, count, labels = ([*rest.split(":", 2), "", "", ""])[:3]
    split, _, chosen = split.partition("/")
    named = re.fullmatch(r"phantom(?:@(?P<thickness>\d+\.?\d*)(?:\+(?P<gap>\d+\.?\d*))?)?", name)
    if not named or split not in _SPLITS or not (count.isdigit() or not count):
        expected = f"phantom[@THICKNESS[+GAP]]:SPLIT[/KIND][:COUNT[:LABELS]] with SPLIT {', '.join(_SPLITS)}"
        raise UsageError(f"{spec}: expected {expected}.")
    slab = (float(named["thickness"]), float(named["gap"] or 0)) if named["thickness"] else None
    seed, kinds, default, drawn = _SPLITS[split]
    wanted = chosen.split("+") if chosen else kinds
    if unknown := [kind for kind in wanted if kind not in kinds]:
        raise UsageError(f"{spec}: {split} has no kind {unknown[0]!r}; its kinds are {', '.join(kinds)}.")
    return [
        _Asked(split, number, phantom.Request(labels or None, drawn, seed, number * len(kinds) + k, kind, slab))
        for number in range(int(count or default))
        for k, kind in enumerate(kinds)
        if kind in wanted
    ]


def _subject(split: str, number: int, request: phantom.Request) -> Subject:
    part = functools.partial(_part, request)
    kind = f"{request.kind}:twin" if request.twin else request.kind
    source = f"phantom:{split}:{kind}:{number}"
    return Subject(
        identifier=f"sub-{re.sub('[^a-z]', '', split + kind)}{number:03d}",
        original=source,
        source=source,
        image=functools.partial(part, "image"),
        mask=functools.partial(part, "brain"),
        lesion=functools.partial(part, "lesion"),
        displaced=functools.partial(part, "displaced"),
        kind="healthy" if request.twin else request.kind,
        reading=phantom.digest(request),
    )


@functools.lru_cache(maxsize=8)
def _scan(request: phantom.Request) -> Scan:
    """Gives one phantom subject, kept for a moment because its image and masks are asked for in turn."""
    return phantom.get_subject(request)


def _part(request: phantom.Request, part: str) -> Volume:
    """Returns the image or a mask of a phantom subject."""
    scan = _scan(request)
    if part == "image":
        return scan.image
    return dataclasses.replace(scan.image, data=getattr(scan, part).astype(np.float32))
