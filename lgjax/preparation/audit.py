"""What is about to be trained on, in a few lines, before the work: splits, persons, who is left out and who stays."""

from collections.abc import Sequence
from typing import NamedTuple

from lgjax.runtime.errors import UsageError
from lgjax.scans.participants import is_called_healthy, is_healthy
from lgjax.scans.persons import likely

NAMED = 6  # names in a line, before "and N more"


class Row(NamedTuple):
    """One scan, as far as its place in the cohort goes."""

    name: str
    person: str
    split: str  # train, calibration or test
    kind: str = ""
    kept: bool = False  # of an earlier command, and not in --input
    marked: bool = False  # a reference segmentation lies beside the scan


def text(rows: Sequence[Row]) -> str:
    """Returns the lines for people, the splits first."""
    well = [row for row in rows if is_healthy(row.kind)]
    ill = [f"{row.name} ({row.kind})" for row in rows if not is_healthy(row.kind)]
    first = [", ".join(_share(split, well) for split in ("train", "calibration", "test"))]
    first += _left_out(ill)
    if kept := sum(row.kept for row in rows):
        first.append(f"{kept} in the folder that --input does not have stay")
    lines = ["; ".join(first)]
    if several := _several(rows):
        scans = [f"{person} ({listed(names)})" for person, names in several.items()]
        lines.append(f"persons with several scans, each in one split: {len(several)}: {listed(scans)}")
    return "\n".join(lines)


def training(rows: Sequence[Row], ill: Sequence[str]) -> str:
    """Returns the line for a training: who is trained on, who is held out, and who is neither, being ill."""
    return "; ".join([", ".join(_share(split, rows) for split in ("train", "calibration")), *_left_out(ill)])


def check(spec: str, rows: Sequence[Row]) -> None:
    """Raises UsageError where somebody ill is to be trained on, or a person both trained on and held out."""
    again = "Prepare it again with this version of lgjax, into another folder"
    if ill := [f"{row.name} ({row.kind})" for row in rows if not is_healthy(row.kind)]:
        raise UsageError(f"{spec} has {len(ill)} subjects to train on who are not healthy: {listed(ill)}. {again}.")
    trained = {row.person for row in rows if row.split == "train"}
    if both := sorted({row.person for row in rows if row.split != "train"} & trained):
        raise UsageError(f"{spec} has scans of one person to train on and to calibrate on: {listed(both)}. {again}.")


def patients(rows: Sequence[Row]) -> str:
    """Returns the line for subjects of whom none is trained on."""
    stay = sum(row.kept for row in rows)
    others = f"; {stay} in the folder that --input does not have stay" if stay else ""
    return f"test {len(rows)}: prepared as another cohort, for no training{others}"


def warnings(rows: Sequence[Row], originals: Sequence[str] = ()) -> list[str]:
    """Says what is wrong before the work, and what to do: an empty split, people who may not be healthy, or be one.

    Args:
      rows: of all subjects.
      originals: names of scans as found, of which no table or pattern tells the person.
    """
    found = {split: [row for row in rows if row.split == split] for split in ("train", "calibration")}
    said = [f"nobody is in the {split} split, and train will refuse" for split in found if not found[split]]
    remedies = ["Give more subjects"] * len(said)
    persons = sorted({row.person for row in found["train"]})
    if said and len(persons) > 1:  # a tenth of them will do
        remedies[-1] += (
            f", or name some to calibrate on: --calibration={','.join(persons[-max(1, len(persons) // 10) :])}"
        )
    if marked := [row.name for row in rows if row.marked and row.split != "test" and not is_called_healthy(row.kind)]:
        said.append(f"{len(marked)} to train on have a segmentation of a lesion beside them: {listed(marked)}")
        remedies.append("Are they healthy? Prepare patients with --recipe=FOLDER, or tell their lesion_kind in a table")
    if alike := likely(originals):
        groups = [f"{start} ({listed(names)})" for start, names in alike.items()]
        said.append(f"taken for different persons: {listed(groups)}")
        remedies.append(
            "If they are scans of one person each, say so: a column `person` of participants.tsv, or "
            "--person=REGEX whose (group) is the person"
        )
    return [f"warning: {problem}. {remedy}." for problem, remedy in zip(said, remedies, strict=True)]


def listed(names: Sequence[str]) -> str:
    """Joins names, of which the first few are told."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _left_out(ill: Sequence[str]) -> list[str]:
    return [f"{len(ill)} left out, in no split but test: {listed(ill)}"] if ill else []


def _share(split: str, rows: Sequence[Row]) -> str:
    persons = [row.person for row in rows if row.split == split]
    several = len(set(persons)) < len(persons)
    return f"{split} {len(persons)}" + (f" (persons: {len(set(persons))})" if several else "")


def _several(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Returns the scans of each person who has more than one."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.person, []).append(row.name)
    return {person: names for person, names in sorted(found.items()) if len(names) > 1}
