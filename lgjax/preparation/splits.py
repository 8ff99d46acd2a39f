"""Which subjects train, which calibrate and which test: people never split, the ill in test alone."""

import hashlib
from collections.abc import Iterable, Sequence

from lgjax.runtime.errors import UsageError
from lgjax.scans.names import identifier
from lgjax.scans.participants import is_healthy
from lgjax.scans.sources import Subject

SHARES = {"train": 0.8, "calibration": 0.1, "test": 0.1}  # of a folder's participants, by a hash of their names


def by_person(person: str) -> str:
    """Returns the split of a person: from a hash of the name, so adding subjects moves none."""
    position = int.from_bytes(hashlib.sha256(person.encode()).digest()[:8]) / 2**64
    for split, share in SHARES.items():
        position -= share
        if position < 0:
            return split
    return "test"


def splits_of(subjects: Sequence[Subject]) -> dict[str, str]:
    """Returns the split of every subject, by identifier: that of the person, but test where any scan of it is ill."""
    ill = {subject.participant for subject in subjects if not is_healthy(subject.kind)}
    people = {subject.identifier: subject.participant for subject in subjects}
    return {name: "test" if person in ill else by_person(person) for name, person in people.items()}


def assign(subjects: Sequence[Subject], calibration: Iterable[str] = ()) -> dict[str, str]:
    """Returns the split of every subject, by identifier.

    Args:
      subjects: all of a data set.
      calibration: scans or persons that alone are to be calibrated on, by any of their names, with all their scans;
        without any, a hash decides. Those whom the hash would take for calibration are trained on, then.

    Raises:
      UsageError: there is nobody of that name, or it is the name of somebody ill.
    """
    splits = splits_of(subjects)
    named = {person for name in calibration for person in _persons(name, subjects)}
    if not named:
        return splits
    for subject in subjects:
        if subject.participant in named:
            if not is_healthy(subject.kind):
                raise UsageError(f"--calibration: {subject.identifier} is {subject.kind}. Name healthy subjects.")
            splits[subject.identifier] = "calibration"
        elif splits[subject.identifier] == "calibration":
            splits[subject.identifier] = "train"
    return splits


def _persons(name: str, subjects: Sequence[Subject]) -> set[str]:
    """Returns the persons that a name means."""
    wanted = {name, identifier(name)}
    found = {one.participant for one in subjects if wanted & {one.identifier, one.original, one.participant}}
    if not found:
        known = ", ".join(sorted(subject.identifier for subject in subjects)[:5])
        raise UsageError(f"--calibration={name}: there is no such subject among {known}, ...")
    return found
